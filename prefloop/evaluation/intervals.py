"""Estimates and their intervals: means, proportions, win rates, ratios, with observations of one prompt kept together.

Several completions of one prompt are not independent, so every function takes `clusters`, one label per observation
(the prompt's index or hash); leaving it out says that each observation stands alone. `n` is always the number of observations.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit  # scipy.stats would say the same and take a second to import

from prefloop.feedback.shares import share_interval, tail_of, wilson

Numbers = Sequence[float] | NDArray[Any]
Clusters = Sequence[Any] | NDArray[Any]
FEWEST_RESAMPLED = 8
"""Clusters; fewer have too few resamples that differ for a bootstrap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, the interval that covers the truth in 95 % of samples (unless stated otherwise), and the observations behind it.

    `low` and `high` are NaN if the sample cannot say (one observation, one prompt, `no_spread`).
    """

    value: float
    low: float
    high: float
    n: int
    no_spread: bool = False
    """All observations (or all prompts) show one value, so they do not say how far off it may be."""

    def to_json(self) -> dict[str, float | int | None]:
        """`{value, low, high, n}`, and `no_spread` where it is true; NaN and infinities become null, which JSON can hold."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        found = {name: float(x) if math.isfinite(x) else None for name, x in numbers.items()} | {"n": self.n}
        return found | {"no_spread": True} if self.no_spread else found


def exactly(value: float, n: int) -> Estimate:
    """A number that is so by definition: a policy's KL to itself, its win rate against itself."""
    return Estimate(value=value, low=value, high=value, n=n)


def without_interval(value: float, n: int, *, no_spread: bool = False) -> Estimate:
    """A number of which the sample does not say how far off it may be."""
    return Estimate(value=value, low=math.nan, high=math.nan, n=n, no_spread=no_spread)


def within(estimate: Estimate, low: float, high: float) -> Estimate:
    """The same with its interval cut to the values that the quantity can have, which costs no coverage. NaN stays NaN."""
    return replace(estimate, low=max(estimate.low, low), high=min(estimate.high, high))


def mean_interval(values: Numbers, *, clusters: Clusters | None = None, confidence: float = 0.95) -> Estimate:
    """Mean with Student's t interval; with clusters, the cluster-robust variance on (clusters - 1) degrees of freedom.

    Values that are all equal have no interval (`no_spread`).

    Raises `ValueError` for no values, or values that are not finite.
    """
    x = _finite(values, "values")
    members, count = members_of(clusters, len(x))
    mean = float(x.mean())
    if count < 2:
        return without_interval(mean, len(x))
    totals = np.bincount(members, x - mean, count)
    error = math.sqrt(float(count / (count - 1) * (totals**2).sum())) / len(x)  # s/√n where each stands alone
    return _about(mean, error, count, len(x), confidence)


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
    low, high = wilson(successes / n, n, float(ndtri(0.5 + confidence / 2)))
    return Estimate(value=successes / n, low=low, high=high, n=n)


def rate_interval(scores: Numbers, *, clusters: Clusters | None = None, confidence: float = 0.95) -> Estimate:
    """Mean of scores between 0 and 1, such as wins with ties as a half or a judge's soft preference, with Wilson's score interval.

    `feedback.shares.share_interval` says how ties and clusters go into it. It has a width where all scores agree.
    """
    s = _finite(scores, "scores")
    if s.min() < 0 or s.max() > 1:
        raise ValueError(f"scores run from {s.min()} to {s.max()}; a rate is made of scores between 0 and 1")
    low, high = share_interval(s, members_of(clusters, len(s))[0], confidence=confidence)
    return Estimate(value=float(s.mean()), low=low, high=high, n=len(s))


def bootstrap_mean(
    values: Numbers,
    *,
    clusters: Clusters | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean with the bootstrap's interval of `ratio_interval`, which draws whole clusters. For skewed values, and many clusters."""
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
    """sum(numerators) / sum(denominators) with a bootstrap over whole clusters, by expanded percentiles (`feedback.shares.tail_of`).

    For a mean per token over completions, or one win rate over another measured on the same prompts. The value is that of the data,
    not the resamples' median; a resample whose denominators sum to zero is left out. Same seed, same interval. With fewer than 8 clusters
    the interval is Student's t about the linearised ratio (Cochran 1977, section 6.3); clusters of one ratio have none (`no_spread`).
    """
    a, b = _finite(numerators, "numerators"), _finite(denominators, "denominators")
    _same_length(numerators=a, denominators=b)
    if b.sum() == 0:
        raise ValueError("denominators sum to zero; the ratio is undefined")
    members, count = members_of(clusters, len(a))
    value = float(a.sum() / b.sum())
    if count < 2:
        return without_interval(value, len(a))
    sums = np.stack([np.bincount(members, a, count), np.bincount(members, b, count)], axis=1)  # [C, 2]
    left = sums @ (1.0, -value)
    error = math.sqrt(count / (count - 1) * float(left @ left)) / abs(float(b.sum()))
    if nothing(error, value):
        return without_interval(value, len(a), no_spread=True)
    if count < FEWEST_RESAMPLED:
        return _about(value, error, count, len(a), confidence)
    drawn = resampled(sums, resamples, seed)
    drawn = drawn[drawn[:, 1] != 0]
    tail = tail_of(count, confidence)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [tail, 1 - tail])
    return Estimate(value=value, low=float(low), high=float(high), n=len(a))


def resampled(sums: NDArray[Any], resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """`[resamples, k]` totals of clusters drawn again, from the `[clusters, k]` of each."""
    return np.concatenate([weights @ sums for weights in _cluster_weights(len(sums), resamples, seed)])


def bootstrap_statistic(
    rows: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float],
    *,
    clusters: Clusters | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """A function of the rows' sum (`[n, m]` to `[m]`), such as a corpus score of summed counts, with a percentile bootstrap over whole clusters.
    Same seed, same interval; with fewer than `FEWEST_RESAMPLED` clusters there is none."""
    members, count = members_of(clusters, len(rows))
    value = float(statistic(rows.sum(axis=0)))
    if count < FEWEST_RESAMPLED:
        return without_interval(value, len(rows))
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, members, rows)
    drawn = [statistic(sample) for sample in resampled(sums, resamples, seed)]
    tail = tail_of(count, confidence)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    if low == high:
        return without_interval(value, len(rows), no_spread=True)
    return Estimate(value=value, low=float(low), high=float(high), n=len(rows))


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


def _about(value: float, error: float, count: int, n: int, confidence: float) -> Estimate:
    """Student's t on (clusters - 1) degrees about a value; no interval where the standard error is 0."""
    if nothing(error, value):
        return without_interval(value, n, no_spread=True)
    half = student_t(confidence, count - 1) * error
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def nothing(error: float, value: float) -> bool:
    """Whether a standard error is 0, but for rounding."""
    return error <= 1e-14 * abs(value)


def members_of(clusters: Clusters | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Each observation's cluster as an index `[n]`, and the number of clusters."""
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster labels for {n} observations; give one for each")
    index: dict[Any, int] = {}
    members = np.fromiter((index.setdefault(label, len(index)) for label in clusters), np.intp, n)
    return members, len(index)


def _finite(values: Numbers, name: str) -> NDArray[np.float64]:
    """The numbers as float64 `[n]`; raises if there are none, or some are not finite."""
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
        lengths_found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{lengths_found} numbers; they are paired, so give as many of each")
