"""Who may do what in a project. Asked in the transaction that does it, so nobody does more than they may at that moment.

An admin runs every project. Others have the role of their membership; in a project that is open to everybody, who is no member has the role that
their account has. Annotators without an account are programs of whoever has the store: they may work everywhere.
"""

from functools import cache

from sqlalchemy import Select, and_, bindparam, select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.studio.values import PROJECT_ROLES, NotAllowed, NotFound, ProjectRole

GUEST = "guest"
"""Role of an account that somebody without one is given: it belongs to one project."""
_Account, _Member, _Project = studio_models.AccountRow, studio_models.MembershipRow, studio_models.ProjectRow


@cache
def _standing(*, one: bool) -> Select[int, str, int, str, str]:
    """What decides an annotator's role: project, its access, account and its role, membership's role. `one`: of one project only."""
    statement = (
        select(_Project.id, _Project.access, _Account.id, _Account.role, _Member.role)
        .select_from(_Project)
        .outerjoin(_Account, _Account.annotator_id == bindparam("annotator"))
        .outerjoin(_Member, and_(_Member.project_id == _Project.id, _Member.account_id == _Account.id))
        .where(_Project.state != "deleted")
    )
    return statement.where(_Project.id == bindparam("project")) if one else statement


def role(access: str, account: int | None, own: str, member: str | None) -> ProjectRole | None:
    """An annotator's role in a project: from its access, their account and its role, and the role of their membership."""
    if account is None or own == "admin":
        return "manager"
    if member is not None:
        return member  # type: ignore[return-value]  # as the database checks
    return own if access != "members" and own != GUEST else None  # type: ignore[return-value]


def roles(session: Session, annotator: int) -> dict[int, ProjectRole]:
    """Project -> the annotator's role, of the projects they belong to."""
    rows = session.execute(_standing(one=False), {"annotator": annotator})
    found: dict[int, ProjectRole | None] = {row[0]: role(*row[1:]) for row in rows}
    return {project: own for project, own in found.items() if own is not None}


def check(session: Session, project: int, annotator: int, least: ProjectRole = "annotator") -> None:
    """Raise `NotFound` for a project that the annotator does not belong to, `NotAllowed` where their role there is below `least`."""
    row = session.execute(_standing(one=True), {"project": project, "annotator": annotator}).one_or_none()
    require(project, None if row is None else role(*row[1:]), least)


def require(project: int, own: ProjectRole | None, least: ProjectRole = "annotator") -> None:
    """As `check`, of a role that is known."""
    if own is None:
        raise NotFound(f"project {project} does not exist")  # as for one that is not: nobody is told more
    if PROJECT_ROLES.index(own) < PROJECT_ROLES.index(least):
        raise NotAllowed(f"only {least}s of this project may do this")


def is_admin(session: Session, annotator: int) -> bool:
    """Whether an annotator's account is an admin's."""
    found = select(_Account.id).where(_Account.annotator_id == annotator, _Account.role == "admin")
    return session.scalar(found) is not None
