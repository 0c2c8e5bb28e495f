"""Numbers and lists for pages: one's own count, what is left, the audit log."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, and_, bindparam, case, func, select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.studio import notes, onboarding, people_tags, quotas, statements
from prefloop.studio.service import Studio
from prefloop.studio.values import Project

MOST_LEFT = 100
"""What is left is counted up to here, for every item that is asked for: pages show `100+`."""
_Task, _Assignment = studio_models.TaskRow, studio_models.AssignmentRow


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


def counts(
    session: Session,
    project: Project,
    annotator: int,
    now: datetime,
    *,
    working: bool = False,
    sent_back: bool = True,
) -> tuple[int, int]:
    """Answers that somebody has given in a project, and those that they can still give, at most `MOST_LEFT`: items they hold, and items with a free
    place that they have neither answered nor passed over, up to their quota. Of a project that is not open, none. `working`: that they were just
    given an item, so that nothing stands in their way. `sent_back`: whether answers may have been sent back to them."""
    mine = {"project": project.id, "annotator": annotator}
    done, held, free = session.execute(_mine(), mine).one()
    if not working and (project.state != "open" or onboarding.gate(session, project, annotator).why):
        return done, 0
    allowed = quotas.allowance(session, project, annotator, now).left
    left = free + held if allowed is None else min(free + held, allowed)
    again = len(session.execute(notes.sent_back(), mine).all()) if sent_back else 0
    return done, min(MOST_LEFT, again + left)


def unanswered(session: Session, annotator: int, tokens: Collection[str]) -> list[str]:
    """Which of their assignments somebody still holds."""
    held = select(_Assignment.token).where(
        _Assignment.annotator_id == annotator, _Assignment.state == "leased", _Assignment.token.in_(tokens)
    )
    return list(session.scalars(held)) if tokens else []


def why_nothing(session: Session, project: Project, annotator: int, now: datetime) -> str:
    """Why somebody is asked nothing: they are paused, or a quota is reached. Empty where neither is so."""
    stands = onboarding.gate(session, project, annotator).why
    return stands or quota_reached(session, project, annotator, now)


def quota_reached(session: Session, project: Project, annotator: int, now: datetime) -> str:
    """That somebody has given as many answers as they may; empty where they have not."""
    return quotas.allowance(session, project, annotator, now).why


@cache
def _mine() -> Select[int, int, int]:
    """Answers given, leases held, and items with a free place that `assign` may offer to the annotator: these are counted up to `MOST_LEFT`, so that
    it takes no longer where there are more."""
    project, annotator = bindparam("project"), bindparam("annotator")
    mine = (_Assignment.project_id == project, _Assignment.annotator_id == annotator)
    answered = _Assignment.state.in_(("submitted", "surplus"))
    before_work = (
        select(func.count())
        .select_from(_Task)
        .join(_Assignment, and_(_Assignment.task_id == _Task.id, _Assignment.annotator_id == annotator))
        .where(_Task.project_id == project, _Task.stage.in_(("practice", "qualification")), answered)
        .scalar_subquery()
    )
    free = (
        select(_Task.id)
        .where(
            _Task.project_id == project,
            _Task.gold == "",
            _Task.open,
            _Task.taken < _Task.overlap,
            people_tags.offered(annotator),
            *statements.not_asked(annotator),
        )
        .limit(MOST_LEFT)
        .subquery()
    )
    return (
        select(
            func.count(case((answered, 1))) - before_work,
            func.count(case((_Assignment.state == "leased", 1))),
            select(func.count()).select_from(free).scalar_subquery(),
        )
        .select_from(_Assignment)
        .where(*mine)
    )


def events(studio: Studio, *, before: int | None, limit: int) -> list[Event]:
    """The audit log, newest first."""
    table = studio_models.AuditEventRow
    statement = (
        select(table, models.AnnotatorRow.name)
        .outerjoin(models.AnnotatorRow, models.AnnotatorRow.id == table.annotator_id)
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
