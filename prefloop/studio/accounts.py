"""People: accounts, signing in, browser sessions, tokens for programs, and removing somebody.

Passwords are kept as Argon2id; everything else that opens a door (cookie, token, link) is random, shown once, and kept as a SHA-256. An annotator's name
in the store is a pseudonym from the beginning; the person stands in the account, which can be deleted.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from threading import BoundedSemaphore
from typing import Any, Literal

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy import ColumnElement, Exists, Select, bindparam, case, delete, exists, func, select, update
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.data.store.models import UtcTime
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.studio import access, audit, tallies
from prefloop.studio.service import Studio
from prefloop.studio.values import NotAllowed, NotFound, checked_login

Role = Literal["admin", "annotator", "adjudicator", "guest"]
Scope = Literal["read", "annotate", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "annotate", "admin")
SESSION_DAYS = 14
SEEN_EVERY = timedelta(minutes=10)
"""How often it is written down that a session is in use."""
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200
TOKEN_MARK = "pf_"

_hasher = PasswordHasher()
_few = BoundedSemaphore(2)
"""Each check takes 64 MiB; many at once, for somebody who tries passwords, would take all memory."""
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))
"""Checked where there is no such login, so that it takes as long."""
_Account, _Session, _Token = studio_models.AccountRow, studio_models.WebSessionRow, studio_models.ApiTokenRow
_Member = studio_models.MembershipRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Who:
    """Who is asking."""

    account: int
    annotator: int
    login: str
    role: Role
    scopes: tuple[Scope, ...]
    csrf: str
    """What forms of this session must carry; empty for tokens, which no browser sends by itself."""
    settings: dict[str, Any]
    leads: Literal["", "adjudicator", "manager"]
    """The most that this person's memberships make of them in any project."""

    @property
    def is_admin(self) -> bool:
        """Whether this person, with this session or token, may administer."""
        return self.role == "admin" and "admin" in self.scopes

    @property
    def may_adjudicate(self) -> bool:
        """Whether there may be a project where this person decides where others disagree; `access` says in which."""
        return self.role in ("admin", "adjudicator") or self.leads != ""

    @property
    def may_manage(self) -> bool:
        """Whether this person, with this session or token, may run some project; `access` says which."""
        return (self.role == "admin" or self.leads == "manager") and "admin" in self.scopes


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """An account, for the list of people."""

    account: int
    annotator: int
    login: str
    pseudonym: str
    role: str
    active: bool
    created_at: datetime
    judgements: int
    sessions: int
    """Browsers that are signed in."""
    second_factor: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenInfo:
    """A token for programs, for the list of them."""

    id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None


def hash_of(secret: str) -> str:
    """What is stored of a random secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_set_up(studio: Studio) -> bool:
    """Whether anybody has an account."""
    with studio.read() as session:
        return session.scalar(select(_Account.id).limit(1)) is not None


def add_person(studio: Studio, login: str, password: str, role: Role) -> Who:
    """Make an account without an invitation: for the command line, tests and demonstrations."""
    name = checked_login(login)
    hashed = hash_password(password, name)
    id = studio.write_twice(lambda session: add_account(session, name, hashed, role, studio.clock()).id)
    return who_of(studio, id)


def who_of(studio: Studio, account: int) -> Who:
    """The person of an account, without a session."""
    with studio.read() as session:
        return _who(session.get_one(_Account, account), scopes=SCOPES, csrf="")


def add_account(
    session: Session, login: str, password_hash: str, role: str, now: datetime
) -> studio_models.AccountRow:
    """Write an account down, within a transaction; `Conflict` for a login that is taken."""
    if session.scalar(select(_Account.id).where(_Account.login == login)) is not None:
        raise Conflict(f"the login {login} is taken; choose another one")
    annotator = models.AnnotatorRow(
        name=f"person-{secrets.token_hex(4)}", kind="human", settings={"by": "studio"}, created_at=now
    )
    session.add(annotator)
    session.flush()
    account = _Account(
        annotator_id=annotator.id,
        login=login,
        password_hash=password_hash,
        role=role,
        active=True,
        settings={},
        created_at=now,
        totp_secret="",
        totp_step=0,
        totp_failures=0,
        totp_blocked_until=None,
    )
    session.add(account)
    session.flush()
    return account


def hash_password(password: str, login: str) -> str:
    """What is stored of a password; `InputError` for one that is too short, too long or too easily guessed."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InputError(
            f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; this one has {len(password)}"
        )
    if password.lower() == login or len(set(password)) < 4:
        raise InputError("this password is too easily guessed; choose a longer one, or three words")
    with _few:
        return _hasher.hash(password)


def password_fits(studio: Studio, login: str, password: str) -> int | None:
    """The account of a login and its password; None if they do not fit, which takes as long."""
    with studio.read() as session:
        found = session.scalars(
            select(_Account).where(_Account.login == login.strip().lower(), _Account.active)
        ).one_or_none()
        stored = _NOBODY if found is None else found.password_hash
        account = None if found is None else found.id
    return account if verify(stored, password) else None


def no_password() -> str:
    """What is stored for somebody who has none: the hash of one that nobody knows."""
    return _NOBODY


