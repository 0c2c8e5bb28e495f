"""How good a reward model is on held-out comparisons: accuracy beside what the labels allow, calibration, and what length explains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln

from prefloop.evaluation.intervals import (
    FEWEST_RESAMPLED,
    Clusters,
    Estimate,
    Numbers,
    clusters_of,
    mean_interval,
    nothing,
    rate_interval,
    resampled,
    within,
    without_interval,
)
from prefloop.evaluation.win_rate import win_rate, win_scores
from prefloop.feedback.agreement import NoiseCeiling
from prefloop.feedback.shares import tail_of

RESAMPLES = 1000
"""Of prompts, for the intervals of calibration error and correlation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Comparisons in which the model gave the completion it prefers a probability from `low` to `high`."""

    low: float
    high: float
    predicted: float
    """Mean of those probabilities."""
    observed: Estimate
    """Share in which the judge preferred the same one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Whether sigmoid(score difference) is the probability that it claims to be."""

    bins: tuple[ReliabilityBin, ...]
    """Bins that hold a comparison, lowest first."""
    expected_error: float
    """Expected calibration error: mean over comparisons of |observed - predicted| in their bin."""
    expected_error_by_chance: float
    """What that error comes to, with as many comparisons, for a model that is perfectly calibrated; it is never zero."""
    brier: Estimate
    """Mean of (1 - probability of the chosen one)²; 0.25 for a model that knows nothing."""
    log_loss: Estimate
    """Mean of -log probability of the chosen one, in nats; ln 2 = 0.693 for a model that knows nothing."""
    error_interval: Estimate | None = None
    """Expected calibration error with a bootstrap interval over prompts; None in older files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthBin:
    """Comparisons whose chosen minus rejected length is from `low` to `high`, both included."""

    low: float
    high: float
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthQuality:
    """What length has to do with the labels, and with the model."""

    bins: tuple[LengthBin, ...]
    """Accuracy by length difference, shortest chosen first."""
    longer_is_chosen: Estimate
    """Accuracy of always choosing the longer completion (equal lengths count a half)."""
    longer_scores_higher: Estimate
    """How often the model scores the longer one higher, of all comparisons (equal lengths or scores count a half)."""
    correlation: Estimate | None = None
    """Pearson correlation of score and length over all completions; None in older files, or where one of them does not vary."""
    chosen_longer: Estimate | None = None
    """Accuracy where the chosen one is longer; None if it never is, and in older files."""
    chosen_shorter: Estimate | None = None
    """Accuracy where the chosen one is shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModelQuality:
    """Everything the report shows of a reward model."""

    accuracy: Estimate
    """Share of held-out comparisons in which the chosen completion scores higher, ties as a half."""
    ceiling: float | None
    """Accuracy of a perfect model on labels as noisy as these; None if the noise is not known."""
    gold_accuracy: Estimate | None
    """The same against noise-free gold utilities; None if there is no gold judge."""
    calibration: Calibration
    length: LengthQuality
    label_ceiling: NoiseCeiling | None = None
    """What agreement among the labels allows (`label_noise`), where pairs have several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOf:
    """The best of n completions by the reward model."""

    n: int
    kl: float
    """log n - (n-1)/n, nats: the most that this choice moves away from the policy it draws from."""
    proxy: Estimate
    """Expected reward-model score of the one it takes."""
    gold: Estimate | None
    """Expected gold utility of the one it takes; None if there is no gold judge."""


def reward_model_quality(
    chosen_scores: Numbers,
    rejected_scores: Numbers,
    chosen_lengths: Numbers,
    rejected_lengths: Numbers,
    *,
    clusters: Clusters | None = None,
    ceiling: float | None = None,
    label_ceiling: NoiseCeiling | None = None,
    gold_accuracy: Estimate | None = None,
) -> RewardModelQuality:
    """Accuracy, calibration and length on held-out comparisons; `clusters` names each comparison's prompt."""
    return RewardModelQuality(
        accuracy=accuracy(chosen_scores, rejected_scores, clusters=clusters),
        ceiling=ceiling,
        label_ceiling=label_ceiling,
        gold_accuracy=gold_accuracy,
        calibration=calibration(chosen_scores, rejected_scores, clusters=clusters),
        length=length_quality(
            chosen_scores, rejected_scores, chosen_lengths, rejected_lengths, clusters=clusters
        ),
    )


