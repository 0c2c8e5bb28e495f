"""Exports: data sets that are fixed by a content hash and know every judgement they are made of."""

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from prefloop.data.hashing import ContentHash
from prefloop.data.store import event_models, images, models
from prefloop.data.store.as_records import JudgedRecord, each_record
from prefloop.data.store.judging import prompt_of
from prefloop.data.store.selecting import PART, JudgedRow, each_judged, each_judged_of, judged_of, prompts
from prefloop.data.store.values import EXPORT_KINDS, AggregatedLabel, Export, ExportKind, Filters
from prefloop.data.store.writing import chunks, insert_new, now, sha256
from prefloop.data.write import IN_MEMORY, SplitDraft
from prefloop.errors import InputError
from prefloop.records import Comparison, Prompt

_Judgement = models.JudgementRow


class Taken:
    """A data set that was read: its hash, which rows it is made of, and the files that it is to be written to. Memory holds none of its records.

    Reading takes as long as the store is large, and holds no lock; `fix` then writes it down in a short transaction.
    """

    def __init__(self, kind: ExportKind, filters: Mapping[str, Any], label: str) -> None:
        if kind not in EXPORT_KINDS:
            raise InputError(f"kind of export is {kind!r}; it must be one of {', '.join(EXPORT_KINDS)}")
        self.kind: ExportKind = kind
        self.filters, self.label = filters, label
        self.left_out: Counter[str] = Counter()
        self.hash = ContentHash()
        self._erasures = 0
        self._open = ExitStack()
        self._members = self._open.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115
        self._draft: SplitDraft | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, session: Session, filters: Filters, path: Path | None, *, skip_bad: bool) -> None:
        """Read the records that pass the filters; they are also to be written to `path`. Files do not hold empty completions; `skip_bad` leaves
        them out."""
        found = self._found(session, filters, skip_bad=skip_bad)
        self._take(session, (((member,), record) for member, record in found), path)

    def read_aggregated(self, session: Session, pairs: Sequence[AggregatedLabel], path: Path | None) -> None:
        """Read the comparisons that several judgements each were made into; their judgements are the rows behind them."""
        judgements = sorted(judgement for pair in pairs for judgement in pair.judgements)
        rows = [row for ids in chunks(judgements) for row in judged_of(session, _Judgement.id.in_(ids))]
        records = _aggregated_records(pairs, rows)
        found = ((pair.judgements, record) for pair, record in zip(pairs, records, strict=True))
        self._take(session, found, path)

    def _take(
        self,
        session: Session,
        found: Iterable[tuple[Sequence[int], JudgedRecord | Prompt]],
        path: Path | None,
    ) -> None:
        self._erasures = _erasures(session)
        if path is not None:
            self._draft = self._open.enter_context(SplitDraft(path, image=partial(images.find, session)))
        for members, record in found:
            self._members.write(array("q", members).tobytes())
            self.hash.add(record)
            if self._draft is not None:
                self._draft.add(record)
        if not self.hash.records:
            raise InputError(self._nothing(session))

    def _found(
        self, session: Session, filters: Filters, *, skip_bad: bool
    ) -> Iterable[tuple[int, JudgedRecord | Prompt]]:
        """Each record with the row that it is made of."""
        if self.kind != "prompts":
            rows = each_judged(session, filters)
            return each_record(self.kind, rows, self.label, self.left_out, skip_bad=skip_bad)
        if self.filters.keys() - {"part", "heldout"}:
            raise InputError(
                f"an export of prompts cannot be filtered by {_in_words(self.filters)}; only part applies to prompts"
            )
        return prompts(session, part=filters.part, heldout=filters.heldout)

    def _nothing(self, session: Session) -> str:
        left_out = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items()) or "nothing"
        asked, way_out = (
            (f" with {_in_words(self.filters)}", ", or filter less") if self.filters else ("", "")
        )
        return f"{self.label}: no {self.kind} to export{asked} (left out: {left_out}){_others(session, self.kind)}; label first{way_out}"

    def fix(self, session: Session, pairs: Sequence[AggregatedLabel] = ()) -> Export:
        """Write the export down, unless it is there already, and its files. A file that cannot be written takes the export back with it."""
        if _erasures(session) != self._erasures:
            raise InputError(f"{self.label}: words were erased while this was exported; export it again")
        digest, rows = self.hash.hexdigest(), self.hash.records
        key = sha256([self.kind, self.filters, digest])
        same = select(models.ExportRow).where(models.ExportRow.key == key)
        known = session.scalars(same).one_or_none()
        if known is None:
            row = {
                "key": key,
                "kind": self.kind,
                "filters": self.filters,
                "sha256": digest,
                "rows": rows,
                "left_out": dict(self.left_out),
                "created_at": now(),
            }
            insert_new(session, models.ExportRow, [row], ["key"])
            known = session.scalars(same).one()
            self._write_members(session, known.id)
            _write_pairs(session, known.id, pairs)
        files = [] if self._draft is None else self._draft.write()
        return export_of(known, files=tuple((str(file.path), file.rows) for file in files))

    def _write_members(self, session: Session, export: int) -> None:
        table, column = MEMBER_TABLES[self.kind]
        self._members.seek(0)
        position = 0
        while part := self._members.read(8 * MEMBERS):
            ids = array("q", part)
            session.execute(
                insert(table),
                [{"export_id": export, "position": at, column: id} for at, id in enumerate(ids, position)],
            )
            position += len(ids)


