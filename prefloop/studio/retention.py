"""How long people are kept: accounts of those who have done nothing for so many days go, as an admin would delete them one by one.

Admins and managers of projects stay, whatever they did: somebody has to run the studio. Where somebody comes back meanwhile, they stay too.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.studio import accounts, erasure
from prefloop.studio.service import Studio

_Account, _Member, _Audit = (
    studio_models.AccountRow,
    studio_models.MembershipRow,
    studio_models.AuditEventRow,
)
_Web = studio_models.WebSessionRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """Somebody who has done nothing for a long time."""

    account: int
    annotator: int
    pseudonym: str
    role: str
    last: datetime
    """When they last did something, or were given the account."""


def idle(studio: Studio, days: int) -> list[Idle]:
    """Everybody who has done nothing for more than so many days, but admins and managers; the longest away first.

    Raises `InputError` for fewer days than 1.
    """
    if days < 1:
        raise InputError(f"days is {days}; it must be 1 or more")
    with studio.read() as session:
        return _idle(session, studio.clock() - timedelta(days=days))


def retain(studio: Studio, days: int, *, words: bool, by: int | None = None) -> list[Idle]:
    """Delete the accounts of `idle`, with every word that the people wrote if `words` says so; those who are gone now."""
    gone = []
    for each in idle(studio, days):
        with studio.read() as session:
            last = _idle(session, studio.clock() - timedelta(days=days), account=each.account)
        if not last:
            continue  # came back
        if words:
            erasure.erase(studio, each.annotator, by=by)
        else:
            accounts.anonymise(studio, each.account, by=by)
        gone.append(each)
    return gone


def _idle(session: Session, before: datetime, *, account: int | None = None) -> list[Idle]:
    acted = select(func.max(_Audit.at)).where(_Audit.annotator_id == _Account.annotator_id).scalar_subquery()
    seen = select(func.max(_Web.seen_at)).where(_Web.account_id == _Account.id).scalar_subquery()
    manages = select(_Member.id).where(_Member.account_id == _Account.id, _Member.role == "manager").exists()
    asked = (
        select(_Account, models.AnnotatorRow.name, acted, seen)
        .join(models.AnnotatorRow, models.AnnotatorRow.id == _Account.annotator_id)
        .where(_Account.role != "admin", ~manages)
    )
    if account is not None:
        asked = asked.where(_Account.id == account)
    found = [
        Idle(
            account=row.id,
            annotator=row.annotator_id,
            pseudonym=name,
            role=row.role,
            last=max(_utc(moment) for moment in (row.created_at, *when) if moment is not None),
        )
        for row, name, *when in session.execute(asked)
    ]
    return sorted((each for each in found if each.last < before), key=lambda each: (each.last, each.account))


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