def accuracy(
    chosen_scores: Numbers, rejected_scores: Numbers, *, clusters: Clusters | None = None
) -> Estimate:
    """Share of comparisons in which the chosen completion scores higher, ties as a half."""
    return win_rate(chosen_scores, rejected_scores, clusters=clusters)


def accuracy_against_gold(
    scores_a: Numbers,
    scores_b: Numbers,
    gold_a: Numbers,
    gold_b: Numbers,
    *,
    clusters: Clusters | None = None,
) -> Estimate:
    """Share of pairs that the model orders as the gold utility does, equal scores as a half.

    Pairs of equal gold utility have no right order and are left out; `n` counts those that remain.
    """
    right = win_scores(gold_a, gold_b)
    agree = 1 - np.abs(win_scores(scores_a, scores_b) - right)  # 1, 0, and 0.5 where the scores tie
    kept = np.flatnonzero(right != 0.5)
    if len(kept) == 0:
        raise ValueError("every pair has equal gold utilities, so none has a right order")
    return rate_interval(agree[kept], clusters=clusters_of(clusters, kept))


def ceiling_under_flips(flip_rate: float) -> float:
    """Accuracy of a perfect model on labels of which this share was flipped at random."""
    if not 0 <= flip_rate <= 1:
        raise ValueError(f"flip_rate is {flip_rate}; it must be a share, between 0 and 1")
    return max(flip_rate, 1 - flip_rate)


def ceiling_of_probabilities(probabilities: Numbers) -> float:
    """Accuracy of a perfect model where each label was drawn with its own probability (Bradley-Terry noise): mean max(p, 1 - p)."""
    p = np.asarray(probabilities, dtype=np.float64)
    if len(p) == 0 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("give at least one probability, each between 0 and 1")
    return float(np.maximum(p, 1 - p).mean())


def accuracy_without_noise(noisy: Estimate, flip_rate: float) -> Estimate:
    """Accuracy against the true labels, from that against labels flipped at a known rate: (a - ε) / (1 - 2ε), cut to [0, 1]."""
    if not 0 <= flip_rate < 0.5:
        raise ValueError(f"flip_rate is {flip_rate}; it must be at least 0 and below 0.5")
    value, low, high = (
        min(1.0, max(0.0, (a - flip_rate) / (1 - 2 * flip_rate)))
        for a in (noisy.value, noisy.low, noisy.high)
    )
    return replace(noisy, value=value, low=low, high=high)


def calibration(
    chosen_scores: Numbers, rejected_scores: Numbers, *, clusters: Clusters | None = None, bins: int = 10
) -> Calibration:
    """Reliability of p = sigmoid(score difference), in equal bins of the preferred completion's probability, 0.5 to 1.

    Which completion comes first in a comparison means nothing, so the probability is taken of the one that the model prefers; binning
    the probability of the chosen one would call a perfect model miscalibrated.
    """
    difference = np.asarray(chosen_scores, dtype=np.float64) - np.asarray(rejected_scores, dtype=np.float64)
    right = win_scores(chosen_scores, rejected_scores)
    confidence = expit(np.abs(difference))
    which = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table, error, chance = [], 0.0, 0.0
    for b in range(bins):
        inside = np.flatnonzero(which == b)
        if len(inside) == 0:
            continue
        predicted = float(confidence[inside].mean())
        observed = rate_interval(right[inside], clusters=clusters_of(clusters, inside))
        table.append(
            ReliabilityBin(
                low=0.5 + b / (2 * bins),
                high=0.5 + (b + 1) / (2 * bins),
                predicted=predicted,
                observed=observed,
            )
        )
        share = len(inside) / len(difference)
        error += share * abs(observed.value - predicted)
        # Mean absolute deviation of a normal with the binomial's standard deviation.
        chance += share * math.sqrt(2 / math.pi * predicted * (1 - predicted) / len(inside))
    return Calibration(
        bins=tuple(table),
        expected_error=error,
        expected_error_by_chance=chance,
        brier=within(mean_interval(expit(-difference) ** 2, clusters=clusters), 0, 1),
        log_loss=within(mean_interval(np.logaddexp(0, -difference), clusters=clusters), 0, math.inf),
        error_interval=_error_interval(confidence, right, which, bins, clusters),
    )


