"""The statements by which items are given to people. Each is made once: making one takes longer than running it."""

from functools import cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, func, select
from sqlalchemy.orm import aliased

from prefloop.data.store import models, studio_models
from prefloop.data.store.models import UtcTime
from prefloop.studio import (
    people_tags,
)

Pool = Literal["work", "known", "practice", "qualification"]
"""Which items: those that people judge, known answers among them, and those that come before the work."""
_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow
_Account, _Member, _Project = studio_models.AccountRow, studio_models.MembershipRow, studio_models.ProjectRow


@cache
def held() -> Select[studio_models.AssignmentRow]:
    """What the annotator holds in the project, oldest first."""
    return (
        select(_Assignment)
        .where(
            _Assignment.project_id == bindparam("project"),
            _Assignment.annotator_id == bindparam("annotator"),
            _Assignment.state == "leased",
        )
        .order_by(_Assignment.leased_at, _Assignment.id)
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
def own() -> Select[
    studio_models.AssignmentRow, studio_models.TaskRow, studio_models.ProjectRow, int, str, str
]:
    """An annotator's assignment, locked, with its task and project, and what decides their role there: account, its role, membership's role."""
    return (
        select(_Assignment, _Task, _Project, _Account.id, _Account.role, _Member.role)
        .join(_Task, _Task.id == _Assignment.task_id)
        .join(_Project, _Project.id == _Task.project_id)
        .outerjoin(_Account, _Account.annotator_id == _Assignment.annotator_id)
        .outerjoin(_Member, and_(_Member.project_id == _Project.id, _Member.account_id == _Account.id))
        .where(_Assignment.token == bindparam("token"), _Assignment.annotator_id == bindparam("annotator"))
        .with_for_update(of=_Assignment)
    )


@cache
def said() -> Select[models.JudgementRow]:
    """What an annotator has said of an item, oldest first: the last one is current."""
    return (
        select(_Judgement)
        .where(_Judgement.item_id == bindparam("item"), _Judgement.annotator_id == bindparam("annotator"))
        .order_by(_Judgement.id)
    )


def not_asked(annotator: Any) -> tuple[ColumnElement[bool], ...]:
    """Conditions of a task: the annotator has neither answered nor passed over it, nor judged its item elsewhere.

    Each is a look into an index for each task. As joins, PostgreSQL may read all that somebody has ever answered before the first task, or take
    so few tasks for free that it sorts them all. A chain of judgements ends with the current one.
    """
    asked, judgement = aliased(_Assignment), aliased(_Judgement)
    answered = (
        select(case((asked.state.in_(("expired", "returned")), 0), else_=1))
        .where(asked.task_id == _Task.id, asked.annotator_id == annotator)
        .scalar_subquery()
    )
    judged = (
        select(case((judgement.choice == "withdrawn", 0), else_=1))
        .where(judgement.item_id == _Task.item_id, judgement.annotator_id == annotator)
        .order_by(judgement.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return func.coalesce(answered, 0) != 1, func.coalesce(judged, 0) != 1


@cache
def candidates(pool: Pool) -> Select[studio_models.TaskRow, studio_models.AssignmentRow]:
    """Open tasks that the annotator has not been asked, best first, with an assignment that they left unanswered; one row, its task locked.

    `ix_task_queue` has the whole order, so the database stops at the first one that fits.
    """
    annotator = bindparam("annotator")
    return (
        select(_Task, _Assignment)
        .outerjoin(_Assignment, and_(_Assignment.task_id == _Task.id, _Assignment.annotator_id == annotator))
        .where(
            _Task.project_id == bindparam("project"),
            _Task.gold == "" if pool == "work" else _Task.gold != "",
            _Task.stage == ("" if pool in ("work", "known") else pool),
            _Task.open,
            _Task.taken < _Task.overlap,
            *not_asked(annotator),
            *((people_tags.offered(annotator),) if pool == "work" else ()),
        )
        .order_by(_Task.queue, _Task.taken, _Task.position, _Task.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=_Task)
    )
