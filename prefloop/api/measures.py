"""Ratings and agreement from votes, win rates and verifiers, without a store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.api.given import rows_file
from prefloop.configs.load import names_of, unknown
from prefloop.configs.verifiers import Kind, VerifierConfig
from prefloop.data.store import Store
from prefloop.data.vote_rows import Vote
from prefloop.data.votes import read_votes
from prefloop.errors import InputError
from prefloop.evaluation.win_rate import win_rate
from prefloop.feedback.agreement_report import AgreementReport, measure_agreement
from prefloop.feedback.judged import gold_choices, read_judged, votes_of
from prefloop.feedback.ratings import Leaderboard, Resampling, leaderboard
from prefloop.feedback.voted import judged_votes, votes_on_pairs
from prefloop.verifiers import Verifier

__all__ = ["agreement", "ratings", "verifier", "win_rate"]


def ratings(votes: Any, *, columns: Mapping[str, str] | Sequence[str] = (), **settings: Any) -> Leaderboard:
    """Rate models from votes, with intervals and rank ranges: `prefloop arena`.

    Args:
        votes: Rows with two models and a winner (dicts, a frame, or the name of a file that `arena` reads), or an open `Store`.
        columns: Names of the columns, if they are not recognised: `dict(model_a="left_model")`.
        settings: Those of `leaderboard`: method, intervals, clusters, anchor, prior; resamples and seed of its bootstrap.

    Raises:
        InputError: A row that is not a vote, or nothing to rate.
    """
    judged = read_judged(votes) if isinstance(votes, Store) else judged_votes(_read(votes, columns))
    resampling = Resampling(
        **{name: settings.pop(name) for name in ("resamples", "seed") if name in settings}
    )
    return leaderboard(votes_of(judged).votes, resampling=resampling, **settings)


def agreement(
    votes: Any, *, columns: Mapping[str, str] | Sequence[str] = (), resamples: int = 1000, seed: int = 0
) -> AgreementReport:
    """How far labels of pairs can be trusted: agreement beyond chance, each annotator's figures, the noise ceiling: `prefloop label agreement`.

    Args:
        votes: Rows with two models, a winner, the prompt and the judge (see `ratings`), or an open `Store`. Votes on the same two answers, in
            either order, are labels of one pair.
        columns: Names of the columns, if they are not recognised: `dict(judge="worker")`.
        resamples: Of the bootstrap over pairs.
        seed: Everything random derives from it.

    Raises:
        InputError: A row that is not a vote or names no judge, or nothing was judged.
    """
    if isinstance(votes, Store):
        judged, gold = read_judged(votes), gold_choices(votes)
    else:
        judged, gold = votes_on_pairs(_read(votes, columns)), {}
    return measure_agreement(judged, gold=gold, resamples=resamples, seed=seed)


def verifier(kind: Kind, column: str, **settings: Any) -> Verifier:
    """A reward that needs no model: `reward=pl.verifier("number", "answer")`, for prompts whose rows have a column `answer`.

    Args:
        kind: `exact`, `number`, `regex` or `code`.
        column: Column of the prompts that holds the answer, the pattern or the tests.
        settings: The others of `VerifierConfig`: extract, ignore_case, right, wrong; for code seconds, memory_mb and so on.

    Raises:
        InputError: Settings that make no sense, or programs that this machine cannot confine.
    """
    unknown_names = settings.keys() - names_of(VerifierConfig).keys()
    if unknown_names:
        raise InputError(unknown(min(unknown_names), VerifierConfig))
    return Verifier(VerifierConfig(kind=kind, column=column, **settings))


def _read(votes: Any, columns: Mapping[str, str] | Sequence[str]) -> tuple[Vote, ...]:
    """Votes of rows or a file."""
    named = (
        [f"{role}={column}" for role, column in columns.items()] if isinstance(columns, Mapping) else columns
    )
    source = votes if isinstance(votes, str | Path) else rows_file(votes)
    return read_votes(source, columns=named).votes