MEMBERS = 10_000
"""Rows behind an export that are written at a time."""


def _write_pairs(session: Session, export: int, pairs: Sequence[AggregatedLabel]) -> None:
    rows = [
        {
            "export_id": export,
            "position": position,
            "item_id": pair.item,
            "choice": pair.choice,
            "p_soft": pair.p_soft,
        }
        for position, pair in enumerate(pairs)
    ]
    if rows:
        session.execute(insert(models.ExportPairRow), rows)


def _erasures(session: Session) -> int:
    """How often words were erased in this store."""
    return session.scalar(select(func.count()).select_from(event_models.ErasureRow)) or 0


_ASKED = {"comparisons": "pair", "rankings": "rank", "labels": "single", "scores": "single"}
"""Kind of export -> kind of item that its judgements are of."""
_JUDGED = {"pair": "comparisons", "rank": "rankings", "single": "labels or scores"}


def _others(session: Session, kind: ExportKind) -> str:
    """What else the store has judgements of, for those who asked for the wrong kind; empty for nothing."""
    item, judgement = models.ItemRow, models.JudgementRow
    judged = select(item.kind).distinct().join(judgement, judgement.item_id == item.id)
    there = session.scalars(judged.where(item.kind != _ASKED.get(kind)).order_by(item.kind)).all()
    if not there:
        return ""
    return f"; it has judgements of {' and '.join(_JUDGED[kind] for kind in there)}, which `prefer` trains on"


def _in_words(filters: Mapping[str, Any]) -> str:
    """Filters by the names of their settings."""
    return ", ".join(
        f"{'judged_by' if name == 'kinds' else name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in filters.items()
    )


def export_of(row: models.ExportRow, *, files: tuple[tuple[str, int], ...] = ()) -> Export:
    """A row as what callers are given."""
    kind: Any = row.kind
    return Export(
        id=row.id, kind=kind, sha256=row.sha256, rows=row.rows, left_out=dict(row.left_out), files=files
    )


MEMBER_TABLES: dict[str, tuple[type[models.Base], str]] = {
    "prompts": (models.ExportPromptRow, "prompt_id"),
    **dict.fromkeys(
        ("comparisons", "rankings", "labels", "scores", "demonstrations"),
        (models.ExportJudgementRow, "judgement_id"),
    ),
}