def verify(stored: str, password: str) -> bool:
    """Whether a password is the one whose hash is stored."""
    with _few:
        try:
            return _hasher.verify(stored, password[: LONGEST_PASSWORD + 1])
        except VerificationError:
            return False


def open_session(studio: Studio, account: int, browser: str = "") -> str:
    """The cookie of a new session. `browser`: what its owner will know it by."""
    secret, now = secrets.token_urlsafe(32), studio.clock()
    with studio.write() as session:
        session.execute(delete(_Session).where(_Session.expires_at <= now))
        session.add(
            _Session(
                token_sha256=hash_of(secret),
                csrf=secrets.token_urlsafe(24),
                account_id=account,
                created_at=now,
                expires_at=now + timedelta(days=SESSION_DAYS),
                seen_at=now,
                browser=browser,
            )
        )
        audit.write(
            session,
            now=now,
            annotator=session.get_one(_Account, account).annotator_id,
            action="sign in",
            entity="account",
            id=account,
        )
    return secret


def of_session(studio: Studio, secret: str) -> Who | None:
    """Who a cookie belongs to."""
    now = studio.clock()
    with studio.store.database.look() as session:
        row = session.execute(_by_cookie(), {"hash": hash_of(secret), "now": now}).one_or_none()
        if row is None:
            return None
        account, csrf, leads, id, seen = row
        who = _who(account, scopes=SCOPES, csrf=csrf, leads=leads)
    if now - seen >= SEEN_EVERY:
        with studio.write(durable=False) as session:
            session.execute(update(_Session).where(_Session.id == id).values(seen_at=now))
    return who


def _leads() -> ColumnElement[str]:
    """The most that an account's memberships make of it in any project."""

    def is_one(role: str) -> Exists:
        return exists().where(_Member.account_id == _Account.id, _Member.role == role)

    return case((is_one("manager"), "manager"), (is_one("adjudicator"), "adjudicator"), else_="")


@cache
def _by_cookie() -> Select[studio_models.AccountRow, str, str, int, datetime]:
    """The account of a session. Made once: every request asks for it."""
    return (
        select(_Account, _Session.csrf, _leads(), _Session.id, _Session.seen_at)
        .join(_Session, _Session.account_id == _Account.id)
        .where(
            _Session.token_sha256 == bindparam("hash"),
            _Session.expires_at > bindparam("now", type_=UtcTime()),
            _Account.active,
        )
    )


@cache
def _by_token() -> Select[studio_models.AccountRow, studio_models.ApiTokenRow, str]:
    """The account of a token."""
    return (
        select(_Account, _Token, _leads())
        .join(_Token, _Token.account_id == _Account.id)
        .where(_Token.token_sha256 == bindparam("hash"), _Account.active)
    )


def end_sessions(session: Session, account: int) -> None:
    """Sign somebody out everywhere."""
    session.execute(delete(_Session).where(_Session.account_id == account))


def sign_out(studio: Studio, secret: str) -> None:
    """End a session."""
    with studio.write() as session:
        session.execute(delete(_Session).where(_Session.token_sha256 == hash_of(secret)))


