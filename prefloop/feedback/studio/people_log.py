"""Numbers and lists for pages: one's own count, what is left, the audit log."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, case, func, select

from prefloop.data.store import models, studio_models
from prefloop.feedback.studio.service import Studio

_Task, _Assignment = studio_models.Task, studio_models.Assignment


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A row of the audit log."""

    id: int
    at: datetime
    pseudonym: str
    """Empty for the command line."""
    action: str
    entity: str
    entity_id: int
    detail: Any


def counts(studio: Studio, project: int, annotator: int) -> tuple[int, int]:
    """Answers that somebody has given in a project, and places it still has: free ones, and those that they hold themselves."""
    mine = {"project": project, "annotator": annotator}
    with studio.read() as session:
        done, held = session.execute(_mine(), mine).one()
        free = session.scalar(_free(), mine)
    return done, (free or 0) + held


@cache
def _mine() -> Select[int, int]:
    """Answers given, and leases held."""
    return (
        select(
            func.count(case((_Assignment.state.in_(("submitted", "surplus")), 1))),
            func.count(case((_Assignment.state == "leased", 1))),
        )
        .select_from(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(_Task.project_id == bindparam("project"), _Assignment.annotator_id == bindparam("annotator"))
    )


@cache
def _free() -> Select[int]:
    return select(func.coalesce(func.sum(_Task.overlap - _Task.taken), 0)).where(
        _Task.project_id == bindparam("project"), _Task.gold == "", _Task.open
    )


def events(studio: Studio, *, before: int | None, limit: int) -> list[Event]:
    """The audit log, newest first."""
    table = studio_models.AuditEvent
    statement = (
        select(table, models.Annotator.name)
        .outerjoin(models.Annotator, models.Annotator.id == table.annotator_id)
        .order_by(table.id.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(table.id < before)
    with studio.read() as session:
        return [
            Event(
                id=row.id,
                at=row.at,
                pseudonym=name or "",
                action=row.action,
                entity=row.entity,
                entity_id=row.entity_id,
                detail=row.detail,
            )
            for row, name in session.execute(statement)
        ]
