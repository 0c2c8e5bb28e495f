"""How an annotator stands in a project, read at once: the project, their role, the guidelines they have read, and what waits for them.

Everything that hands out items asks this first; as one statement it costs one journey to the database.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, exists, func, select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.studio import access, notes
from prefloop.studio.projects import project_from
from prefloop.studio.values import NotFound, Project

_Account, _Member, _Project = studio_models.AccountRow, studio_models.MembershipRow, studio_models.ProjectRow
_Reading, _Standing = studio_models.GuidelineReadingRow, studio_models.StandingRow
_Task, _Assignment, _Note = studio_models.TaskRow, studio_models.AssignmentRow, studio_models.NoteRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Stands:
    """An annotator in a project that they belong to."""

    project: Project
    annotator: int
    has_account: bool
    """Annotators without one are programs of whoever has the store."""
    read: frozenset[str]
    """Versions of the guidelines that they have said they have read."""
    state: str
    """Of `StandingRow`; empty for who has none."""
    qualified: bool
    why: str
    stages: bool
    """Whether the project has practice or qualification items."""
    sent_back: bool
    """Whether an answer of theirs, here or in another project, was sent back and waits for them."""


def of(session: Session, project: int, annotator: int) -> Stands:
    """How an annotator stands in a project. `NotFound` for one that is not there, or that they do not belong to."""
    row = session.execute(_stands(), {"project": project, "annotator": annotator}).one_or_none()
    if row is None or row[0].state == "deleted":
        raise NotFound(f"project {project} does not exist")
    found, account, own, member, read, state, qualified, why, stages, sent_back = row
    access.require(project, access.role(found.access, account, own, member))
    return Stands(
        project=project_from(found),
        annotator=annotator,
        has_account=account is not None,
        read=frozenset((read or "").split()),
        state=state or "",
        qualified=bool(qualified),
        why=why or "",
        stages=stages,
        sent_back=sent_back,
    )


@cache
def _stands() -> Select[studio_models.ProjectRow, int, str, str, str, str, bool, str, bool, bool]:
    annotator, project = bindparam("annotator"), bindparam("project")
    read = (
        select(func.aggregate_strings(_Reading.version, " "))
        .where(_Reading.project_id == project, _Reading.annotator_id == annotator)
        .scalar_subquery()
    )
    return (
        select(
            _Project,
            _Account.id,
            _Account.role,
            _Member.role,
            read,
            _Standing.state,
            _Standing.qualified,
            _Standing.why,
            _has_stages(project),
            _sent_back(annotator),
        )
        .select_from(_Project)
        .outerjoin(_Account, _Account.annotator_id == annotator)
        .outerjoin(_Member, and_(_Member.project_id == _Project.id, _Member.account_id == _Account.id))
        .outerjoin(_Standing, and_(_Standing.project_id == _Project.id, _Standing.annotator_id == annotator))
        .where(_Project.id == project)
    )


def _has_stages(project: Any) -> ColumnElement[bool]:
    return exists().where(_Task.project_id == project, _Task.stage.in_(("practice", "qualification")))


def _sent_back(annotator: Any) -> ColumnElement[bool]:
    return exists().where(
        _Note.assignment_id == _Assignment.id,
        _Assignment.annotator_id == annotator,
        _Note.kind == "sent_back",
        notes.is_last(),
    )
