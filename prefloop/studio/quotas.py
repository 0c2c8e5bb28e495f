"""How many answers a person may give in a project, per day and in total.

Skips, practice and qualification count in neither. Whoever reaches a quota keeps what is in front of them: leases are counted before one more is given.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import Select, bindparam, case, func, select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.data.store.models import UtcTime
from prefloop.studio.values import Project

_Task, _Assignment = studio_models.TaskRow, studio_models.AssignmentRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What a person may still answer in a project."""

    left: int | None
    """Answers, those to what they hold among them; None for any number."""
    why: str
    """In words, that a quota is reached; empty if none is."""


def allowance(session: Session, project: Project, annotator: int, now: datetime) -> Allowance:
    """What a person may still answer. A day begins at midnight UTC."""
    row = project.settings
    if not row.daily_quota and not row.quota:
        return Allowance(left=None, why="")
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    mine = {"project": project.id, "annotator": annotator, "midnight": midnight}
    in_all, today = session.execute(_given(), mine).one()
    if row.quota and in_all >= row.quota:
        return Allowance(
            left=0, why=f"You have given all {row.quota} answers that this project asks of you. Thank you."
        )
    if row.daily_quota and today >= row.daily_quota:
        return Allowance(
            left=0,
            why=f"You have given today's {row.daily_quota} answers here. You can continue at midnight UTC.",
        )
    quotas = ((row.quota, in_all), (row.daily_quota, today))
    return Allowance(left=min(most - given for most, given in quotas if most), why="")


@cache
def _given() -> Select[int, int]:
    """Answers given in all, and since midnight."""
    since = _Assignment.finished_at >= bindparam("midnight", type_=UtcTime())
    return (
        select(func.count(), func.count(case((since, 1))))
        .select_from(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(
            _Assignment.project_id == bindparam("project"),
            _Task.stage == "",
            _Assignment.annotator_id == bindparam("annotator"),
            _Assignment.state.in_(("submitted", "surplus")),
        )
    )
