"""Dataset versions: exports that were saved under a name, and how two of them differ."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from prefloop.data.hashing import canonical_json
from prefloop.data.store import models
from prefloop.data.store.as_records import JudgedRecord
from prefloop.data.store.exporting import export_of, exported
from prefloop.data.store.values import Changes, DatasetVersion
from prefloop.data.store.writing import now
from prefloop.errors import InputError
from prefloop.records import Comparison, Demonstration, Label, Prompt, Ranking, Score

Taken = JudgedRecord | Prompt
T = TypeVar("T")
NAME = "letters, digits, '.', '_' and '-', 100 at most, and it begins with a letter or a digit"


@dataclass(frozen=True, kw_only=True, slots=True)
class Relabelled(Generic[T]):
    """One question whose label differs."""

    before: T
    after: T


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What is in one data set and not in another, in the order of its records."""

    added: tuple[Taken, ...]
    removed: tuple[Taken, ...]
    changed: tuple[Relabelled[Taken], ...]
    """The same prompt, completions and annotator, and another label: another side, order, number, certainty or margin."""
    same: int

    @property
    def changes(self) -> Changes:
        """How many of each."""
        return Changes(
            added=len(self.added), removed=len(self.removed), changed=len(self.changed), same=self.same
        )


def difference(before: Sequence[Taken], after: Sequence[Taken]) -> Difference:
    """How the records of `after` differ from those of `before`. The order of records is no difference."""
    old: dict[Any, list[Taken]] = {}
    for record in before:
        old.setdefault(_question(record), []).append(record)
    added: list[Taken] = []
    changed: list[Relabelled[Taken]] = []
    same = 0
    unmatched: list[tuple[Any, Taken]] = []
    for record in after:
        there = old.get(_question(record), [])
        line = canonical_json(record)
        equal = next((at for at, record in enumerate(there) if canonical_json(record) == line), None)
        if equal is None:
            unmatched.append((_question(record), record))
        else:
            there.pop(equal)
            same += 1
    for question, record in unmatched:
        if there := old.get(question):
            changed.append(Relabelled(before=there.pop(0), after=record))
        else:
            added.append(record)
    left = {id(record) for there in old.values() for record in there}
    removed = tuple(record for record in before if id(record) in left)
    return Difference(added=tuple(added), removed=removed, changed=tuple(changed), same=same)


def _question(record: Taken) -> tuple[Any, ...]:
    """What was asked of whom, without the answer."""
    match record:
        case Prompt():
            return (record.sha256,)
        case Comparison():
            texts = frozenset((record.chosen, record.rejected))
            return (record.prompt.sha256, texts, record.annotator)
        case Ranking():
            return (record.prompt.sha256, frozenset(record.completions), record.annotator)
        case Label() | Score():
            return (record.prompt.sha256, record.completion, record.annotator)
        case Demonstration():
            return (record.prompt.sha256, record.completion)


def save(
    session: Session,
    name: str,
    export: int,
    label: str,
    *,
    chosen: Mapping[str, Any],
    note: str,
    annotator: int | None,
) -> tuple[DatasetVersion, bool]:
    """The version of a name that is this export, and whether it is new: the newest one where that is the same export.

    Raises `InputError` for a name that cannot be one, and where the name is that of records of another kind.
    """
    check_name(name)
    table = models.DatasetVersionRow
    taken = session.get_one(models.ExportRow, export)
    newest = session.execute(
        _versions().where(table.name == name).order_by(table.version.desc()).limit(1)
    ).one_or_none()
    before: Sequence[Taken] = ()
    if newest is not None:
        _, previous, _ = newest
        if previous.kind != taken.kind:
            raise InputError(
                f"dataset {name} holds {previous.kind}, but these are {taken.kind}; give them another name"
            )
        if previous.id == export:
            return _value(newest), False
        before = exported(session, previous.id, label, erased=True)
    changes = difference(before, exported(session, export, label)).changes
    made = table(
        name=name,
        version=1 if newest is None else newest[0].version + 1,
        export_id=export,
        chosen=dict(chosen),
        changes={part: getattr(changes, part) for part in ("added", "removed", "changed", "same")},
        note=note,
        annotator_id=annotator,
        created_at=now(),
    )
    session.add(made)
    session.flush()
    return _value(session.execute(_versions().where(table.id == made.id)).one()), True


def check_name(name: str) -> None:
    """Raise `InputError` for what cannot be a dataset's name."""
    fits = (
        name.isascii() and name[:1].isalnum() and all(letter.isalnum() or letter in "._-" for letter in name)
    )
    if not fits or len(name) > 100:
        raise InputError(f"dataset's name is {name!r}; it is {NAME}")


def versions(session: Session, name: str = "") -> list[DatasetVersion]:
    """All versions, or those of one name, by name and number. `InputError`, with near names, for one that is not there."""
    table = models.DatasetVersionRow
    statement = _versions().order_by(table.name, table.version)
    if name:
        statement = statement.where(table.name == name)
    found = [_value(row) for row in session.execute(statement)]
    if name and not found:
        raise InputError(_no_such(session, name))
    return found


def find(session: Session, given: str) -> DatasetVersion:
    """The version that `NAME@3` names, or the newest one of `NAME`."""
    name, at, number = given.partition("@")
    found = versions(session, name) if name else []
    if not found:
        raise InputError(f"dataset is {given!r}; write it as NAME, or NAME@3 for version 3")
    if not at:
        return found[-1]
    for dataset in found:
        if number == str(dataset.version):
            return dataset
    raise InputError(f"dataset {name} has no version {number!r}; the newest is {found[-1].label}")


def names_of_export(session: Session, export: int) -> list[str]:
    """The versions that an export was saved as, as `NAME@3`."""
    table = models.DatasetVersionRow
    rows = session.execute(
        select(table.name, table.version).where(table.export_id == export).order_by(table.id)
    )
    return [f"{name}@{version}" for name, version in rows]


def _no_such(session: Session, name: str) -> str:
    known = sorted(set(session.scalars(select(models.DatasetVersionRow.name))))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0)
    there = f"the nearest are {', '.join(near)}" if near else "save one with `prefloop data save`"
    return f"dataset {name!r} is not in the store; {there}"


def _versions() -> Select[models.DatasetVersionRow, models.ExportRow, str]:
    return (
        select(models.DatasetVersionRow, models.ExportRow, models.AnnotatorRow.name)
        .join(models.ExportRow, models.ExportRow.id == models.DatasetVersionRow.export_id)
        .outerjoin(models.AnnotatorRow, models.AnnotatorRow.id == models.DatasetVersionRow.annotator_id)
    )


def _value(found: Row[models.DatasetVersionRow, models.ExportRow, str]) -> DatasetVersion:
    row, export, made_by = found
    return DatasetVersion(
        name=row.name,
        version=row.version,
        export=export_of(export),
        chosen=row.chosen,
        changes=Changes(**row.changes),
        note=row.note,
        made_by=made_by or "",
        created_at=row.created_at,
    )