def new_token(studio: Studio, who: Who, name: str, scopes: Sequence[str], *, days: int | None = 90) -> str:
    """A token for programs, shown this once. It can do no more than the person."""
    if not 0 < len(name.strip()) <= 60:
        raise InputError("a token's name has 1 to 60 characters")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise InputError(f"scopes are {', '.join(scopes) or 'none'}; they must be of {', '.join(SCOPES)}")
    if who.role == access.GUEST:
        raise NotAllowed("only people with an account can have a token")
    if "admin" in scopes and not who.may_manage:
        raise NotAllowed("only the token of an admin or of a project's manager can have the scope admin")
    prefix, now = f"{TOKEN_MARK}{secrets.token_hex(4)}", studio.clock()
    secret = f"{prefix}_{secrets.token_urlsafe(32)}"
    with studio.write() as session:
        row = _Token(
            name=name.strip(),
            prefix=prefix,
            token_sha256=hash_of(secret),
            account_id=who.account,
            scopes=[scope for scope in SCOPES if scope in scopes],
            created_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
        session.add(row)
        session.flush()
        audit.write(
            session,
            now=now,
            annotator=who.annotator,
            action="new token",
            entity="api_token",
            id=row.id,
            detail={"scopes": list(scopes)},
        )
    return secret


def of_token(studio: Studio, secret: str) -> Who | None:
    """Who a token belongs to."""
    if not secret.startswith(TOKEN_MARK):
        return None
    with studio.store.database.look() as session:
        row = session.execute(_by_token(), {"hash": hash_of(secret)}).one_or_none()
        if row is None:
            return None
        account, token, leads = row
        # The hash was found by equality in an index; comparing it again in constant time costs nothing.
        if not secrets.compare_digest(token.token_sha256, hash_of(secret)):
            return None
        if token.expires_at is not None and token.expires_at <= studio.clock():
            return None
        return _who(account, scopes=tuple(token.scopes), csrf="", leads=leads)


def tokens_of(studio: Studio, who: Who) -> list[TokenInfo]:
    """One's own tokens, newest first."""
    with studio.read() as session:
        rows = session.scalars(
            select(_Token).where(_Token.account_id == who.account).order_by(_Token.id.desc())
        )
        return [
            TokenInfo(
                id=row.id,
                name=row.name,
                prefix=row.prefix,
                scopes=tuple(row.scopes),
                created_at=row.created_at,
                expires_at=row.expires_at,
            )
            for row in rows
        ]


def revoke_token(studio: Studio, who: Who, id: int) -> None:
    """Take a token of one's own back; it no longer works."""
    with studio.write() as session:
        row = session.get(_Token, id) if id < 2**31 else None
        if row is None or row.account_id != who.account:
            raise NotFound("you have no such token")
        session.delete(row)
        audit.write(
            session,
            now=studio.clock(),
            annotator=who.annotator,
            action="revoke token",
            entity="api_token",
            id=id,
        )


def save_settings(studio: Studio, who: Who, settings: dict[str, Any]) -> None:
    """Keep how somebody likes their page."""
    with studio.write() as session:
        session.get_one(_Account, who.account).settings = settings


def people(studio: Studio) -> list[Person]:
    """Every account but those of guests, oldest first."""
    signed_in = (
        select(func.count())
        .where(_Session.account_id == _Account.id, _Session.expires_at > studio.clock())
        .scalar_subquery()
    )
    with studio.read() as session:
        rows = session.execute(
            select(_Account, models.AnnotatorRow.name, signed_in)
            .join(models.AnnotatorRow, models.AnnotatorRow.id == _Account.annotator_id)
            .where(_Account.role != access.GUEST)
            .order_by(_Account.id)
        ).all()
        judgements, loose = tallies.of_people(session)
        found = [
            Person(
                account=account.id,
                annotator=account.annotator_id,
                login=account.login,
                pseudonym=name,
                role=account.role,
                active=account.active,
                created_at=account.created_at,
                judgements=judgements.get(account.annotator_id, 0),
                sessions=sessions,
                second_factor=bool(account.totp_secret),
            )
            for account, name, sessions in rows
        ]
    studio.fold_tallies(loose)
    return found


def set_active(studio: Studio, id: int, active: bool, *, by: int | None) -> None:
    """Let somebody in, or shut them out: their sessions end at once, their tokens rest."""
    with studio.write() as session:
        row = account_of(session, id)
        if not active:
            _keep_an_admin(session, row)
            end_sessions(session, id)
        row.active = active
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="activate" if active else "deactivate",
            entity="account",
            id=id,
        )


def set_role(studio: Studio, id: int, role: Role, *, by: int | None) -> None:
    """Give somebody another role. It holds from their next request on, in open sessions and for tokens too: both read it each time."""
    with studio.write() as session:
        row = account_of(session, id)
        before = row.role
        if before == role:
            return
        _keep_an_admin(session, row)
        row.role = role
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="change role",
            entity="account",
            id=id,
            detail={"from": before, "to": role},
        )


def anonymise(studio: Studio, id: int, *, by: int | None) -> str:
    """Delete an account with its login, password, sessions and tokens; the pseudonym under which its judgements stay.

    No judgement and no export changes: they never held more than the pseudonym.
    """
    with studio.write() as session:
        row = account_of(session, id)
        name = session.get_one(models.AnnotatorRow, row.annotator_id).name
        delete_account(session, row)
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="anonymise",
            entity="annotator",
            id=row.annotator_id,
        )
        return name


def delete_account(session: Session, row: studio_models.AccountRow) -> None:
    """Delete an account and all that belongs to it alone. `Conflict` for the last admin's."""
    _keep_an_admin(session, row)
    own = (
        *(_Session, _Token, _Member, studio_models.AccountTagRow),
        *(studio_models.PasswordResetRow, studio_models.RecoveryCodeRow, studio_models.SecondStepRow),
        *(studio_models.IdentityRow, studio_models.ParticipantRow),
    )
    for table in own:
        session.execute(delete(table).where(table.account_id == row.id))
    session.delete(row)


def account_of(session: Session, id: int) -> studio_models.AccountRow:
    """The account with this id, or `NotFound`."""
    row = session.get(_Account, id) if id < 2**31 else None
    if row is None:
        raise NotFound("there is no such account")
    return row


def _keep_an_admin(session: Session, row: studio_models.AccountRow) -> None:
    """Raise `Conflict` for the last one. All admins are locked: of two who shut each other out at once, the second is refused."""
    admins = select(_Account.id).where(_Account.role == "admin", _Account.active).order_by(_Account.id)
    if session.scalars(admins.with_for_update()).all() == [row.id]:
        raise Conflict("this is the only admin; make somebody else an admin first")


def _who(row: studio_models.AccountRow, *, scopes: tuple[Scope, ...], csrf: str, leads: Any = "") -> Who:
    role: Any = row.role
    return Who(
        account=row.id,
        annotator=row.annotator_id,
        login=row.login,
        role=role,
        scopes=("annotate",) if role == access.GUEST else scopes,
        csrf=csrf,
        settings=dict(row.settings),
        leads=leads,
    )
