"""People without an account: visitors of a public arena, and participants whom a recruiting platform sends. Each is given an account that belongs
to one project, has no password, and can do nothing but the project's work."""

import secrets
from datetime import datetime

from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.studio import accounts, members
from prefloop.studio.access import GUEST
from prefloop.studio.projects import project_of
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound, Project


def admit(session: Session, project: int, *, now: datetime) -> studio_models.AccountRow:
    """An account for somebody of whom nothing is known."""
    login = f"{GUEST}-{secrets.token_hex(8)}"
    row = accounts.add_account(session, login, accounts.no_password(), GUEST, now)
    members.join(session, project, row.id, "annotator", now=now, by=row.annotator_id)
    return row


def public_arena(studio: Studio, project: int) -> Project:
    """A project that takes visitors; `NotFound` for any other: nobody is told that it is there."""
    with studio.read() as session:
        found = project_of(session, project)
    if found.settings.access != "public" or found.state == "archived":
        raise NotFound(f"project {project} does not exist")
    return found


def visit(studio: Studio, project: int) -> int:
    """A new visitor's account."""
    return studio.write_twice(lambda session: admit(session, project, now=studio.clock()).id)
