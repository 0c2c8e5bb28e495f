"""Reward-model statistics against hand values, brute force, and models whose quality is known."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit

from prefloop.evaluation.intervals import proportion_interval
from prefloop.evaluation.reward_model_quality import (
    accuracy,
    accuracy_against_gold,
    accuracy_without_noise,
    best_of_n,
    best_of_n_weights,
    calibration,
    ceiling_of_probabilities,
    ceiling_under_flips,
    length_quality,
    reward_model_quality,
)


def test_accuracy_counts_ties_as_half():
    assert accuracy([1, 0, 2, 5], [0, 1, 2, 1]).value == (1 + 0 + 0.5 + 1) / 4


def test_gold_accuracy_leaves_out_pairs_without_an_order():
    estimate = accuracy_against_gold(
        [1, 0, 1, 3], [0, 1, 0, 3], [5, 5, 2, 1], [1, 1, 2, 0], clusters=list("abcd")
    )
    assert estimate.n == 3
    assert estimate.value == pytest.approx((1 + 0 + 0.5) / 3)
    with pytest.raises(ValueError, match="equal gold"):
        accuracy_against_gold([1], [0], [2], [2])


def test_ceilings():
    assert ceiling_under_flips(0.1) == pytest.approx(0.9)
    assert ceiling_under_flips(0.0) == 1
    assert ceiling_of_probabilities([0.2, 0.9, 0.5]) == pytest.approx((0.8 + 0.9 + 0.5) / 3)
    # A perfect model on labels with 10 % flips is right on 90 %, which means perfect without them.
    assert accuracy_without_noise(proportion_interval(90, 100), 0.1).value == pytest.approx(1)
    assert accuracy_without_noise(proportion_interval(50, 100), 0.1).value == pytest.approx(0.5)


def _comparisons(n: int, stretch: float, seed: int = 0):
    """Scores of a model that gives `stretch` times the true log-odds, on labels drawn with the true probability."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 1.5, n)
    first = random.random(n) < expit(logit)
    scores = stretch * logit
    return np.where(first, scores, 0), np.where(first, 0, scores)


def test_calibrated_model_is_found_calibrated_and_a_boastful_one_not():
    honest = calibration(*_comparisons(20_000, 1.0))
    assert honest.expected_error < 2.5 * honest.expected_error_by_chance
    for each in honest.bins:
        assert each.low <= each.predicted <= each.high
        assert abs(each.observed.value - each.predicted) < 0.04
    assert sum(each.observed.n for each in honest.bins) == 20_000
    boastful = calibration(*_comparisons(20_000, 4.0))
    assert boastful.expected_error > 0.1
    assert boastful.log_loss.value > honest.log_loss.value


def test_calibration_of_a_model_that_knows_nothing():
    found = calibration([0.0] * 10, [0.0] * 10)
    assert found.brier.value == pytest.approx(0.25)
    assert found.log_loss.value == pytest.approx(math.log(2))
    assert found.expected_error == 0
    assert [each.observed.value for each in found.bins] == [0.5]


def test_intervals_of_losses_end_at_the_values_that_they_can_have():
    found = calibration([9.0, 0.0, 0.0], [0.0, 2.5, 0.1])
    assert found.log_loss.low == 0
    assert found.log_loss.high > 2
    assert (found.brier.low, found.brier.high) == (0, 1)


def test_extreme_scores_stay_finite():
    found = calibration([1000.0, -1000.0], [-1000.0, 1000.0])
    assert math.isfinite(found.log_loss.value)
    assert found.log_loss.value == pytest.approx(1000)
    assert found.bins[-1].predicted == 1


def test_length_bins_hold_every_comparison_once():
    random = np.random.default_rng(0)
    chosen_length, rejected_length = random.integers(1, 60, 500), random.integers(1, 50, 500)
    # This model looks at nothing but length.
    found = length_quality(chosen_length, rejected_length, chosen_length, rejected_length)
    assert sum(each.accuracy.n for each in found.bins) == 500
    assert all(a.high < b.low for a, b in zip(found.bins, found.bins[1:], strict=False))
    assert found.bins[0].accuracy.value == 0
    assert found.bins[-1].accuracy.value == 1
    assert found.longer_scores_higher.value == pytest.approx(1, abs=0.02)
    wins = np.where(chosen_length > rejected_length, 1, np.where(chosen_length == rejected_length, 0.5, 0))
    assert found.longer_is_chosen.value == pytest.approx(wins.mean())


def test_equal_lengths_make_one_bin():
    found = length_quality([1, 0, 1], [0, 1, 0], [5, 5, 5], [5, 5, 5])
    assert [(each.low, each.high, each.accuracy.n) for each in found.bins] == [(0, 0, 3)]
    assert found.longer_is_chosen.value == 0.5


def _best_of_n_by_enumeration(proxy, gold, n):
    """Mean over all subsets of n; among equal proxies each is taken as often."""
    values = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        values.append(np.mean([gold[i] for i in subset if proxy[i] == top]))
    return float(np.mean(values))


@pytest.mark.parametrize("ties", [False, True])
def test_best_of_n_against_all_subsets(ties: bool):
    random = np.random.default_rng(1)
    proxy = random.normal(size=(3, 7))
    proxy = proxy.round(0) if ties else proxy
    gold = random.normal(size=(3, 7))
    for n in range(1, 8):
        (point,) = best_of_n(proxy, gold, ns=[n])
        brute = [_best_of_n_by_enumeration(p, g, n) for p, g in zip(proxy, gold, strict=True)]
        assert point.gold is not None
        assert point.gold.value == pytest.approx(np.mean(brute), abs=1e-12)
        brute = [_best_of_n_by_enumeration(p, p, n) for p in proxy]
        assert point.proxy.value == pytest.approx(np.mean(brute), abs=1e-12)


def test_best_of_n_kl_and_weights():
    assert best_of_n_weights(2, 3) == pytest.approx([0, 1 / 3, 2 / 3])
    for n in (1, 5, 500):
        assert best_of_n_weights(n, 1000).sum() == pytest.approx(1)
    curve = best_of_n(np.random.default_rng(0).normal(size=(2, 64)), np.zeros((2, 64)))
    assert [point.n for point in curve] == [1, 2, 4, 8, 16, 32, 64]
    kl = {point.n: point.kl for point in curve}
    assert kl[1] == 0
    assert (kl[2], kl[4], kl[16], kl[64]) == pytest.approx((0.1931, 0.6363, 1.8351, 3.1745), abs=1e-4)
    with pytest.raises(ValueError, match="best of 9 from 8"):
        best_of_n_weights(9, 8)


def test_best_of_n_of_an_unrelated_proxy_gains_nothing():
    random = np.random.default_rng(2)
    curve = best_of_n(random.normal(size=(400, 32)), random.normal(size=(400, 32)))
    assert all(point.gold is not None and point.gold.low < 0 < point.gold.high for point in curve)
    assert curve[-1].proxy.value > 2


def test_all_together():
    found = reward_model_quality([1, 2], [0, 3], [4, 5], [3, 6], clusters=["x", "y"], ceiling=0.9)
    assert found.accuracy.value == 0.5
    assert found.ceiling == 0.9
    assert found.gold_accuracy is None
