"""How often one policy's completion is better than another's, ties as a half."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from prefloop.errors import InputError
from prefloop.evaluation.intervals import Clusters, Estimate, Numbers, members_of, rate_interval

Verdict = Literal["a", "b", "tie", "both_bad"]
"""A judge's word on two completions. `both_bad` is a tie for the win rate, and has its own rate."""
SCORES: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class PairVerdict:
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
    """1 if a is better, 0 if b is, a half if they differ by at most `tie_within`. `[n]`."""
    a, b = np.asarray(utilities_a, dtype=np.float64), np.asarray(utilities_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"utilities have shapes {a.shape} and {b.shape}; pairs need as many of each")
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


FEWEST_AT_EQUAL_LENGTH = 30
"""Pairs without which the length's part in the verdicts cannot be told from the rest."""
_SPREAD = 2.0
"""Standard deviation of the prior on both coefficients, which keeps them finite where one side wins always."""


def win_rate_at_equal_length(
    scores: Numbers,
    lengths_a: Numbers,
    lengths_b: Numbers,
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> Estimate | None:
    """Win rate of a where both completions are equally long, as AlpacaEval's length control (arXiv:2404.04475) defines it.

        P(a wins) = sigmoid(alpha + beta tanh(d / sd(d))),  d = length of a - length of b,  alpha, beta ~ N(0, 2^2);  the rate is sigmoid(alpha)

    Args:
        scores: 1, 1/2 or 0 for each pair, `[n]`.
        lengths_a, lengths_b: In one unit, `[n]`.
        clusters: Each pair's prompt, where a prompt has several pairs: the interval then takes the cluster-robust variance, where it is
            the larger one.

    Returns:
        None with fewer than 30 pairs, or where the difference of lengths never varies.
    """
    y = np.asarray(scores, dtype=np.float64)
    difference = np.asarray(lengths_a, dtype=np.float64) - np.asarray(lengths_b, dtype=np.float64)
    if y.shape != difference.shape:
        raise ValueError(f"{y.shape} scores and lengths of {difference.shape}; pairs need as many of each")
    spread = float(difference.std()) if len(y) else 0.0
    if len(y) < FEWEST_AT_EQUAL_LENGTH or not spread:
        return None
    design = np.stack([np.ones(len(y)), np.tanh(difference / spread)], axis=1)
    at, curvature = np.zeros(2), np.eye(2)
    for _ in range(50):
        p = expit(design @ at)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.eye(2) / _SPREAD**2
        step = np.linalg.solve(curvature, design.T @ (y - p) - at / _SPREAD**2)
        at = at + step
        if np.abs(step).max() < 1e-10:
            break
    inverse = np.linalg.inv(curvature)
    variance = inverse[0, 0]
    if clusters is not None:
        members, count = members_of(clusters, len(y))
        sums = np.zeros((count, 2))
        np.add.at(sums, members, design * (y - expit(design @ at))[:, None])
        robust = inverse @ (sums.T @ sums) @ inverse * count / max(1, count - 1)
        variance = max(variance, robust[0, 0])
    half = float(ndtri(0.5 + confidence / 2) * np.sqrt(variance))
    value, low, high = (float(expit(at[0] + shift)) for shift in (0.0, -half, half))
    return Estimate(value=value, low=low, high=high, n=len(y))


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


def win_matrix_of_judgements(judgements: Sequence[PairVerdict]) -> WinMatrix:
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
    mirrored = replace(rate, value=1 - rate.value, low=1 - rate.high, high=1 - rate.low)
    return [
        HeadToHead(first=first, second=second, rate=rate),
        HeadToHead(first=second, second=first, rate=mirrored),
    ]
