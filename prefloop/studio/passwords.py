"""Changing a password, and links that set a new one for somebody who has lost theirs. With a new password every session of the account ends."""

import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.errors import InputError
from prefloop.studio import audit
from prefloop.studio.accounts import Who, account_of, end_sessions, hash_of, hash_password, verify
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

RESET_HOURS = 24
_Account, _Reset = studio_models.AccountRow, studio_models.PasswordResetRow


def change_password(studio: Studio, who: Who, current: str, new: str) -> None:
    """A new password for who knows the current one; tokens for programs stay. Raises `InputError` if it does not fit or is too weak."""
    with studio.read() as session:
        stored = session.get_one(_Account, who.account).password_hash
    if not verify(stored, current):
        raise InputError("the current password is wrong; ask an admin for a reset link if you have lost it")
    if current == new:
        raise InputError("the new password is the current one; choose another")
    password_hash = hash_password(new, who.login)
    with studio.write() as session:
        row = account_of(session, who.account)
        _set(session, row, password_hash)
        audit.write(
            session,
            now=studio.clock(),
            annotator=who.annotator,
            action="change password",
            entity="account",
            id=row.id,
        )


def new_reset(studio: Studio, account: int, *, by: int | None) -> str:
    """A secret that sets a new password for an account, once, within a day; it goes into a link. Earlier ones no longer work.

    Whoever is signed in as them is signed out now; the present password works until the link is used.
    """
    secret, now = secrets.token_urlsafe(32), studio.clock()
    with studio.write() as session:
        row = account_of(session, account)
        if not row.active:
            raise InputError(f"{row.login} is deactivated; activate the account first")
        session.execute(delete(_Reset).where(_Reset.account_id == row.id))
        session.add(
            _Reset(
                token_sha256=hash_of(secret),
                account_id=row.id,
                created_at=now,
                expires_at=now + timedelta(hours=RESET_HOURS),
            )
        )
        end_sessions(session, row.id)
        audit.write(session, now=now, annotator=by, action="reset link", entity="account", id=row.id)
    return secret


def find_account(studio: Studio, login: str) -> int:
    """The account of a login; `InputError` names those there are."""
    with studio.read() as session:
        known = dict(session.execute(select(_Account.login, _Account.id).order_by(_Account.id)).all())
    name = login.strip().lower()
    if name not in known:
        raise InputError(f"there is no login {login!r}; known logins: {', '.join(known) or 'none yet'}")
    return known[name]


def reset_login(studio: Studio, secret: str) -> str:
    """Whose password a link sets; `NotFound` if it is spent, too old, or none."""
    with studio.read() as session:
        return _open(session, secret, studio.clock())[1].login


def reset(studio: Studio, secret: str, password: str) -> int:
    """Set a new password by a link; the account."""
    password_hash = hash_password(password, reset_login(studio, secret))
    now = studio.clock()
    with studio.write() as session:
        _, row = _open(session, secret, now, lock=True)
        _set(session, row, password_hash)
        audit.write(
            session,
            now=now,
            annotator=row.annotator_id,
            action="reset password",
            entity="account",
            id=row.id,
        )
        return row.id


def _open(
    session: Session, secret: str, now: datetime, *, lock: bool = False
) -> tuple[studio_models.PasswordResetRow, studio_models.AccountRow]:
    statement = (
        select(_Reset, _Account)
        .join(_Account, _Account.id == _Reset.account_id)
        .where(_Reset.token_sha256 == hash_of(secret), _Reset.expires_at > now, _Account.active)
    )
    found = session.execute(statement.with_for_update() if lock else statement).one_or_none()
    if found is None:
        raise NotFound("this link was used already, or has expired; ask an admin for a new one")
    return found[0], found[1]


def _set(session: Session, row: studio_models.AccountRow, password_hash: str) -> None:
    """The new password; sessions end, and links that would set another are void."""
    row.password_hash = password_hash
    end_sessions(session, row.id)
    session.execute(delete(_Reset).where(_Reset.account_id == row.id))
