"""How often one policy's completion is better than another's, ties as a half."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prefloop.errors import InputError
from prefloop.evaluation.intervals import Clusters, Estimate, Numbers, rate_interval

Verdict = Literal["a", "b", "tie", "both_bad"]
"""A judge's word on two completions. `both_bad` is a tie for the win rate, and has its own rate."""
SCORES: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One verdict on completions of two policies for the same prompt."""

    first: str
    """Policy whose completion is `a`."""
    second: str
    """Policy whose completion is `b`."""
    verdict: Verdict
    prompt: str
    """The prompt's hash or index: judgements of one prompt are kept together in intervals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadToHead:
    """How often `first` beats `second`."""

    first: str
    second: str
    rate: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class WinMatrix:
    """Win rates between policies, both ways round; a pair that nobody compared, and a policy with itself, are not in it."""

    names: tuple[str, ...]
    rates: tuple[HeadToHead, ...]

    def rate(self, first: str, second: str) -> Estimate | None:
        """How often `first` beats `second`; None if they were never compared."""
        return next((r.rate for r in self.rates if (r.first, r.second) == (first, second)), None)


def win_scores(utilities_a: Numbers, utilities_b: Numbers, *, tie_within: float = 0.0) -> NDArray[np.float64]:
    """1 where a is better, 0 where b is, a half where they differ by at most `tie_within`. `[n]`."""
    a, b = np.asarray(utilities_a, dtype=np.float64), np.asarray(utilities_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"utilities of shapes {a.shape} and {b.shape}; pairs need as many of each")
    if tie_within < 0:
        raise ValueError(f"tie_within is {tie_within}; it must be 0 or more")
    # A NaN would compare as False both ways and pass for a tie.
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a utility is NaN or infinite; leave such pairs out and say how many")
    return np.where(np.abs(a - b) <= tie_within, 0.5, (a > b).astype(np.float64))


def win_rate(
    utilities_a: Numbers, utilities_b: Numbers, *, clusters: Clusters | None = None, tie_within: float = 0.0
) -> Estimate:
    """Share of pairs in which a's utility is the higher, ties as a half. Pair i holds two completions of the same prompt.

    `clusters` names each pair's prompt where a prompt has several pairs.
    """
    return rate_interval(win_scores(utilities_a, utilities_b, tie_within=tie_within), clusters=clusters)


def win_rate_of_verdicts(verdicts: Sequence[str], *, clusters: Clusters | None = None) -> Estimate:
    """Share of verdicts for `a`, with `tie` and `both_bad` as a half. Skipped items are to be left out before."""
    for i, verdict in enumerate(verdicts):
        if verdict not in SCORES:
            raise InputError(
                f"verdict {i} is {verdict!r}; it must be one of {', '.join(get_args(Verdict))}; leave skipped items out"
            )
    return rate_interval([SCORES[verdict] for verdict in verdicts], clusters=clusters)


def win_matrix(
    utilities: Mapping[str, Numbers], *, clusters: Clusters | None = None, tie_within: float = 0.0
) -> WinMatrix:
    """Every policy against every other on the same prompts, in the same order: `utilities[name][i]`."""
    rates = []
    for first, second in combinations(utilities, 2):
        rate = win_rate(utilities[first], utilities[second], clusters=clusters, tie_within=tie_within)
        rates += _both_ways(first, second, rate)
    return WinMatrix(names=tuple(utilities), rates=tuple(rates))


def win_matrix_of_judgements(judgements: Sequence[Judgement]) -> WinMatrix:
    """Every pair of policies that was compared, whichever of the two was shown as `a`."""
    names = tuple(dict.fromkeys(name for j in judgements for name in (j.first, j.second)))
    rates = []
    for first, second in combinations(names, 2):
        scores, prompts = [], []
        for j in judgements:
            if {j.first, j.second} == {first, second}:
                score = SCORES[j.verdict]
                scores.append(score if j.first == first else 1 - score)
                prompts.append(j.prompt)
        if scores:
            rates += _both_ways(first, second, rate_interval(scores, clusters=prompts))
    return WinMatrix(names=names, rates=tuple(rates))


def _both_ways(first: str, second: str, rate: Estimate) -> list[HeadToHead]:
    mirrored = Estimate(value=1 - rate.value, low=1 - rate.high, high=1 - rate.low, n=rate.n)
    return [
        HeadToHead(first=first, second=second, rate=rate),
        HeadToHead(first=second, second=first, rate=mirrored),
    ]
