"""Browsers that are signed in: a person sees and ends their own, an admin ends all of somebody's."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from prefloop.data.store import studio_models
from prefloop.studio import audit
from prefloop.studio.accounts import Who, account_of, end_sessions, hash_of
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

_Session = studio_models.WebSessionRow
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("Firefox", "Firefox"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iOS"),
    ("iPad", "iOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
"""What a `User-Agent` says -> what it is called. The first that fits: later ones are named by others for compatibility."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionInfo:
    """A browser that is signed in."""

    id: int
    browser: str
    here: bool
    """Whether it is the one that asks."""
    created_at: datetime
    seen_at: datetime
    """When it last asked for something, to within some minutes."""
    expires_at: datetime


def browser_name(user_agent: str) -> str:
    """Kind of browser and system, as its owner would say it; no version, nothing that tells one person's from another's."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "another browser")
    system = next((f" on {name}" for mark, name in _SYSTEMS if mark in user_agent), "")
    return browser + system


def sessions_of(studio: Studio, who: Who, cookie: str) -> list[SessionInfo]:
    """One's own sessions, the last used first. `cookie`: of the one that asks; empty for a program."""
    here = hash_of(cookie)
    with studio.read() as session:
        rows = session.scalars(
            select(_Session)
            .where(_Session.account_id == who.account, _Session.expires_at > studio.clock())
            .order_by(_Session.seen_at.desc(), _Session.id.desc())
        )
        return [
            SessionInfo(
                id=row.id,
                browser=row.browser or "unknown",
                here=row.token_sha256 == here,
                created_at=row.created_at,
                seen_at=row.seen_at,
                expires_at=row.expires_at,
            )
            for row in rows
        ]


def end(studio: Studio, who: Who, id: int) -> None:
    """End a session of one's own at once."""
    with studio.write() as session:
        row = session.get(_Session, id)
        if row is None or row.account_id != who.account:
            raise NotFound("you have no such session")
        session.execute(delete(_Session).where(_Session.id == id))
        audit.write(
            session,
            now=studio.clock(),
            annotator=who.annotator,
            action="end session",
            entity="account",
            id=who.account,
        )


def end_all(studio: Studio, account: int, *, by: int | None) -> None:
    """Sign somebody out everywhere. Their tokens for programs stay."""
    with studio.write() as session:
        end_sessions(session, account_of(session, account).id)
        audit.write(
            session, now=studio.clock(), annotator=by, action="end sessions", entity="account", id=account
        )
