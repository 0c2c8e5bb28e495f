"""Estimates and their intervals: means, proportions, win rates, ratios, with observations of one prompt kept together.

Several completions of one prompt are not independent, so every function takes `clusters`, one label per observation
(the prompt's index or hash); leaving it out says that each observation stands alone. `n` is always the number of observations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit  # scipy.stats would say the same and take a second to import

Numbers = Sequence[float] | NDArray[Any]
Clusters = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, the interval that covers the truth in 95 % of samples (unless said otherwise), and the observations behind it.

    `low` and `high` are NaN where the sample cannot say (one observation, one prompt).
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """`{value, low, high, n}`; NaN and infinities become null, which JSON can hold."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: float(x) if math.isfinite(x) else None for name, x in numbers.items()} | {"n": self.n}


def exactly(value: float, n: int) -> Estimate:
    """A number that is so by definition: a policy's KL to itself, its win rate against itself."""
    return Estimate(value=value, low=value, high=value, n=n)


def within(estimate: Estimate, low: float, high: float) -> Estimate:
    """The same with its interval cut to the values that the quantity can have, which costs no coverage. NaN stays NaN."""
    return replace(estimate, low=max(estimate.low, low), high=min(estimate.high, high))


def mean_interval(values: Numbers, *, clusters: Clusters | None = None, confidence: float = 0.95) -> Estimate:
    """Mean with Student's t interval; with clusters, the cluster-robust variance on (clusters - 1) degrees of freedom.

    Raises `ValueError` for no values, or values that are not finite.
    """
    x = _finite(values, "values")
    members, count = _members(clusters, len(x))
    mean = float(x.mean())
    if count < 2:
        return Estimate(value=mean, low=math.nan, high=math.nan, n=len(x))
    error = math.sqrt(_variance_of_mean(x, members, count))
    half = student_t(confidence, count - 1) * error
    return Estimate(value=mean, low=mean - half, high=mean + half, n=len(x))


def paired_difference(
    after: Numbers, before: Numbers, *, clusters: Clusters | None = None, confidence: float = 0.95
) -> Estimate:
    """Mean of `after - before`, observation by observation: both were measured on the same prompts in the same order."""
    a, b = _finite(after, "after"), _finite(before, "before")
    _same_length(after=a, before=b)
    return mean_interval(a - b, clusters=clusters, confidence=confidence)


def proportion_interval(successes: float, n: int, *, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval for a share of `n` independent yes-or-no observations."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes of {n}; give at least one observation and at most n successes"
        )
    low, high = _score_interval(successes / n, 0.0, n, float(ndtri(0.5 + confidence / 2)))
    return Estimate(value=successes / n, low=low, high=high, n=n)


def rate_interval(scores: Numbers, *, clusters: Clusters | None = None, confidence: float = 0.95) -> Estimate:
    """Mean of scores between 0 and 1, such as wins with ties as a half or a judge's soft preference, with a score interval.

    Wilson's interval solves (p̂ - p)² = z² σ²(p)/n with σ²(p) = p(1 - p). Scores inside (0, 1) vary less than that, by the mean
    of s(1 - s), which is a quarter of the share of ties: σ²(p) = p(1 - p) - mean s(1 - s). With yes-or-no scores this is Wilson's
    interval. That share is shrunk as if z² decisive observations had been seen besides, so that nothing but ties does not give an
    interval of no width. With clusters, n is divided by the design effect (never below 1) and z becomes t on (clusters - 1) degrees.
    """
    s = _finite(scores, "scores")
    if s.min() < 0 or s.max() > 1:
        raise ValueError(f"scores run from {s.min()} to {s.max()}; a rate is made of scores between 0 and 1")
    n, rate = len(s), float(s.mean())
    members, count = _members(clusters, n)
    if count < 2 and n > 1:
        return Estimate(value=rate, low=0.0, high=1.0, n=n)
    effective, quantile = float(n), float(ndtri(0.5 + confidence / 2))
    if count < n:
        independent = float(s.var(ddof=1)) / n
        clustered = _variance_of_mean(s, members, count)
        effective = n / max(1.0, clustered / independent if independent > 0 else n / count)
        quantile = student_t(confidence, count - 1)
    slack = float((s * (1 - s)).mean()) * effective / (effective + quantile**2)
    low, high = _score_interval(rate, slack, effective, quantile)
    return Estimate(value=rate, low=low, high=high, n=n)


