"""Words between who answered and who runs the project, on one answer: sent back with a note, answered anew, disputed, settled.

Notes are only ever added. The last one of an answer says where it stands: `sent_back` waits for the annotator, `dispute` for a manager, the others
for nobody.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import ColumnElement, Select, bindparam, exists, func, select
from sqlalchemy.orm import Session, aliased

from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.studio import audit

_Note, _Task, _Assignment = studio_models.NoteRow, studio_models.TaskRow, studio_models.AssignmentRow
LONGEST = 2000
"""Characters of a note."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaidNote:
    """A note."""

    kind: str
    by: str
    """Login, or pseudonym of who has none any more; for the annotator only `you` or `the project`."""
    text: str
    at: datetime


def add(
    session: Session, row: studio_models.AssignmentRow, kind: str, text: str, *, now: datetime, by: int
) -> None:
    """Write a note down, within a transaction."""
    text = text.replace("\r\n", "\n").strip()
    if not text and kind != "revised":
        raise InputError("the note is empty; write what is meant")
    if len(text) > LONGEST:
        raise InputError(f"the note has {len(text)} characters; {LONGEST} are the most")
    session.add(_Note(assignment_id=row.id, annotator_id=by, kind=kind, text=text, at=now))
    session.flush()
    audit.write(
        session,
        now=now,
        annotator=by,
        action={"sent_back": "send back", "revised": "revise", "dispute": "dispute", "settled": "settle"}[
            kind
        ],
        entity="assignment",
        id=row.id,
    )


def last_kind(session: Session, assignment: int) -> str:
    """Where an answer stands; empty for one without notes."""
    last = select(_Note.kind).where(_Note.assignment_id == assignment).order_by(_Note.id.desc()).limit(1)
    return session.scalar(last) or ""


def of(
    session: Session, assignments: Collection[int], *, reader: int | None = None
) -> dict[int, list[SaidNote]]:
    """Assignment -> its notes, oldest first. `reader`: the annotator who reads them, who is not told by whom they are."""
    account = studio_models.AccountRow
    rows = session.execute(
        select(_Note, models.AnnotatorRow.name, account.login)
        .outerjoin(models.AnnotatorRow, models.AnnotatorRow.id == _Note.annotator_id)
        .outerjoin(account, account.annotator_id == _Note.annotator_id)
        .where(_Note.assignment_id.in_(assignments))
        .order_by(_Note.id)
    )
    found: dict[int, list[SaidNote]] = {}
    for note, name, login in rows:
        named = login or name or ""
        told = named if reader is None else "you" if note.annotator_id == reader else "the project"
        found.setdefault(note.assignment_id, []).append(
            SaidNote(kind=note.kind, by=told, text=note.text, at=note.at)
        )
    return found


def is_last() -> ColumnElement[bool]:
    """Whether a note is the last one of its answer."""
    later = aliased(_Note)
    return ~exists().where(later.assignment_id == _Note.assignment_id, later.id > _Note.id)


def waiting(session: Session) -> dict[int, int]:
    """Project -> disputes that wait in it."""
    rows = session.execute(
        select(_Task.project_id, func.count())
        .join(_Assignment, _Assignment.task_id == _Task.id)
        .join(_Note, _Note.assignment_id == _Assignment.id)
        .where(_Note.kind == "dispute", is_last())
        .group_by(_Task.project_id)
    )
    return dict(rows.all())


@cache
def sent_back() -> Select[studio_models.AssignmentRow, str]:
    """The annotator's answers in a project that were sent back and wait for them, oldest first, with the note."""
    return (
        select(_Assignment, _Note.text)
        .join(_Note, _Note.assignment_id == _Assignment.id)
        .where(
            _Assignment.project_id == bindparam("project"),
            _Assignment.annotator_id == bindparam("annotator"),
            _Assignment.state.in_(("submitted", "surplus")),
            _Note.kind == "sent_back",
            is_last(),
        )
        .order_by(_Note.id)
    )
