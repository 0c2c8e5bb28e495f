"""Numbers and lists for pages: one's own count, what is left, the audit log."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import CompoundSelect, Select, bindparam, case, func, literal, select, union_all
from sqlalchemy.orm import Session, aliased

from prefloop.data.store import models, studio_models
from prefloop.studio import notes, onboarding, people_tags, quotas
from prefloop.studio.service import Studio
from prefloop.studio.values import Project

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
    session: Session, project: Project, annotator: int, now: datetime, *, working: bool = False
) -> tuple[int, int]:
    """Answers that somebody has given in a project, and those that they can still give: items they hold, and items with a free place
    that they have neither answered nor passed over, up to their quota. Of a project that is not open, none. `working`: that they were just given
    an item, so that nothing stands in their way."""
    mine = {"project": project.id, "annotator": annotator}
    done, held = session.execute(_mine(), mine).one()
    if not working and (project.state != "open" or onboarding.gate(session, project, annotator).why):
        return done, 0
    free = session.scalars(_free(), mine).all()
    left = free[0] - free[1] + held
    allowed = quotas.allowance(session, project, annotator, now).left
    again = len(session.execute(notes.sent_back(), mine).all())
    return done, again + (left if allowed is None else min(left, allowed))


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
def _mine() -> Select[int, int]:
    """Answers given, and leases held."""
    return (
        select(
            func.count(case((_Assignment.state.in_(("submitted", "surplus")) & (_Task.stage == ""), 1))),
            func.count(case((_Assignment.state == "leased", 1))),
        )
        .select_from(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(_Task.project_id == bindparam("project"), _Assignment.annotator_id == bindparam("annotator"))
    )


@cache
def _free() -> CompoundSelect[int, int]:
    """Items with a free place, and how many of these `assign` will not offer to the annotator: what they have been asked is in few rows, so
    it is subtracted and not looked for beside each item."""
    free = (
        _Task.project_id == bindparam("project"),
        _Task.gold == "",
        _Task.open,
        _Task.taken < _Task.overlap,
    )
    annotator = bindparam("annotator")
    free = (*free, people_tags.offered(annotator))
    asked = select(_Assignment.task_id).where(
        _Assignment.annotator_id == annotator, _Assignment.state.not_in(("expired", "returned"))
    )
    later, judgement = aliased(models.JudgementRow), models.JudgementRow
    judged = select(judgement.item_id).where(
        judgement.annotator_id == annotator,
        judgement.choice != "withdrawn",
        ~select(later.id).where(later.supersedes_id == judgement.id).exists(),
    )
    all_of = select(func.count(), literal(0).label("part")).where(*free)
    mine = select(func.count(), literal(1)).where(*free, _Task.id.in_(asked) | _Task.item_id.in_(judged))
    return union_all(all_of, mine).order_by("part")


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
