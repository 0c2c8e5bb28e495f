"""The leaderboard: ratings on the familiar scale with intervals and rank ranges, and what the votes cannot tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from prefloop.errors import InputError
from prefloop.feedback.ratings.elo import elo
from prefloop.feedback.ratings.estimates import (
    Estimates,
    Intervals,
    Rated,
    Resampling,
    by_large_sample,
    by_posterior,
)
from prefloop.feedback.ratings.fit import POINTS, Connection, Likelihood, connections
from prefloop.feedback.ratings.pairs import pair_likelihood
from prefloop.feedback.ratings.plackett_luce import ranking_likelihood
from prefloop.feedback.ratings.uncertainty import Clustering, rank_ranges
from prefloop.feedback.ratings.votes import (
    BOTH_BAD,
    FIRST,
    SECOND,
    Ints,
    Rankings,
    Votes,
    as_rankings,
)

Method = Literal["bradley_terry", "davidson", "rao_kupper", "plackett_luce", "elo"]
BASE = 1000.0
"""Rating of the average model of a group, or of the anchor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A number with its 95 % interval; NaN if the votes cannot say."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """`{value, low, high}`, NaN as null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: float(x) if math.isfinite(x) else None for name, x in numbers.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """One model's line."""

    name: str
    rating: Interval
    group: int
    """Models of different groups were never compared, not even through others; 0 is the largest group."""
    rank: int
    """Within its group, from 1."""
    best_rank: int
    worst_rank: int
    """The true rank lies from `best_rank` to `worst_rank` in 95 % of samples; for Elo both are the rank itself."""
    votes: int
    wins: int
    losses: int
    ties: int
    """Both-bad votes are not in here."""
    both_bad: int
    note: str
    """`undefeated`, `winless`, `held by the prior`, or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WinProbability:
    """How likely one model is to beat another, ties as half wins."""

    first: str
    second: str
    probability: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficient:
    """What a feature of style adds to the log-odds of winning, per standard deviation of its difference."""

    name: str
    value: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """Everything `prefloop arena` shows."""

    method: str
    intervals: str
    clusters: str
    anchor: str
    """Model whose rating is `BASE` by definition; empty if the average is."""
    ratings: tuple[Rating, ...]
    """By group, best first."""
    probabilities: tuple[WinProbability, ...]
    """Both ways round, for models of one group; none for Elo."""
    style: tuple[Coefficient, ...]
    tie_parameter: Interval | None
    """Davidson's ν, or Rao and Kupper's η; None for methods without."""
    votes: int
    rankings: int
    prompts: int
    annotators: int
    warnings: tuple[str, ...]

    def probability(self, first: str, second: str) -> Interval | None:
        """How likely `first` beats `second`; None if that is not known."""
        return next(
            (p.probability for p in self.probabilities if (p.first, p.second) == (first, second)), None
        )


def leaderboard(
    votes: Votes,
    rankings: Rankings | None = None,
    *,
    method: Method = "bradley_terry",
    intervals: Intervals = "posterior",
    clusters: Clustering = "prompt",
    anchor: str = "",
    prior: float | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  a frozen value
) -> Leaderboard:
    """Rate the models of votes, and with `plackett_luce` of rankings of the same models too.

    `resampling` is that of intervals by the bootstrap. Raises `InputError` if there is nothing to rate, the anchor is not among the models, or the method cannot use what is given.
    """
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}; it must be one of {', '.join(get_args(Method))}")
    if anchor and anchor not in votes.names:
        raise InputError(f"anchor is {anchor!r}; it must be one of the models: {', '.join(votes.names)}")
    if method != "plackett_luce" and not len(votes):
        raise InputError(f"there is no vote between two models, so {method} has nothing to rate")
    if votes.feature_names and method in ("plackett_luce", "elo"):
        raise InputError(
            f"method {method} cannot control for style; use bradley_terry, davidson or rao_kupper"
        )
    if method == "elo":
        return _elo_board(votes, anchor)
    likelihood, prompt, annotator, counted = _likelihood(votes, rankings, method)
    connection = connections(likelihood)
    rated = Rated(
        names=votes.names, likelihood=likelihood, connection=connection, prompt=prompt, annotator=annotator
    )
    counts = _counts(votes, rankings if method == "plackett_luce" else None)
    if intervals == "posterior":
        tied = _tied(counts) if method in ("bradley_terry", "plackett_luce") else 0.0
        real = np.concatenate([votes.counted, np.ones(counted, np.bool_)])
        found = by_posterior(rated, prior=prior, anchor=anchor, clusters=clusters, tied=tied, counted=real)
    else:
        found = by_large_sample(
            rated,
            prior=prior,
            anchor=anchor,
            clusters=clusters,
            resampling=resampling if intervals == "bootstrap" else None,
        )
    return Leaderboard(
        method=method,
        intervals=intervals,
        clusters=clusters,
        anchor=anchor,
        ratings=_ratings(votes.names, connection, counts, found),
        probabilities=_probabilities(votes.names, connection, found),
        style=_style(votes, found),
        tie_parameter=_tie_parameter(method, found),
        votes=int(votes.counted.sum()),
        rankings=counted,
        prompts=len(np.unique(prompt)),
        annotators=len(np.unique(annotator)),
        warnings=_warnings(
            rated, clusters, intervals, left_out=found.left_out, resamples=resampling.resamples
        ),
    )


def _likelihood(
    votes: Votes, rankings: Rankings | None, method: Method
) -> tuple[Likelihood, Ints, Ints, int]:
    """The likelihood, the prompt and annotator of each of its observations, and the number of rankings among them."""
    if method in ("bradley_terry", "davidson", "rao_kupper"):
        return pair_likelihood(votes, method), votes.prompt, votes.annotator, 0
    pairs = as_rankings(votes)
    both = pairs
    if rankings is not None and len(rankings):
        if rankings.names != votes.names:
            raise ValueError(
                "rankings and votes name different models; give both the same names in the same order"
            )
        both = Rankings(
            names=pairs.names,
            groups=pairs.groups + rankings.groups,
            prompt=np.concatenate([pairs.prompt, rankings.prompt]),
            annotator=np.concatenate([pairs.annotator, rankings.annotator]),
            weight=np.concatenate([pairs.weight, rankings.weight]),
        )
    if not len(both):
        raise InputError(
            "there is neither a vote nor a ranking of two models, so plackett_luce has nothing to rate"
        )
    return ranking_likelihood(both), both.prompt, both.annotator, len(both) - len(pairs)


def _tied(counts: dict[str, Ints]) -> float:
    """Share of comparisons that are ties."""
    level = counts["ties"].sum() + counts["both_bad"].sum()
    return float(level / max(1, level + counts["wins"].sum() + counts["losses"].sum()))


def _ratings(
    names: Sequence[str], connection: Connection, counts: dict[str, Ints], found: Estimates
) -> tuple[Rating, ...]:
    strengths = found.strengths
    rows = []
    for group in range(connection.groups):
        members = np.flatnonzero(connection.group == group)
        best, worst = rank_ranges(strengths[members], found.covariance[np.ix_(members, members)])
        order = np.lexsort((members, -strengths[members]))
        for rank, at in enumerate(order, 1):
            model = int(members[at])
            alone = len(members) == 1
            bounds = (math.nan, math.nan) if alone else (found.low[model], found.high[model])
            rows.append(
                Rating(
                    name=names[model],
                    rating=Interval(
                        value=BASE + POINTS * float(found.centre[model]),
                        low=BASE + POINTS * float(bounds[0]),
                        high=BASE + POINTS * float(bounds[1]),
                    ),
                    group=group,
                    rank=rank,
                    best_rank=int(best[at]),
                    worst_rank=int(worst[at]),
                    note=_note(model, connection, counts),
                    **{name: int(number[model]) for name, number in counts.items()},
                )
            )
    return tuple(rows)


def _counts(votes: Votes, rankings: Rankings | None) -> dict[str, Ints]:
    """Of each model. A ranking is one vote; standing above another is a win over it."""
    m = len(votes.names)

    def count(models: Ints) -> Ints:
        return np.bincount(models, minlength=m)

    counted = votes.counted
    first_won, second_won = counted & (votes.outcome == FIRST), counted & (votes.outcome == SECOND)
    bad = counted & (votes.outcome == BOTH_BAD)
    tied = counted & ~(first_won | second_won | bad)
    counts = {
        "votes": count(votes.first[counted]) + count(votes.second[counted]),
        "wins": count(votes.first[first_won]) + count(votes.second[second_won]),
        "losses": count(votes.second[first_won]) + count(votes.first[second_won]),
        "ties": count(votes.first[tied]) + count(votes.second[tied]),
        "both_bad": count(votes.first[bad]) + count(votes.second[bad]),
    }
    for groups in () if rankings is None else rankings.groups:
        placed = sum(len(group) for group in groups)
        above = 0
        for group in groups:
            for model in group:
                counts["votes"][model] += 1
                counts["wins"][model] += placed - above - len(group)
                counts["losses"][model] += above
                counts["ties"][model] += len(group) - 1
            above += len(group)
    return counts


def _note(model: int, connection: Connection, counts: dict[str, Ints]) -> str:
    """Why a rating is only held by the prior, or nothing."""
    same_group = connection.group == connection.group[model]
    cores = connection.core[same_group]
    if len(np.unique(cores)) < 2:
        return ""
    wins, losses = counts["wins"][model], counts["losses"][model]
    level = counts["ties"][model] + counts["both_bad"][model]
    if not losses and not level:
        return "undefeated"
    if not wins and not level:
        return "winless"
    # The largest core is the ruler; who is not in it stands where the prior lets it.
    sizes = np.bincount(cores)
    return "" if connection.core[model] == int(np.argmax(sizes)) else "held by the prior"


def _probabilities(
    names: Sequence[str], connection: Connection, found: Estimates
) -> tuple[WinProbability, ...]:
    m = len(names)
    value, low, high = found.probabilities
    return tuple(
        WinProbability(
            first=names[i],
            second=names[j],
            probability=Interval(value=float(value[i, j]), low=float(low[i, j]), high=float(high[i, j])),
        )
        for i in range(m)
        for j in range(m)
        if i != j and connection.group[i] == connection.group[j]
    )


def _style(votes: Votes, found: Estimates) -> tuple[Coefficient, ...]:
    return tuple(
        Coefficient(
            name=name,
            value=Interval(
                value=float(found.centre[at]), low=float(found.low[at]), high=float(found.high[at])
            ),
        )
        for at, name in enumerate(votes.feature_names, len(votes.names))
    )


def _tie_parameter(method: str, found: Estimates) -> Interval | None:
    kappa = np.array([found.centre[-1], found.low[-1], found.high[-1]])
    if method == "davidson":
        value, least, most = np.exp(kappa)
    elif method == "rao_kupper":
        value, least, most = 0.5 * np.logaddexp(0, kappa)
    else:
        return None
    return Interval(value=float(value), low=float(least), high=float(most))


def _fallen_apart(names: Sequence[str], connection: Connection) -> list[str]:
    """A warning where models were never compared with others."""
    if connection.groups < 2:
        return []
    parts = "; ".join(
        ", ".join(name for name, at in zip(names, connection.group.tolist(), strict=True) if at == group)
        for group in range(connection.groups)
    )
    return [
        f"the models fall into {connection.groups} groups that were never compared with each other ({parts}): "
        "ratings of different groups are not comparable"
    ]


def _warnings(
    rated: Rated, clusters: Clustering, intervals: str, *, left_out: int, resamples: int
) -> tuple[str, ...]:
    connection = rated.connection
    warnings = _fallen_apart(rated.names, connection)
    if connection.held_by_prior:
        warnings.append(
            "some models won or lost every comparison with the rest; their distance from the rest depends on the prior alone"
            + (
                f", and {intervals} intervals for them are too narrow: use intervals posterior"
                if intervals in ("sandwich", "bootstrap")
                else ""
            )
        )
    for name, labels in rated.kept(clusters).items():
        count = len(np.unique(labels))
        if count < 10:
            warnings.append(
                f"there are only {count} {name}s; intervals that keep votes of one {name} together need more than that"
            )
    if left_out:
        warnings.append(f"{left_out} of {resamples} resamples were left out, for models fell apart in them")
    return tuple(warnings)


def _elo_board(votes: Votes, anchor: str) -> Leaderboard:
    """Elo has no likelihood, so no interval and no rank range."""
    ratings = elo(votes)
    if anchor:
        ratings = ratings - ratings[votes.names.index(anchor)] + BASE
    connection = connections(pair_likelihood(votes))
    counts = _counts(votes, None)
    rows = []
    for group in range(connection.groups):
        members = np.flatnonzero(connection.group == group)
        for rank, model in enumerate(members[np.lexsort((members, -ratings[members]))].tolist(), 1):
            rows.append(
                Rating(
                    name=votes.names[model],
                    rating=Interval(value=float(ratings[model]), low=math.nan, high=math.nan),
                    group=group,
                    rank=rank,
                    best_rank=rank,
                    worst_rank=rank,
                    note="",
                    **{name: int(number[model]) for name, number in counts.items()},
                )
            )
    warnings = ("Elo ratings depend on the order of the votes; use bradley_terry to compare models",)
    return Leaderboard(
        method="elo",
        intervals="none",
        clusters="none",
        anchor=anchor,
        ratings=tuple(rows),
        probabilities=(),
        style=(),
        tie_parameter=None,
        votes=int(votes.counted.sum()),
        rankings=0,
        prompts=len(np.unique(votes.prompt)),
        annotators=len(np.unique(votes.annotator)),
        warnings=(*warnings, *_fallen_apart(votes.names, connection)),
    )
