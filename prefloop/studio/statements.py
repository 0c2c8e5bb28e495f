"""The statements by which items are given to people. Each is made once: making one takes longer than running it."""

from functools import cache
from typing import Literal

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import aliased

from prefloop.data.store import models, studio_models
from prefloop.data.store.models import UtcTime
from prefloop.studio import (
    people_tags,
)

Pool = Literal["work", "known", "practice", "qualification"]
"""Which items: those that people judge, known answers among them, and those that come before the work."""
_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow


@cache
def held() -> Select[studio_models.AssignmentRow]:
    """What the annotator holds in the project, oldest first."""
    return (
        select(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(
            _Task.project_id == bindparam("project"),
            _Assignment.annotator_id == bindparam("annotator"),
            _Assignment.state == "leased",
        )
        .order_by(_Assignment.leased_at, _Assignment.id)
    )


@cache
def slots() -> Select[int]:
    """How many completions an item has."""
    return select(func.count()).where(models.ItemCompletionRow.item_id == bindparam("item"))


@cache
def earlier() -> Select[studio_models.AssignmentRow]:
    """The annotator's earlier assignment of a task."""
    return select(_Assignment).where(
        _Assignment.task_id == bindparam("task"), _Assignment.annotator_id == bindparam("annotator")
    )


@cache
def expired() -> Select[studio_models.AssignmentRow]:
    """Leases that have run out."""
    return (
        select(_Assignment)
        .where(_Assignment.state == "leased", _Assignment.expires_at <= bindparam("now", type_=UtcTime()))
        .order_by(_Assignment.task_id)
        .with_for_update(skip_locked=True)
    )


@cache
def annotator_locked() -> Select[int]:
    """An annotator, locked."""
    return (
        select(models.AnnotatorRow.id)
        .where(models.AnnotatorRow.id == bindparam("annotator"))
        .with_for_update(key_share=True)
    )


@cache
def own() -> Select[studio_models.AssignmentRow, int, int]:
    """An annotator's assignment, locked, with its project and item."""
    return (
        select(_Assignment, _Task.project_id, _Task.item_id)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(_Assignment.token == bindparam("token"), _Assignment.annotator_id == bindparam("annotator"))
        .with_for_update(of=_Assignment)
    )


@cache
def judgement_with_key() -> Select[models.JudgementRow]:
    """The judgement with a key."""
    return select(_Judgement).where(_Judgement.idempotency_key == bindparam("key"))


@cache
def candidates(pool: Pool) -> Select[studio_models.TaskRow]:
    """Open tasks that the annotator has not been asked, best first; one row, locked."""
    annotator = bindparam("annotator")
    answered = select(_Assignment.id).where(
        _Assignment.task_id == _Task.id,
        _Assignment.annotator_id == annotator,
        _Assignment.state.not_in(("expired", "returned")),
    )
    later = aliased(_Judgement)
    superseded = select(later.id).where(later.supersedes_id == _Judgement.id)
    judged = select(_Judgement.id).where(
        _Judgement.item_id == _Task.item_id,
        _Judgement.annotator_id == annotator,
        _Judgement.choice != "withdrawn",
        ~superseded.exists(),
    )
    return (
        select(_Task)
        .where(
            _Task.project_id == bindparam("project"),
            _Task.gold == "" if pool == "work" else _Task.gold != "",
            _Task.stage == ("" if pool in ("work", "known") else pool),
            _Task.open,
            _Task.taken < _Task.overlap,
            ~answered.exists(),
            ~judged.exists(),
            *((people_tags.offered(annotator),) if pool == "work" else ()),
        )
        .order_by(_Task.queue, _Task.taken, _Task.position, _Task.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=_Task)
    )