def _error_interval(
    confidence: NDArray[np.float64],
    right: NDArray[np.float64],
    which: NDArray[np.int64],
    bins: int,
    clusters: Clusters | None,
) -> Estimate:
    """Expected calibration error, an L1 norm of the gaps in bins, with a bootstrap interval over clusters (expanded percentiles).

    Resampled errors are too large by about what chance adds to the error itself, so the interval reflects them about the estimate, joined with
    their own percentiles. Where the error is within the resampled gaps' distance from the observed ones, the model may be calibrated: `low` is 0.
    """
    ids = _ids(clusters, len(right))
    groups = int(ids.max()) + 1
    # [groups, bins]: what each prompt adds to the sum of observed - predicted in a bin
    gaps = np.zeros((groups, bins))
    np.add.at(gaps, (ids, which), right - confidence)
    sizes = np.bincount(ids, minlength=groups)
    value = float(np.abs(gaps.sum(0)).sum() / len(right))
    if groups < 2:
        return without_interval(value, len(right))
    totals = resampled(np.column_stack([gaps, sizes]), RESAMPLES)
    drawn, tail = totals[:, :-1] / totals[:, -1:], tail_of(groups)
    low, high = np.quantile(np.abs(drawn).sum(1), [tail, 1 - tail])
    apart = float(np.quantile(np.abs(drawn - gaps.sum(0) / len(right)).sum(1), 1 - tail))
    if nothing(apart, 1.0):
        return without_interval(value, len(right), no_spread=True)
    return Estimate(
        value=value,
        low=0.0 if value <= apart else max(0.0, min(float(low), 2 * value - float(high), value)),
        high=max(value, 2 * value - float(low), float(high)),
        n=len(right),
    )


def length_quality(
    chosen_scores: Numbers,
    rejected_scores: Numbers,
    chosen_lengths: Numbers,
    rejected_lengths: Numbers,
    *,
    clusters: Clusters | None = None,
    bins: int = 5,
) -> LengthQuality:
    """Accuracy in bins of chosen minus rejected length (about equally many comparisons each), and of length alone."""
    right = win_scores(chosen_scores, rejected_scores)
    longer = win_scores(chosen_lengths, rejected_lengths)
    difference = np.asarray(chosen_lengths, dtype=np.float64) - np.asarray(rejected_lengths, dtype=np.float64)
    if len(right) != len(difference):
        raise ValueError(
            f"{len(right)} scores and {len(difference)} lengths; give a length for each completion"
        )
    edges = np.unique(np.quantile(difference, np.linspace(0, 1, bins + 1)))
    which = np.clip(np.searchsorted(edges, difference, side="left") - 1, 0, max(0, len(edges) - 2))
    table = []
    for b in np.unique(which):
        inside = np.flatnonzero(which == b)
        rate = rate_interval(right[inside], clusters=clusters_of(clusters, inside))
        table.append(
            LengthBin(
                low=float(difference[inside].min()), high=float(difference[inside].max()), accuracy=rate
            )
        )
    # The model picks the chosen one and the chosen one is longer, or neither: it scored the longer one higher.
    higher = np.where((right == 0.5) | (longer == 0.5), 0.5, (right == longer).astype(np.float64))
    return LengthQuality(
        bins=tuple(table),
        longer_is_chosen=rate_interval(longer, clusters=clusters),
        longer_scores_higher=rate_interval(higher, clusters=clusters),
        correlation=_correlation(
            np.concatenate([np.asarray(chosen_scores), np.asarray(rejected_scores)]).astype(np.float64),
            np.concatenate([np.asarray(chosen_lengths), np.asarray(rejected_lengths)]).astype(np.float64),
            clusters=np.concatenate([_ids(clusters, len(right))] * 2),
        ),
        chosen_longer=_accuracy_among(right, difference > 0, clusters),
        chosen_shorter=_accuracy_among(right, difference < 0, clusters),
    )


def _ids(clusters: Clusters | None, n: int) -> NDArray[np.int64]:
    """A number for each cluster."""
    return np.unique(np.asarray(clusters if clusters is not None else range(n)), return_inverse=True)[1]


def _accuracy_among(
    right: NDArray[np.float64], among: NDArray[np.bool_], clusters: Clusters | None
) -> Estimate | None:
    inside = np.flatnonzero(among)
    return rate_interval(right[inside], clusters=clusters_of(clusters, inside)) if len(inside) else None


