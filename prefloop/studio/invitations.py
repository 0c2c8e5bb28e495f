"""Invitation links: each makes accounts, or adds people who have one, with a role in some projects; so many times, until a day, or until it is revoked."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.errors import InputError
from prefloop.studio import access, audit, members, projects
from prefloop.studio.accounts import Who, account_of, add_account, hash_of, hash_password, who_of
from prefloop.studio.service import Studio
from prefloop.studio.values import PROJECT_ROLES, NotAllowed, NotFound, checked_login

InvitedRole = Literal["annotator", "adjudicator", "manager", "admin"]
DAYS, MOST_DAYS, MOST_USES, LONGEST_NOTE = 7, 365, 1000, 100
SETUP_HOURS = 24
_Account, _Invitation = studio_models.AccountRow, studio_models.InvitationRow
_Link = studio_models.InvitationProjectRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Invited:
    """What a link gives."""

    role: InvitedRole
    projects: tuple[str, ...]
    """By name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link, for the list of them. What opens it is stored as a hash and cannot be shown again."""

    id: int
    note: str
    role: str
    projects: tuple[str, ...]
    uses: int
    most_uses: int
    state: Literal["pending", "used up", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime


def invite(
    studio: Studio,
    role: InvitedRole,
    *,
    to: Sequence[int] = (),
    uses: int = 1,
    days: int = DAYS,
    note: str = "",
    setup: bool = False,
    by: int | None = None,
) -> str:
    """A secret that goes into a link. `to`: projects that who comes belongs to; without any, `role` is that of the account.

    Raises `InputError` for a role that does not go with the projects, or numbers out of range; `NotAllowed` where `by` may not give that.
    """
    if not (1 <= uses <= MOST_USES and 1 <= days <= MOST_DAYS and len(note) <= LONGEST_NOTE):
        raise InputError(
            f"a link serves 1 to {MOST_USES} people, for 1 to {MOST_DAYS} days, with a note of {LONGEST_NOTE} characters at most"
        )
    if role == "admin" and to:
        raise InputError("an admin runs every project; leave the projects out")
    if role == "manager" and not to:
        raise InputError("a manager runs projects; name at least one")
    secret, now = secrets.token_urlsafe(32), studio.clock()
    with studio.write() as session:
        _check_may_give(session, to, by)
        row = _Invitation(
            token_sha256=hash_of(secret),
            role=role,
            setup=setup,
            note=note.strip(),
            uses=0,
            most_uses=uses,
            created_at=now,
            expires_at=now + (timedelta(hours=SETUP_HOURS) if setup else timedelta(days=days)),
            used_at=None,
            revoked_at=None,
        )
        session.add(row)
        session.flush()
        session.add_all(_Link(invitation_id=row.id, project_id=project) for project in dict.fromkeys(to))
        audit.write(
            session,
            now=now,
            annotator=by,
            action="invite",
            entity="invitation",
            id=row.id,
            detail={"role": role, "projects": list(to), "uses": uses, "days": days, "setup": setup},
        )
    return secret


def _check_may_give(session: Session, to: Sequence[int], by: int | None) -> None:
    """Whoever runs all of a link's projects may make and revoke it; one without projects, admins only. None is the command line."""
    if by is None:
        for project in to:
            projects.project_of(session, project)
        return
    if not to and not access.is_admin(session, by):
        raise NotAllowed("only an admin may do this for the whole studio; name projects that you manage")
    for project in to:
        access.check(session, project, by, "manager")


def look(studio: Studio, secret: str) -> Invited:
    """What a link gives; `NotFound` if it is used up, revoked, too old, or none."""
    with studio.read() as session:
        row = _open(session, secret, studio.clock())
        return Invited(role=_role(row), projects=tuple(_projects(session, row.id).values()))


def accept(studio: Studio, secret: str, login: str, password: str) -> Who:
    """Make an account by a link."""
    name = checked_login(login)
    hashed = hash_password(password, name)

    def work(session: Session) -> int:
        now = studio.clock()
        row = _open(session, secret, now, lock=True)
        to = _projects(session, row.id)
        account = add_account(session, name, hashed, "annotator" if to else row.role, now)
        _use(session, row, account, to, now)
        return account.id

    return who_of(studio, studio.write_twice(work))


