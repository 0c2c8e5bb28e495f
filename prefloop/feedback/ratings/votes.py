"""Votes between models, as arrays: who was compared with whom, who won, on which prompt, by whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST, SECOND, TIE, BOTH_BAD = 0, 1, 2, 3
"""Outcomes of a vote. `BOTH_BAD` counts as a tie in every model of wins, and is counted by itself besides."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Votes:
    """Pairwise votes. All arrays are `[votes]`; models, prompts and annotators are numbered from 0."""

    names: tuple[str, ...]
    """Models, by number."""
    first: Ints
    second: Ints
    outcome: Ints
    """`FIRST`, `SECOND`, `TIE` or `BOTH_BAD`."""
    prompt: Ints
    """Votes on one prompt are not independent of each other: intervals keep them together."""
    annotator: Ints
    weight: Floats
    """How much a vote counts; 1 unless votes are reweighted."""
    counted: Bools
    """Whether a vote is one of those that are counted (wins, losses, votes): of a soft preference, written as two weighted votes, one is."""
    features: Floats
    """`[votes, features]` what else tells the two answers apart, first minus second; no columns where nothing is controlled for."""
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, models = len(self.first), len(self.names)
        for name in ("second", "outcome", "prompt", "annotator", "weight", "counted", "features"):
            if len(getattr(self, name)) != n:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries for {n} votes; give one for each"
                )
        if len(set(self.names)) != models:
            raise ValueError("two models have the same name; make names unique")
        for name in ("first", "second"):
            index = getattr(self, name)
            if n and not (index.min() >= 0 and index.max() < models):
                raise ValueError(
                    f"{name} names model {index.max()} (least {index.min()}) of {models}; they count from 0"
                )
        if np.any(self.first == self.second):
            raise ValueError(
                f"vote {int(np.argmax(self.first == self.second))} compares a model with itself; leave such votes out"
            )
        if n and not (self.outcome.min() >= FIRST and self.outcome.max() <= BOTH_BAD):
            raise ValueError("an outcome must be FIRST, SECOND, TIE or BOTH_BAD (0 to 3)")
        if not (np.isfinite(self.weight).all() and (self.weight >= 0).all()):
            raise ValueError("a weight is negative or not finite; weights must be 0 or more")
        if not np.isfinite(self.features).all():
            raise ValueError("a feature is not finite; leave such votes out and say how many")
        if self.features.ndim != 2 or self.features.shape[1] != len(self.feature_names):
            raise ValueError(
                f"features have shape {self.features.shape} and {len(self.feature_names)} names; give [votes, names]"
            )

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rankings:
    """Rankings of several models' answers to one prompt, ties allowed, models left out allowed."""

    names: tuple[str, ...]
    groups: tuple[tuple[tuple[int, ...], ...], ...]
    """For each ranking its groups of models, best first; models of one group are tied."""
    prompt: Ints
    """`[rankings]`"""
    annotator: Ints
    """`[rankings]`"""
    weight: Floats
    """`[rankings]`"""

    def __post_init__(self) -> None:
        for name in ("prompt", "annotator", "weight"):
            if len(getattr(self, name)) != len(self.groups):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries for {len(self.groups)} rankings; give one for each"
                )
        for at, ranking in enumerate(self.groups):
            models = [model for group in ranking for model in group]
            if len(models) < 2 or len(set(models)) < len(models) or not all(ranking):
                raise ValueError(
                    f"ranking {at} is {ranking}; it must rank two or more different models, no group empty"
                )
            if min(models) < 0 or max(models) >= len(self.names):
                raise ValueError(
                    f"ranking {at} names model {max(models)} (least {min(models)}) of {len(self.names)}"
                )

    def __len__(self) -> int:
        return len(self.groups)


def make_votes(
    names: Sequence[str],
    first: Sequence[int] | NDArray[Any],
    second: Sequence[int] | NDArray[Any],
    outcome: Sequence[int] | NDArray[Any],
    *,
    prompt: Sequence[int] | NDArray[Any] | None = None,
    annotator: Sequence[int] | NDArray[Any] | None = None,
    weight: Sequence[float] | NDArray[Any] | None = None,
    counted: Sequence[bool] | NDArray[Any] | None = None,
) -> Votes:
    """Votes from sequences, without features (see `with_style`). Without `prompt` every vote has its own, without `annotator` all are one person's, without `weight` all weigh 1,
    without `counted` all are counted.

    Raises `ValueError` if lengths differ or a number is out of its range.
    """
    n = len(first)
    return Votes(
        names=tuple(names),
        first=np.asarray(first, np.intp),
        second=np.asarray(second, np.intp),
        outcome=np.asarray(outcome, np.intp),
        prompt=np.arange(n) if prompt is None else np.asarray(prompt, np.intp),
        annotator=np.zeros(n, np.intp) if annotator is None else np.asarray(annotator, np.intp),
        weight=np.ones(n) if weight is None else np.asarray(weight, np.float64),
        counted=np.ones(n, np.bool_) if counted is None else np.asarray(counted, np.bool_),
        features=np.zeros((n, 0)),
        feature_names=(),
    )


def as_rankings(votes: Votes) -> Rankings:
    """Votes as rankings of two, ties as one group."""
    groups = []
    for first, second, outcome in zip(
        votes.first.tolist(), votes.second.tolist(), votes.outcome.tolist(), strict=True
    ):
        if outcome in (TIE, BOTH_BAD):
            groups.append(((first, second),))
        else:
            groups.append(((first,), (second,)) if outcome == FIRST else ((second,), (first,)))
    return Rankings(
        names=votes.names,
        groups=tuple(groups),
        prompt=votes.prompt,
        annotator=votes.annotator,
        weight=votes.weight,
    )


def pair_weights(votes: Votes, *, at_least: int = 50) -> Floats:
    """`[votes]` weights that make every pair of models count alike, 1 / max(votes of the pair, at_least), scaled to a mean of 1.

    Where pairings are not uniform, a Bradley-Terry model that does not hold exactly is fitted best where most was asked; this undoes
    that. `at_least` keeps pairs with few votes from ruling. (The weighting of LMArena's arena-rank.)
    """
    if at_least < 1:
        raise ValueError(f"at_least is {at_least}; it must be 1 or more")
    low, high = np.minimum(votes.first, votes.second), np.maximum(votes.first, votes.second)
    _, pair, count = np.unique(low * len(votes.names) + high, return_inverse=True, return_counts=True)
    weight = 1.0 / np.maximum(count[pair], at_least)
    return weight / weight.mean() if len(weight) else weight