def bootstrap_mean(
    values: Numbers,
    *,
    clusters: Clusters | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean with the percentile interval of a bootstrap that draws whole clusters. For skewed values, and many clusters."""
    x = _finite(values, "values")
    return ratio_interval(
        x, np.ones_like(x), clusters=clusters, resamples=resamples, seed=seed, confidence=confidence
    )


def ratio_interval(
    numerators: Numbers,
    denominators: Numbers,
    *,
    clusters: Clusters | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """sum(numerators) / sum(denominators) with a percentile bootstrap over whole clusters.

    For a mean per token over completions, or one win rate over another measured on the same prompts. The value is that of the data,
    not the resamples' median; a resample whose denominators sum to zero is left out. Same seed, same interval.
    """
    a, b = _finite(numerators, "numerators"), _finite(denominators, "denominators")
    _same_length(numerators=a, denominators=b)
    if b.sum() == 0:
        raise ValueError("denominators sum to zero; the ratio does not exist")
    members, count = _members(clusters, len(a))
    value = float(a.sum() / b.sum())
    if count < 2:
        return Estimate(value=value, low=math.nan, high=math.nan, n=len(a))
    sums = np.stack([np.bincount(members, a, count), np.bincount(members, b, count)], axis=1)  # [C, 2]
    drawn = np.concatenate([weights @ sums for weights in _cluster_weights(count, resamples, seed)])  # [R, 2]
    drawn = drawn[drawn[:, 1] != 0]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [tail, 100 - tail])
    return Estimate(value=value, low=float(low), high=float(high), n=len(a))


def clusters_of(clusters: Clusters | None, kept: NDArray[np.intp]) -> list[Any] | None:
    """The labels of the observations kept, or None where each stands alone."""
    return None if clusters is None else [clusters[int(i)] for i in kept]


def student_t(confidence: float, degrees: int) -> float:
    """How many standard errors a two-sided interval reaches to each side."""
    return float(stdtrit(degrees, 0.5 + confidence / 2))


def _cluster_weights(count: int, resamples: int, seed: int, *, block: int = 4_000_000):
    """How often each of `count` clusters is drawn, as `[r, count]` pieces of `resamples` rows, so that memory stays bounded."""
    generator = np.random.default_rng(seed)
    rows = max(1, block // count)
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        drawn = generator.integers(count, size=(some, count)) + count * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)


def _score_interval(rate: float, slack: float, n: float, quantile: float) -> tuple[float, float]:
    """Both p with n (rate - p)² = quantile² (p(1 - p) - slack), cut to [0, 1]."""
    z2 = quantile**2
    middle = 2 * n * rate + z2
    root = quantile * math.sqrt(max(0.0, z2 + 4 * n * rate * (1 - rate) - 4 * slack * (n + z2)))
    low, high = (middle - root) / (2 * (n + z2)), (middle + root) / (2 * (n + z2))
    # A rate of 0 or 1 has that as its bound; rounding would leave it a hair off.
    return (0.0 if rate <= 0 else max(0.0, low)), (1.0 if rate >= 1 else min(1.0, high))


def _variance_of_mean(x: NDArray[np.float64], members: NDArray[np.intp], count: int) -> float:
    """Cluster-robust variance of the mean; with one observation a cluster it is s²/n."""
    totals = np.bincount(members, x - x.mean(), count)
    return float(count / (count - 1) * (totals**2).sum() / len(x) ** 2)


def _members(clusters: Clusters | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Each observation's cluster as an index `[n]`, and the number of clusters."""
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster labels for {n} observations; give one for each")
    index: dict[Any, int] = {}
    members = np.fromiter((index.setdefault(label, len(index)) for label in clusters), np.intp, n)
    return members, len(index)


def _finite(values: Numbers, name: str) -> NDArray[np.float64]:
    """The numbers as float64 `[n]`; raises where there are none, or some are not finite."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"{name} has shape {x.shape}; give one row of at least one number")
    bad = np.flatnonzero(~np.isfinite(x))
    if len(bad):
        raise ValueError(
            f"{name}[{bad[0]}] is {x[bad[0]]}, and {len(bad)} of {len(x)} are not finite; leave them out and say how many"
        )
    return x


def _same_length(**arrays: NDArray[np.float64]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{said} numbers; they are paired, so give as many of each")
