"""95 % intervals of shares that hold with few observations, with clusters, and where all outcomes agree; and how far a bootstrap's reach.

Wilson's score interval (1927) holds every share p with n (p̂ - p)² ≤ z² p (1 - p): the variance is that of the share that is tried, not of the
sample. So it has a width where the sample has none.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit  # scipy.stats would say the same and take a second to import


def share_interval(
    scores: NDArray[np.float64], members: NDArray[np.integer[Any]] | None = None, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Bounds of the mean of `[n]` scores between 0 and 1; `members` `[n]` numbers each one's cluster from 0, none left out.

    Scores inside (0, 1) vary less than outcomes of yes or no, by the mean of s (1 - s): n is divided by ν = 1 - mean s (1 - s) / p̂ (1 - p̂), taken
    for the same at every p. The mean of s (1 - s) is shrunk as if z² outcomes of yes or no had been seen besides, so that nothing but ties has a
    width too.

    With clusters n is divided by the design effect (Kish 1965): the cluster-robust variance of the mean over that of independent scores, at
    least 1, and z becomes Student's t on (clusters - 1) degrees. Clusters that all agree show no design effect, so n / clusters, the most it
    usually is, is averaged in with the weight of one cluster; the weight of what was seen is the number of clusters of the rarer outcome.
    One cluster of several scores says nothing of others: the bounds are 0 and 1.
    """
    n, rate = len(scores), float(scores.mean())
    count = n if members is None else int(members.max()) + 1
    if count < 2 and n > 1:
        return 0.0, 1.0
    effective, quantile = float(n), float(ndtri(0.5 + confidence / 2))
    if members is not None and count < n:
        quantile = float(stdtrit(count - 1, 0.5 + confidence / 2))
        most, independent = n / count, float(scores.var(ddof=1)) / n
        totals = np.bincount(members, scores - rate, count)
        clustered = float(count / (count - 1) * (totals**2).sum() / n**2)
        seen = count * min(rate, 1 - rate) if independent > 0 else 0.0
        effect = max(1.0, clustered / independent) if independent > 0 else most
        effective = n / ((seen * effect + most) / (seen + 1))
    if 0 < rate < 1:
        inside = float((scores * (1 - scores)).mean()) * effective / (effective + quantile**2)
        effective /= 1 - inside / (rate * (1 - rate))
    return wilson(rate, effective, quantile)


def wilson(rate: float, n: float, quantile: float) -> tuple[float, float]:
    """Both p with n (rate - p)² = quantile² p (1 - p)."""
    z2 = quantile**2
    middle, reach = 2 * n * rate + z2, quantile * math.sqrt(z2 + 4 * n * rate * (1 - rate))
    low, high = (middle - reach) / (2 * (n + z2)), (middle + reach) / (2 * (n + z2))
    # A share of 0 or 1 has that as its bound; rounding would leave it a hair off.
    return (0.0 if rate <= 0 else max(0.0, low)), (1.0 if rate >= 1 else min(1.0, high))


def tail_of(clusters: int, confidence: float = 0.95) -> float:
    """Share of resamples beyond each end of a bootstrap interval: Φ(-√(n / (n - 1)) t), the expanded percentiles of Hesterberg (2015).

    Plain percentiles are too narrow by √((n - 1) / n), and by a normal quantile where Student's is right: with 8 clusters 0.6 %
    lie beyond each end and not 2.5 %.
    """
    return float(ndtr(-math.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, 0.5 + confidence / 2)))