def _correlation(
    a: NDArray[np.float64], b: NDArray[np.float64], *, clusters: NDArray[np.int64]
) -> Estimate | None:
    """Pearson's correlation, with a bootstrap interval (expanded percentiles) that resamples clusters; None if one side does not vary.

    With fewer than 8 clusters there is no interval, nor where all lie on one line (`no_spread`).
    """
    if a.std() == 0 or b.std() == 0:
        return None
    ids = np.unique(clusters, return_inverse=True)[1]
    groups = int(ids.max()) + 1
    a, b = a - a.mean(), b - b.mean()
    sums = np.zeros((groups, 6))
    np.add.at(sums, ids, np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=1))

    def of(total: NDArray[np.float64]) -> NDArray[np.float64]:
        n, s, t, ss, tt, st = np.moveaxis(total, -1, 0)
        spread, other = ss - s * s / n, tt - t * t / n
        # A sample in which one side does not vary has no correlation, only rounding errors.
        varies = (spread > 1e-12 * ss) & (other > 1e-12 * tt)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(varies, (st - s * t / n) / np.sqrt(spread * other), np.nan)

    value = float(of(sums.sum(0)))
    if 1 - abs(value) < 1e-12:
        return without_interval(value, len(a), no_spread=True)
    if groups < FEWEST_RESAMPLED:
        return without_interval(value, len(a))
    tail = tail_of(groups)
    low, high = np.nanquantile(of(resampled(sums, RESAMPLES)), [tail, 1 - tail])
    return Estimate(value=value, low=float(low), high=float(high), n=len(a))


def best_of_n_weights(n: int, total: int) -> NDArray[np.float64]:
    """C(i-1, n-1) / C(total, n) for i = 1..total: how likely the i-th lowest of `total` is the highest of n drawn without replacement."""
    if not 1 <= n <= total:
        raise ValueError(f"best of {n} from {total} completions a prompt; n must be from 1 to {total}")
    i = np.arange(n, total + 1, dtype=np.float64)
    log_weights = (
        gammaln(i)
        - gammaln(n)
        - gammaln(i - n + 1)
        - (gammaln(total + 1) - gammaln(n + 1) - gammaln(total - n + 1))
    )
    return np.concatenate([np.zeros(n - 1), np.exp(log_weights)])


def best_of_n(
    proxy: NDArray[np.float64], gold: NDArray[np.float64] | None, *, ns: Sequence[int] | None = None
) -> tuple[BestOf, ...]:
    """Expected proxy and gold (if given) of the best of n by proxy, for each n, from N >= n completions of every prompt `[prompts, N]`.

    Exact by order statistics (arXiv:2112.09332 appendix I, arXiv:2210.10760): nothing is resampled, and each prompt's value is unbiased.
    Completions of equal proxy share their places, as if ties were broken at random. Intervals are over prompts. `ns` defaults to
    1, 2, 4, ... and N.
    """
    has_gold = gold is not None
    proxy = np.asarray(proxy, dtype=np.float64)
    gold = np.asarray(gold, dtype=np.float64) if gold is not None else np.zeros_like(proxy)
    if proxy.ndim != 2 or proxy.shape != gold.shape or proxy.size == 0:
        raise ValueError(f"proxy is {proxy.shape} and gold {gold.shape}; both must be [prompts, completions]")
    total = proxy.shape[1]
    ns = ns or sorted({*(2**k for k in range(total.bit_length())), total})
    order = np.argsort(proxy, axis=1, kind="stable")
    proxy, gold = np.take_along_axis(proxy, order, 1), np.take_along_axis(gold, order, 1)
    gold = _mean_within_ties(proxy, gold)
    curve = []
    for n in ns:
        weights = best_of_n_weights(n, total)
        curve.append(
            BestOf(
                n=n,
                kl=math.log(n) - (n - 1) / n,
                proxy=mean_interval(proxy @ weights),
                gold=mean_interval(gold @ weights) if has_gold else None,
            )
        )
    return tuple(curve)


def _mean_within_ties(sorted_proxy: NDArray[np.float64], gold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gold with each run of equal proxy in a row replaced by the run's mean. `[prompts, N]`, rows sorted by proxy."""
    starts = np.ones(sorted_proxy.shape, dtype=bool)
    starts[:, 1:] = sorted_proxy[:, 1:] != sorted_proxy[:, :-1]
    run = np.cumsum(starts.ravel()) - 1  # a row's first element starts a run, so runs never cross rows
    mean = np.bincount(run, gold.ravel()) / np.bincount(run)
    return mean[run].reshape(gold.shape)
