"""What an admin sees of the visitors of a public arena, and shutting one out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from prefloop.data.store import Filters, models, studio_models
from prefloop.feedback.judged import JudgedItem, read_judged
from prefloop.studio import accounts
from prefloop.studio.access import GUEST
from prefloop.studio.named_models import names_a_model
from prefloop.studio.projects import project_of
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

FAST_MS = 3000
"""Nobody reads two answers in less."""
_Account, _Member = studio_models.AccountRow, studio_models.MembershipRow
_Chat, _Turn = studio_models.ChatRow, studio_models.ChatTurnRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """What a guest did, for who looks for abuse. Nothing tells who they are."""

    account: int
    pseudonym: str
    since: datetime
    active: bool
    messages: int
    votes: int
    first: int
    """Votes for the answer shown first: about half, of somebody who reads."""
    ties: int
    fast: int
    """Votes given faster than anybody reads."""
    named: int
    """Votes on a conversation that names a model."""


def visitors(studio: Studio, project: int) -> list[Visitor]:
    """The guests of a project, who voted most first."""
    messages = (
        select(func.count())
        .select_from(_Turn)
        .join(_Chat, _Chat.id == _Turn.chat_id)
        .where(_Chat.annotator_id == _Account.annotator_id, _Chat.project_id == project)
        .scalar_subquery()
    )
    with studio.read() as session:
        name = project_of(session, project).settings.name
        rows = session.execute(
            select(_Account.id, _Account.created_at, _Account.active, models.AnnotatorRow.name, messages)
            .join(_Member, (_Member.account_id == _Account.id) & (_Member.project_id == project))
            .join(models.AnnotatorRow, models.AnnotatorRow.id == _Account.annotator_id)
            .where(_Account.role == GUEST)
            .order_by(_Account.id.desc())
        ).all()
    votes: dict[str, list[JudgedItem]] = {}
    for vote in read_judged(studio.store, Filters(projects=(name,), kinds=("human",))):
        votes.setdefault(vote.annotator, []).append(vote)
    found = [
        Visitor(
            account=id,
            since=since,
            active=active,
            pseudonym=name,
            messages=said,
            **_counts(votes.get(name, [])),
        )
        for id, since, active, name, said in rows
    ]
    return sorted(found, key=lambda visitor: (-visitor.votes, -visitor.account))


def _counts(votes: Sequence[JudgedItem]) -> dict[str, int]:
    return {
        "votes": len(votes),
        "first": sum(vote.choice == ("a", "b")[vote.order_shown[0]] for vote in votes),
        "ties": sum(vote.choice == "tie" for vote in votes),
        "fast": sum(vote.duration_ms < FAST_MS for vote in votes),
        "named": sum(names_a_model(vote) for vote in votes),
    }


def block(studio: Studio, project: int, account: int, *, by: int | None) -> None:
    """Shut a guest of a project out. Their votes stay in the store, and out of the leaderboard."""
    with studio.read() as session:
        guest = session.scalar(
            select(_Account.id)
            .join(_Member, _Member.account_id == _Account.id)
            .where(_Account.id == account, _Account.role == GUEST, _Member.project_id == project)
        )
    if guest is None:
        raise NotFound("this project has no such visitor")
    accounts.set_active(studio, account, False, by=by)
