"""Accounts of people who come by single sign-on. A person is the provider's `sub`; the address counts once, when an account is found or made by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from prefloop.configs.sign_in import SignIn
from prefloop.data.store import studio_models
from prefloop.studio import accounts, audit, members
from prefloop.studio.oidc import Identity, Provider
from prefloop.studio.service import Studio
from prefloop.studio.values import NotAllowed, checked_login

_Account, _Identity = studio_models.AccountRow, studio_models.IdentityRow


@dataclass(frozen=True, kw_only=True, slots=True)
class _Newcomer:
    """Somebody whom no account is linked to yet, and what they get."""

    identity: Identity
    settings: SignIn
    projects: Sequence[int]
    now: datetime


def account_for(studio: Studio, provider: Provider, identity: Identity) -> int:
    """The account of somebody whom a provider signed in: theirs from before, one whose login is their verified address, or a new one.

    Raises `NotAllowed`, in words for the person, where there is none for them.
    """
    settings = provider.settings
    if settings.domains and not provider.admits(identity.email):
        raise NotAllowed(_not_admitted(settings.name, identity.email))
    with studio.read() as session:
        known = _known(session, identity)
        if known is not None:
            return _if_active(known)
    newcomer = _Newcomer(
        identity=identity,
        settings=settings,
        projects=[studio.find_project(name).id for name in settings.projects],
        now=studio.clock(),
    )
    return studio.write_twice(lambda session: _first_time(session, newcomer))


def _first_time(session: Session, newcomer: _Newcomer) -> int:
    known = _known(session, newcomer.identity)  # another window of theirs may have been quicker
    if known is not None:
        return _if_active(known)
    email = newcomer.identity.email
    row = session.scalars(select(_Account).where(_Account.login == email)).one_or_none() if email else None
    return _make(session, newcomer) if row is None else _link(session, row, newcomer)


def _link(session: Session, row: studio_models.AccountRow, newcomer: _Newcomer) -> int:
    """Give an account to who has its login as a verified address. Somebody else may have chosen that login, so nothing of theirs opens it any more."""
    _if_active(row)
    row.password_hash = accounts.no_password()
    accounts.end_sessions(session, row.id)
    for table in (studio_models.ApiTokenRow, studio_models.PasswordResetRow):
        session.execute(delete(table).where(table.account_id == row.id))
    return _remember(session, row, newcomer, "link sign-in")


def _make(session: Session, newcomer: _Newcomer) -> int:
    """A new account, where the settings want one."""
    settings, now = newcomer.settings, newcomer.now
    if not settings.domains:
        raise NotAllowed(_no_account(settings.name, newcomer.identity.email))
    login = checked_login(newcomer.identity.email)
    row = accounts.add_account(session, login, accounts.no_password(), settings.role, now)
    for project in newcomer.projects:
        members.join(session, project, row.id, settings.role, now=now, by=row.annotator_id)
    return _remember(session, row, newcomer, "sign up")


def _remember(session: Session, row: studio_models.AccountRow, newcomer: _Newcomer, action: str) -> int:
    who, now = newcomer.identity, newcomer.now
    session.add(_Identity(account_id=row.id, issuer=who.issuer, subject=who.subject, created_at=now))
    audit.write(session, now=now, annotator=row.annotator_id, action=action, entity="account", id=row.id)
    return row.id


def _known(session: Session, identity: Identity) -> studio_models.AccountRow | None:
    """The account that a provider's person has."""
    return session.scalars(
        select(_Account)
        .join(_Identity, _Identity.account_id == _Account.id)
        .where(_Identity.issuer == identity.issuer, _Identity.subject == identity.subject)
    ).one_or_none()


def _if_active(row: studio_models.AccountRow) -> int:
    if not row.active:
        raise NotAllowed("your account is deactivated; ask an admin of this studio")
    return row.id


def _not_admitted(name: str, email: str) -> str:
    if not email:
        return f"{name} names no e-mail address of yours that it has verified; verify it there, or ask an admin of this studio"
    return f"{email} may not sign in here: only some domains may; ask an admin of this studio"


def _no_account(name: str, email: str) -> str:
    if not email:
        return _not_admitted(name, email)
    return f"{email} has no account here; ask an admin of this studio for an invitation, and choose this address as your login"
