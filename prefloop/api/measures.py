"""Ratings and agreement from votes, and win rates, without a store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.api.given import rows_file
from prefloop.data.store import Store
from prefloop.data.votes import read_votes
from prefloop.evaluation.win_rate import win_rate
from prefloop.feedback.judged import JudgedItem, read_judged, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard
from prefloop.feedback.voted import judged_votes

__all__ = ["ratings", "win_rate"]


def ratings(votes: Any, *, columns: Mapping[str, str] | Sequence[str] = (), **settings: Any) -> Leaderboard:
    """Rate the models of votes, with intervals and rank ranges: `prefloop arena`.

    Args:
        votes: Rows with two models and a winner (dicts, a frame, or the name of a file of any form that `arena` reads), or an open `Store`.
        columns: Which column says what, for names that are not known: `dict(model_a="left_model")`.
        settings: Those of `leaderboard`: method, intervals, clusters, anchor, prior, resamples, seed.

    Raises:
        InputError: A row that is no vote, or nothing to rate.
    """
    return leaderboard(votes_of(judged(votes, columns)).votes, **settings)


def judged(votes: Any, columns: Mapping[str, str] | Sequence[str] = ()) -> list[JudgedItem]:
    """Votes from rows, a file or a store, in the one shape that measures read."""
    if isinstance(votes, Store):
        return read_judged(votes)
    named = (
        [f"{role}={column}" for role, column in columns.items()] if isinstance(columns, Mapping) else columns
    )
    source = votes if isinstance(votes, str | Path) else rows_file(votes)
    return judged_votes(read_votes(source, columns=named).votes)
