"""How good a reward model is on held-out comparisons: accuracy beside what the labels allow, calibration, and what length explains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln

from prefloop.evaluation.intervals import (
    Clusters,
    Estimate,
    Numbers,
    clusters_of,
    mean_interval,
    rate_interval,
)
from prefloop.evaluation.win_rate import win_rate, win_scores


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


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModelQuality:
    """Everything the report shows of a reward model."""

    accuracy: Estimate
    """Share of held-out comparisons in which the chosen completion scores higher, ties as a half."""
    ceiling: float | None
    """Accuracy of a perfect model on labels as noisy as these; None where the noise is not known."""
    gold_accuracy: Estimate | None
    """The same against noise-free gold utilities; None where there is no gold judge."""
    calibration: Calibration
    length: LengthQuality


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOf:
    """The best of n completions by the reward model."""

    n: int
    kl: float
    """log n - (n-1)/n, nats: the most that this choice moves away from the policy it draws from."""
    proxy: Estimate
    """Expected reward-model score of the one it takes."""
    gold: Estimate
    """Expected gold utility of the one it takes."""


def reward_model_quality(
    chosen_scores: Numbers,
    rejected_scores: Numbers,
    chosen_lengths: Numbers,
    rejected_lengths: Numbers,
    *,
    clusters: Clusters | None = None,
    ceiling: float | None = None,
    gold_accuracy: Estimate | None = None,
) -> RewardModelQuality:
    """Accuracy, calibration and length on held-out comparisons; `clusters` names each comparison's prompt."""
    return RewardModelQuality(
        accuracy=accuracy(chosen_scores, rejected_scores, clusters=clusters),
        ceiling=ceiling,
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
        raise ValueError(f"flip_rate is {flip_rate}; it is a share, between 0 and 1")
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
    return Estimate(value=value, low=low, high=high, n=noisy.n)


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
        brier=mean_interval(expit(-difference) ** 2, clusters=clusters),
        log_loss=mean_interval(np.logaddexp(0, -difference), clusters=clusters),
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
    )


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
    proxy: NDArray[np.float64], gold: NDArray[np.float64], *, ns: Sequence[int] | None = None
) -> tuple[BestOf, ...]:
    """Expected proxy and gold of the best of n by proxy, for each n, from N >= n completions of every prompt `[prompts, N]`.

    Exact by order statistics (arXiv:2112.09332 appendix I, arXiv:2210.10760): nothing is resampled, and each prompt's value is unbiased.
    Completions of equal proxy share their places, as if ties were broken at random. Intervals are over prompts. `ns` defaults to
    1, 2, 4, ... and N.
    """
    proxy, gold = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
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
                gold=mean_interval(gold @ weights),
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
