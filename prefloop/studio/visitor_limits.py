"""What visitors of a public arena may do. The limits are counted in the store, so they hold on all workers."""

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.studio.access import GUEST

TALKING = timedelta(minutes=10)
"""Whoever wrote within this time is talking."""
_Account, _Participant = studio_models.AccountRow, studio_models.ParticipantRow
_Chat, _Turn, _Assignment = studio_models.ChatRow, studio_models.ChatTurnRow, studio_models.AssignmentRow


def check(session: Session, project: int, annotator: int, message: str, *, now: datetime) -> None:
    """Raise `Conflict` or `InputError`, in words for the person, where a visitor may not send this message now. Others are not limited by it."""
    if not _is_visitor(session, annotator):
        return
    row = session.get_one(studio_models.ProjectRow, project)
    if row.access != "public":
        raise Conflict("this arena no longer takes visitors")
    if len(message) > row.visitor_length:
        raise InputError(
            f"a message here has {row.visitor_length} characters at most; yours has {len(message)}"
        )
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    mine = (_Chat.project_id == project, _Chat.annotator_id == annotator, _Turn.created_at >= midnight)
    said = session.scalar(
        select(func.count()).select_from(_Turn).join(_Chat, _Chat.id == _Turn.chat_id).where(*mine)
    )
    if (said or 0) >= row.visitor_messages:
        raise Conflict(f"these were today's {row.visitor_messages} messages; come back after midnight UTC")
    if _talking(session, project, annotator, now - TALKING) >= row.visitor_chats:
        raise Conflict("too many people are talking at the moment; try again in some minutes")
    if _tokens(session, project, midnight) >= row.visitor_tokens:
        raise Conflict("today's answers are used up; come back after midnight UTC")


def _is_visitor(session: Session, annotator: int) -> bool:
    """Whether somebody is a guest whom no recruiting platform sent."""
    found = (
        select(_Account.id)
        .outerjoin(_Participant, _Participant.account_id == _Account.id)
        .where(_Account.annotator_id == annotator, _Account.role == GUEST, _Participant.id.is_(None))
    )
    return session.scalar(found) is not None


def _talking(session: Session, project: int, but: int, since: datetime) -> int:
    """Visitors who wrote since then, without one of them."""
    found = (
        select(func.count(_Chat.annotator_id.distinct()))
        .join(_Turn, _Turn.chat_id == _Chat.id)
        .join(_Account, _Account.annotator_id == _Chat.annotator_id)
        .where(
            _Chat.project_id == project,
            _Chat.annotator_id != but,
            _Account.role == GUEST,
            _Turn.created_at >= since,
        )
    )
    return session.scalar(found) or 0


def _tokens(session: Session, project: int, since: datetime) -> int:
    """Tokens of the answers that visitors were given since then."""
    slot, completion, task = models.ItemCompletionRow, models.CompletionRow, studio_models.TaskRow
    found = (
        select(func.coalesce(func.sum(completion.tokens), 0))
        .select_from(_Turn)
        .join(_Chat, _Chat.id == _Turn.chat_id)
        .join(_Account, _Account.annotator_id == _Chat.annotator_id)
        .join(_Assignment, _Assignment.id == _Turn.assignment_id)
        .join(task, task.id == _Assignment.task_id)
        .join(slot, slot.item_id == task.item_id)
        .join(completion, completion.id == slot.completion_id)
        .where(_Chat.project_id == project, _Account.role == GUEST, _Turn.created_at >= since)
    )
    return session.scalar(found) or 0
