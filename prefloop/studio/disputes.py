"""Answers sent back with a note, disputes of those who gave them, and how they are settled; see `notes`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import judging, models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.records import Prompt
from prefloop.studio import access, assign, history, notes
from prefloop.studio.notes import SaidNote
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

_Note, _Task, _Assignment = studio_models.NoteRow, studio_models.TaskRow, studio_models.AssignmentRow


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenDispute:
    """An answer that waits for whoever runs the project."""

    project: int
    project_name: str
    task: int
    token: str
    prompt: Prompt
    login: str
    """Of who answered, or their pseudonym."""
    said: str
    """Their answer in words, by the places that they saw."""
    notes: tuple[SaidNote, ...]


def send_back(studio: Studio, project: int, token: str, text: str, *, by: int) -> None:
    """Put an answer in front of its annotator again, with a note. It stays as it is until they answer anew.

    Raises `NotFound` for an answer that is not in the project, `Conflict` where it has been sent back already, or there is nobody to answer.
    """

    def work(session: Session) -> None:
        access.check(session, project, by, "manager")
        row = _row(session, token, project)
        if row.state not in ("submitted", "surplus"):
            raise Conflict("there is no answer to send back: it was skipped, undone or never given")
        if notes.last_kind(session, row.id) == "sent_back":
            raise Conflict("this answer has been sent back already, and waits for its annotator")
        account = studio_models.AccountRow
        there = select(account.id).where(account.annotator_id == row.annotator_id, account.active)
        if session.scalar(there) is None:
            raise Conflict("whoever gave this answer can no longer sign in; ask somebody else instead")
        if session.get_one(_Task, row.task_id).stage:
            raise Conflict("answers to practice and qualification items stand")
        notes.add(session, row, "sent_back", text, now=studio.clock(), by=by)

    studio.write_twice(work)


def dispute(studio: Studio, token: str, annotator: int, text: str) -> None:
    """Say why one's own answer is right, or that something is wrong with an item. Whoever runs the project reads it."""

    def work(session: Session) -> None:
        row, _, _ = assign.owned(session, token, annotator)
        if row.judgement_id is None:
            raise Conflict("answer the item first, or skip it; then say what is wrong with it")
        notes.add(session, row, "dispute", text, now=studio.clock(), by=annotator)

    studio.write_twice(work)


def settle(studio: Studio, project: int, token: str, text: str, *, by: int) -> None:
    """Close a dispute with an answer that its annotator reads."""

    def work(session: Session) -> None:
        access.check(session, project, by, "manager")
        row = _row(session, token, project)
        if notes.last_kind(session, row.id) != "dispute":
            raise Conflict("there is no open dispute here; somebody else may have settled it")
        notes.add(session, row, "settled", text, now=studio.clock(), by=by)

    studio.write_twice(work)


def _row(session: Session, token: str, project: int) -> studio_models.AssignmentRow:
    row = session.scalars(
        select(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(_Assignment.token == token, _Task.project_id == project)
        .with_for_update(of=_Assignment)
    ).one_or_none()
    if row is None:
        raise NotFound("there is no such answer in this project")
    return row


def open_disputes(studio: Studio, projects: Sequence[int], *, limit: int = 100) -> list[OpenDispute]:
    """Answers that wait for whoever runs these projects, the longest waiting first."""
    project, account, detail = (
        studio_models.ProjectRow,
        studio_models.AccountRow,
        studio_models.JudgementDetailRow,
    )
    with studio.read() as session:
        rows = session.execute(
            select(
                _Assignment,
                _Task,
                project,
                models.JudgementRow,
                detail,
                models.AnnotatorRow.name,
                account.login,
            )
            .join(_Note, _Note.assignment_id == _Assignment.id)
            .join(_Task, _Task.id == _Assignment.task_id)
            .join(project, project.id == _Task.project_id)
            .join(models.AnnotatorRow, models.AnnotatorRow.id == _Assignment.annotator_id)
            .outerjoin(account, account.annotator_id == _Assignment.annotator_id)
            .outerjoin(models.JudgementRow, models.JudgementRow.id == _Assignment.judgement_id)
            .outerjoin(detail, detail.judgement_id == _Assignment.judgement_id)
            .where(_Note.kind == "dispute", notes.is_last(), _Task.project_id.in_(projects))
            .order_by(_Note.id)
            .limit(limit)
        ).all()
        said_of = notes.of(session, [row.id for row, *_ in rows])
        items = judging.items(session, [task.item_id for _, task, *_ in rows])
        return [
            OpenDispute(
                project=asked.id,
                project_name=asked.name,
                task=task.id,
                token=row.token,
                prompt=item.prompt,
                login=login or name,
                said="taken back"
                if judgement is None
                else history.in_words(judgement, more, row.order_shown, asked.strength_levels),
                notes=tuple(said_of[row.id]),
            )
            for (row, task, asked, judgement, more, name, login), item in zip(rows, items, strict=True)
        ]
