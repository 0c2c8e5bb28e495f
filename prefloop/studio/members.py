"""The people of a project: who they are, and adding, changing and removing them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.studio import access, assign, audit, projects
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound, ProjectRole

_Account, _Member = studio_models.AccountRow, studio_models.MembershipRow
_Task, _Assignment = studio_models.TaskRow, studio_models.AssignmentRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Somebody who belongs to a project by name."""

    person: int
    """Number of the account."""
    login: str
    pseudonym: str
    role: str
    active: bool
    answers: int
    """Given in this project."""
    since: datetime


def members(studio: Studio, project: int) -> list[Member]:
    """The members of a project, by login."""
    answers = (
        select(func.count())
        .select_from(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(
            _Task.project_id == project,
            _Assignment.annotator_id == _Account.annotator_id,
            _Assignment.state.in_(("submitted", "surplus")),
        )
        .scalar_subquery()
    )
    with studio.read() as session:
        projects.project_of(session, project)
        rows = session.execute(
            select(_Account, _Member, models.AnnotatorRow.name, answers)
            .join(_Member, _Member.account_id == _Account.id)
            .join(models.AnnotatorRow, models.AnnotatorRow.id == _Account.annotator_id)
            .where(_Member.project_id == project, _Account.role != access.GUEST)
            .order_by(_Account.login)
        )
        return [
            Member(
                person=account.id,
                login=account.login,
                pseudonym=name,
                role=member.role,
                active=account.active,
                answers=count,
                since=member.created_at,
            )
            for account, member, name, count in rows
        ]


def roles(studio: Studio, annotator: int) -> dict[int, ProjectRole]:
    """Project -> the annotator's role, of the projects they belong to."""
    with studio.read() as session:
        return access.roles(session, annotator)


def require(studio: Studio, project: int, annotator: int, least: ProjectRole = "annotator") -> None:
    """Raise `NotFound` or `NotAllowed` unless the annotator's role in the project is `least` or more."""
    with studio.read() as session:
        access.check(session, project, annotator, least)


def set_member(studio: Studio, project: int, login: str, role: ProjectRole, *, by: int | None) -> None:
    """Make somebody a member, or give them another role. Raises `NotFound` for a login that is not there."""
    change(studio, project, add=(login,), role=role, by=by)


def change(
    studio: Studio,
    project: int,
    *,
    add: Sequence[str] = (),
    role: ProjectRole = "annotator",
    remove: Sequence[str] = (),
    by: int | None,
) -> None:
    """Make people members, or give them another role, and take others out, by login; all of it or nothing. `NotFound` names a login that is not there."""

    def work(session: Session) -> None:
        projects.project_of(session, project)
        for login in add:
            join(session, project, _account(session, login), role, now=studio.clock(), by=by)
        for login in remove:
            _remove(session, project, _account(session, login), now=studio.clock(), by=by)

    studio.write_twice(work)


def _account(session: Session, login: str) -> int:
    found = session.scalar(select(_Account.id).where(_Account.login == login.strip().lower()))
    if found is None:
        raise NotFound(f"there is no login {login.strip()!r}; invite them with a link")
    return found


def join(
    session: Session, project: int, account: int, role: ProjectRole, *, now: datetime, by: int | None
) -> None:
    """Write a membership down, within a transaction."""
    row = _membership(session, project, account)
    before = "" if row is None else row.role
    if before == role:
        return
    if row is None:
        session.add(_Member(project_id=project, account_id=account, role=role, created_at=now))
    else:
        row.role = role
    audit.write(
        session,
        now=now,
        annotator=by,
        action="change member" if before else "add member",
        entity="project",
        id=project,
        detail={"account": account, "role": role} | ({"from": before} if before else {}),
    )
    session.flush()


def remove(studio: Studio, project: int, person: int, *, by: int | None) -> None:
    """Take somebody out of a project. What they have in front of them goes back to the others; what they said stays."""
    with studio.write() as session:
        projects.project_of(session, project)
        _remove(session, project, person, now=studio.clock(), by=by)


def _remove(session: Session, project: int, person: int, *, now: datetime, by: int | None) -> None:
    row = _membership(session, project, person)
    if row is None:
        raise NotFound("this person is not a member of the project")
    session.delete(row)
    session.flush()
    assign.give_all_back(session, project, session.get_one(_Account, person).annotator_id)
    audit.write(
        session,
        now=now,
        annotator=by,
        action="remove member",
        entity="project",
        id=project,
        detail={"account": person},
    )


def _membership(session: Session, project: int, account: int) -> studio_models.MembershipRow | None:
    return session.scalars(
        select(_Member).where(_Member.project_id == project, _Member.account_id == account)
    ).one_or_none()