def accept_as(studio: Studio, secret: str, who: Who) -> None:
    """Let somebody who has an account join a link's projects. They never lose a role by it.

    Raises `InputError` for a link without projects: it makes accounts, and they have one.
    """

    def work(session: Session) -> None:
        now = studio.clock()
        row = _open(session, secret, now, lock=True)
        to = _projects(session, row.id)
        if not to:
            raise InputError(f"this link makes an account, but you have one: {who.login}; sign out to use it")
        has = access.roles(session, who.annotator)
        offered = PROJECT_ROLES.index(_role(row))  # type: ignore[arg-type]  # no admin, as it has projects
        new = [id for id in to if id not in has or PROJECT_ROLES.index(has[id]) < offered]
        if new:
            _use(session, row, account_of(session, who.account), new, now)

    studio.write_twice(work)


def _use(
    session: Session, row: Any, account: studio_models.AccountRow, to: Sequence[int] | Any, now: datetime
) -> None:
    """Count a use, and write the memberships down."""
    row.uses, row.used_at = row.uses + 1, now
    audit.write(
        session,
        now=now,
        annotator=account.annotator_id,
        action="accept",
        entity="invitation",
        id=row.id,
        detail={"role": row.role},
    )
    for project in to:
        members.join(session, project, account.id, row.role, now=now, by=account.annotator_id)


def links(studio: Studio, *, by: int, project: int | None = None) -> list[Link]:
    """The links that somebody may revoke, newest first; of one project if it is named. The first of all, for setting up, is not among them."""
    now = studio.clock()
    with studio.read() as session:
        runs = {id for id, role in access.roles(session, by).items() if role == "manager"}
        admin = access.is_admin(session, by)
        found = []
        for row in session.scalars(
            select(_Invitation).where(~_Invitation.setup).order_by(_Invitation.id.desc())
        ):
            to = _projects(session, row.id)
            if (admin or (to and set(to) <= runs)) and (project is None or project in to):
                found.append(
                    Link(
                        id=row.id,
                        note=row.note,
                        role=row.role,
                        projects=tuple(to.values()),
                        uses=row.uses,
                        most_uses=row.most_uses,
                        state=_state(row, now),
                        created_at=row.created_at,
                        expires_at=row.expires_at,
                    )
                )
        return found


def revoke(studio: Studio, id: int, *, by: int | None) -> None:
    """Revoke a link. People who joined with it stay."""
    now = studio.clock()
    with studio.write() as session:
        row = session.get(_Invitation, id, with_for_update=True)
        if row is None:
            raise NotFound("there is no such invitation")
        _check_may_give(session, list(_projects(session, id)), by)
        if row.revoked_at is None:
            row.revoked_at = now
            audit.write(session, now=now, annotator=by, action="revoke", entity="invitation", id=id)


def _projects(session: Session, id: int) -> dict[int, str]:
    """Number -> name of a link's projects."""
    table = studio_models.ProjectRow
    rows = (
        select(table.id, table.name)
        .join(_Link, _Link.project_id == table.id)
        .where(_Link.invitation_id == id)
    )
    return dict(session.execute(rows.order_by(table.id)).all())  # type: ignore[arg-type]


def _role(row: studio_models.InvitationRow) -> InvitedRole:
    return row.role  # type: ignore[return-value]  # as the database checks


def _state(
    row: studio_models.InvitationRow, now: datetime
) -> Literal["pending", "used up", "expired", "revoked"]:
    if row.revoked_at is not None:
        return "revoked"
    if row.uses >= row.most_uses:
        return "used up"
    return "expired" if row.expires_at <= now else "pending"


def _open(session: Session, secret: str, now: datetime, *, lock: bool = False) -> studio_models.InvitationRow:
    statement = select(_Invitation).where(_Invitation.token_sha256 == hash_of(secret))
    row = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    over = row is not None and row.setup and session.scalar(select(_Account.id).limit(1)) is not None
    if row is None or over or _state(row, now) != "pending":
        raise NotFound("this link was used already, or has expired; ask for a new one")
    return row
