"""How often the 95 % intervals of `prefloop arena` hold the truth: ratings, win probabilities, ranks, and models that never lost.

    OMP_NUM_THREADS=1 python -m bench.coverage

Strengths are drawn from N(0, spread²) for each league, or fixed and evenly spaced; votes are drawn from Bradley and Terry's model between random
pairs, and go through `leaderboard` as the command line's do. In `clustered` designs every four votes are on the same two completions of one
prompt: a completion's quality, N(0, 0.7²), is added to its model's strength, and the truth is what endless prompts would show.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefloop.feedback.ratings import (
    POINTS,
    Leaderboard,
    Votes,
    fit,
    leaderboard,
    make_votes,
    pair_likelihood,
)

Floats = NDArray[np.float64]
ON_ONE_PROMPT, QUALITY = 4, 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """One line of the table."""

    models: int
    votes: int
    """Of each model, on average."""
    spread: float
    """Standard deviation of the strengths, in log-odds."""
    fixed: bool = False
    clustered: bool = False

    @property
    def words(self) -> str:
        """What it is."""
        return ("fixed" if self.fixed else "drawn") + (", clustered" if self.clustered else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """How often each kind of interval held, and how many there were."""

    rating: float
    never_lost: float
    probability: float
    rank: float
    ratings: int
    undefeated: int


def coverage(design: Design, leagues: int, *, seed: int = 0, method: str = "bradley_terry") -> Held:
    """Over so many leagues."""
    random = np.random.default_rng(seed)
    held: dict[str, list[bool]] = defaultdict(list)
    for _ in range(leagues):
        strengths = _strengths(design, random)
        board = leaderboard(_votes(design, strengths, random), method=method)  # pyright: ignore[reportArgumentType]
        _count(board, _as_seen(strengths) if design.clustered else strengths, held)
    mean = {name: float(np.mean(each)) for name, each in held.items()}
    return Held(
        rating=mean["rating"],
        never_lost=mean.get("never lost", float("nan")),
        probability=mean["probability"],
        rank=mean["rank"],
        ratings=len(held["rating"]),
        undefeated=len(held["never lost"]),
    )


def _strengths(design: Design, random: np.random.Generator) -> Floats:
    if not design.fixed:
        return random.normal(0, design.spread, design.models)
    even = np.linspace(-1, 1, design.models)
    return design.spread * even / even.std()


def _votes(design: Design, strengths: Floats, random: np.random.Generator) -> Votes:
    m, n = design.models, design.models * design.votes // 2
    each = ON_ONE_PROMPT if design.clustered else 1
    prompts = -(-n // each)
    first = random.integers(m, size=prompts)
    second = (first + random.integers(1, m, size=prompts)) % m
    gap = strengths[first] - strengths[second]
    if design.clustered:
        gap = gap + random.normal(0, QUALITY * np.sqrt(2), prompts)
    prompt = np.repeat(np.arange(prompts), each)[:n]
    won = random.random(n) < 1 / (1 + np.exp(-gap[prompt]))
    return make_votes(
        [str(at) for at in range(m)], first[prompt], second[prompt], np.where(won, 0, 1), prompt=prompt
    )


def _as_seen(strengths: Floats) -> Floats:
    """The strengths that Bradley and Terry's model has where completions vary: fitted to the expected votes of every pair."""
    m = len(strengths)
    first, second = map(np.ravel, np.nonzero(~np.eye(m, dtype=bool)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    gap = strengths[first] - strengths[second]
    chance = (1 / (1 + np.exp(-(gap[:, None] + QUALITY * np.sqrt(2) * nodes)))) @ weights / weights.sum()
    expected = make_votes([str(at) for at in range(m)], first, second, np.zeros(len(first)), weight=chance)
    return fit(pair_likelihood(expected), prior=1e-9).strengths


def _count(board: Leaderboard, strengths: Floats, held: dict[str, list[bool]]) -> None:
    groups = defaultdict(list)
    for row in board.ratings:
        groups[row.group].append(row)
    for rows in (rows for rows in groups.values() if len(rows) > 1):
        members = strengths[[int(row.name) for row in rows]]
        for row, own in zip(rows, members, strict=True):
            truth = 1000 + POINTS * (own - members.mean())
            inside = row.rating.low <= truth <= row.rating.high
            held["rating"].append(inside)
            if not row.losses:
                held["never lost"].append(inside)
            held["rank"].append(row.best_rank <= 1 + int((members > own).sum()) <= row.worst_rank)
    for pair in board.probabilities:
        chance = 1 / (1 + np.exp(strengths[int(pair.second)] - strengths[int(pair.first)]))
        held["probability"].append(pair.probability.low <= chance <= pair.probability.high)


def designs() -> Sequence[Design]:
    """Those of docs/ratings.md."""
    sizes = [(models, votes) for models in (2, 5, 20) for votes in (5, 20, 100)]
    drawn = [Design(models=m, votes=n, spread=s) for s in (0.5, 1.0, 2.0) for m, n in sizes]
    fixed = [Design(models=m, votes=n, spread=1.0, fixed=True) for m, n in sizes]
    clustered = [Design(models=m, votes=n, spread=1.0, clustered=True) for m, n in sizes if n > 5]
    return [*drawn, *fixed, *clustered]


def main() -> None:
    """Print the table of docs/ratings.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratings", type=int, default=1500, help="ratings in each line, at least")
    parser.add_argument("--method", default="bradley_terry")
    given = parser.parse_args()
    print(
        "| strengths | spread | models | votes each | ratings | win probabilities | ranks | never lost (how many) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for design in designs():
        found = coverage(design, max(50, given.ratings // design.models), method=given.method)
        lost = f"{100 * found.never_lost:.1f} ({found.undefeated})" if found.undefeated else "none"
        print(
            f"| {design.words} | {design.spread} | {design.models} | {design.votes} | {100 * found.rating:.1f} "
            f"| {100 * found.probability:.1f} | {100 * found.rank:.1f} | {lost} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