def exported(
    session: Session, id: int, label: str, *, erased: bool = False
) -> tuple[JudgedRecord | Prompt, ...]:
    """The records of an export, made again from the rows it is made of and checked against its hash.

    An export of which words were erased later, at a person's request, cannot be made again. `erased`: give it all the same, with the gaps.
    """
    return tuple(each_exported(session, id, label, erased=erased))


def each_exported(
    session: Session, id: int, label: str, *, erased: bool = False
) -> Iterator[JudgedRecord | Prompt]:
    """The same one at a time; the hash is checked behind the last one. Of an export that aggregates, memory holds the judgements."""
    row = session.get(models.ExportRow, id)
    if row is None:
        raise InputError(f"{label}: has no export {id}")
    found = ContentHash()
    for record in _again(session, row, label):
        found.add(record)
        yield record
    digest = found.hexdigest()
    if digest == row.sha256:
        return
    when = _erased_at(session, id)
    if when is not None and not erased:
        raise InputError(
            f"{label}: words in export {id} were erased on {when:%Y-%m-%d} at a person's request, so it cannot be used again; "
            "export the data again, or save a new version"
        )
    if when is None:
        raise InputError(
            f"{label}: export {id} hashes to {digest[:12]}, not {row.sha256[:12]} as when it was made; "
            "the store was changed from outside: restore a backup"
        )


def _again(session: Session, row: models.ExportRow, label: str) -> Iterator[JudgedRecord | Prompt]:
    """The records of an export, from the rows it is made of."""
    id = row.id
    if row.kind == "prompts":
        member = models.ExportPromptRow
        found = session.execute(
            select(models.PromptRow.content)
            .join(member, member.prompt_id == models.PromptRow.id)
            .where(member.export_id == id)
            .order_by(member.position)
            .execution_options(yield_per=PART)
        )
        yield from (prompt_of(content) for (content,) in found)
        return
    member = models.ExportJudgementRow
    members = select(member.judgement_id).where(member.export_id == id)
    # What was superseded later was current then.
    rows = (replace(row, superseded=False) for row in each_judged_of(session, _Judgement.id.in_(members)))
    if (
        session.scalar(
            select(models.ExportPairRow.position).where(models.ExportPairRow.export_id == id).limit(1)
        )
        is None
    ):
        yield from (record for _, record in each_record(row.kind, rows, label, Counter()))
        return
    behind = list(rows)
    yield from _aggregated_records(_pairs_of(session, id, behind), behind)


def _erased_at(session: Session, export: int) -> datetime | None:
    """When words of an export were erased; None if none were."""
    for row in session.scalars(select(event_models.ErasureRow).order_by(event_models.ErasureRow.id)):
        if export in row.proof["exports"]:
            return row.at
    return None


def _pairs_of(session: Session, id: int, rows: Sequence[JudgedRow]) -> list[AggregatedLabel]:
    """The comparisons of an export that aggregates; none of another."""
    behind: dict[int, list[int]] = {}
    for row in rows:
        behind.setdefault(row.item, []).append(row.id)
    table = models.ExportPairRow
    found = session.scalars(select(table).where(table.export_id == id).order_by(table.position))
    return [
        AggregatedLabel(
            item=pair.item_id,
            choice="a" if pair.choice == "a" else "b",
            p_soft=pair.p_soft,
            judgements=tuple(behind[pair.item_id]),
        )
        for pair in found
    ]


def _aggregated_records(pairs: Sequence[AggregatedLabel], rows: Sequence[JudgedRow]) -> list[Comparison]:
    """One comparison a pair; of a single judgement it keeps the annotator."""
    of_item = {row.item: row for row in rows}
    records = []
    for pair in pairs:
        row = of_item[pair.item]
        a, b = row.completions
        records.append(
            Comparison(
                prompt=row.prompt,
                chosen=a if pair.choice == "a" else b,
                rejected=b if pair.choice == "a" else a,
                annotator=row.annotator if len(pair.judgements) == 1 else "",
                p_soft=pair.p_soft,
                origin=f"item {pair.item}",
            )
        )
    return records
