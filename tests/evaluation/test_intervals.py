"""Intervals against hand values, brute force and simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from prefloop.evaluation.intervals import (
    Estimate,
    _cluster_weights,
    bootstrap_mean,
    exactly,
    mean_interval,
    paired_difference,
    proportion_interval,
    rate_interval,
    ratio_interval,
    within,
)
from prefloop.evaluation.json_files import decode


def test_t_interval_by_hand():
    # mean 3, s² = 10/4, standard error sqrt(2.5/5) = 0.70711, t(0.975, 4) = 2.77645
    estimate = mean_interval([1, 2, 3, 4, 5])
    assert estimate.value == 3
    assert estimate.n == 5
    assert estimate.low == pytest.approx(3 - 2.776445 * 0.7071068, abs=1e-5)
    assert estimate.high == pytest.approx(3 + 2.776445 * 0.7071068, abs=1e-5)


def test_wilson_by_hand():
    # p̂ = 0.8, n = 10, z = 1.959964: centre (0.8 + z²/20)/(1 + z²/10), the textbook's 0.4902 to 0.9433
    estimate = proportion_interval(8, 10)
    assert (estimate.low, estimate.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    none, all_of_them = proportion_interval(0, 20), proportion_interval(20, 20)
    # z²/(n + z²) = 3.841459/23.841459
    assert (none.low, none.high) == pytest.approx((0.0, 0.161125), abs=1e-6)
    assert none.low == 0.0
    assert all_of_them.high == 1.0
    assert all_of_them.low == pytest.approx(1 - none.high, abs=1e-12)


def test_cluster_variance_by_hand():
    # Two observations in each of three clusters: deviations' sums -3, 1, 2; variance 3/2 · (9 + 1 + 4)/36
    estimate = mean_interval([0, 1, 2, 3, 2, 4], clusters=["a", "a", "b", "b", "c", "c"])
    error = math.sqrt(1.5 * 14 / 36)
    assert estimate.value == 2
    assert estimate.high - 2 == pytest.approx(4.302653 * error, abs=1e-5)


def test_one_observation_has_no_interval():
    estimate = mean_interval([3.0])
    assert estimate.value == 3
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert estimate.to_json() == {"value": 3.0, "low": None, "high": None, "n": 1}
    one_prompt = rate_interval([1, 0, 1], clusters=["p"] * 3)
    assert (one_prompt.low, one_prompt.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    "estimate",
    [
        mean_interval([0.1] * 30),
        mean_interval([16.0, 3.0] * 4, clusters=[0, 0, 1, 1, 2, 2, 3, 3]),
        paired_difference([1.3, 2.3], [0.3, 1.3]),
        ratio_interval([1, 2, 3], [2, 4, 6]),
        ratio_interval([0.1] * 30, [0.7] * 30),
    ],
)
def test_observations_without_spread_have_no_interval(estimate: Estimate):  # V1
    assert estimate.no_spread
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert estimate.to_json() == {
        "value": estimate.value,
        "low": None,
        "high": None,
        "n": estimate.n,
        "no_spread": True,
    }
    assert decode(Estimate, estimate.to_json(), "file: ").no_spread


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0]]])
def test_what_is_not_finite_is_refused(values: list):
    with pytest.raises(ValueError, match="values"):
        mean_interval(values)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="after has 2, before has 1"):
        paired_difference([1, 2], [1])
    with pytest.raises(ValueError, match="2 cluster labels for 3"):
        mean_interval([1, 2, 3], clusters=[0, 1])


def test_paired_difference_is_narrower_than_either():
    random = np.random.default_rng(0)
    before = random.normal(0, 5, 100)
    after = before + random.normal(1, 0.1, 100)
    gain = paired_difference(after, before)
    assert gain.value == pytest.approx((after - before).mean())
    assert gain.high - gain.low < 0.1
    assert gain.low > 0.9


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_rate_of_yes_and_no_is_wilsons(answers: list[bool]):
    rate = rate_interval([float(answer) for answer in answers])
    wilson = proportion_interval(sum(answers), len(answers))
    assert (rate.value, rate.low, rate.high) == pytest.approx(
        (wilson.value, wilson.low, wilson.high), abs=1e-12
    )


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=60), st.integers(1, 20))
def test_rates_mirror_and_hold_their_value(scores: list[float], clusters: int):
    labels = [i % clusters for i in range(len(scores))]
    rate = rate_interval(scores, clusters=labels)
    mirrored = rate_interval([1 - s for s in scores], clusters=labels)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((rate.low, rate.high), abs=1e-9)


def test_nothing_but_ties_still_has_a_width():
    rate = rate_interval([0.5] * 50)
    assert rate.value == 0.5
    assert 0.4 < rate.low < 0.5 < rate.high < 0.6


def test_ties_narrow_the_interval():
    decisive = rate_interval([1.0] * 50 + [0.0] * 50)
    tied = rate_interval([1.0] * 25 + [0.0] * 25 + [0.5] * 50)
    assert tied.value == decisive.value
    assert tied.high - tied.low < decisive.high - decisive.low


def test_copies_of_a_prompt_add_nothing():
    scores = np.random.default_rng(1).integers(0, 2, 40).astype(float)
    once = rate_interval(scores)
    copied = rate_interval(np.repeat(scores, 5), clusters=np.repeat(np.arange(40), 5))
    assert copied.n == 200
    # Slightly wider for t in place of z; never five times the data.
    assert once.high - once.low <= copied.high - copied.low < 1.1 * (once.high - once.low)


def _covers(make: Callable[[], Estimate], truth: float, repetitions: int = 800) -> float:
    inside = 0
    for _ in range(repetitions):
        estimate = make()
        inside += estimate.low <= truth <= estimate.high
    return inside / repetitions


def test_intervals_cover_what_they_claim():
    random = np.random.default_rng(7)

    def ties():
        return rate_interval(random.choice([1.0, 0.5, 0.0], size=60, p=[0.6, 0.2, 0.2]))

    def clustered():
        chance = random.beta(0.8 * 2, 0.2 * 2, size=40)
        wins = random.random((40, 4)) < chance[:, None]
        return rate_interval(wins.ravel().astype(float), clusters=np.repeat(np.arange(40), 4))

    def normal():
        return mean_interval(random.normal(2, 3, 12))

    def clustered_mean():
        values = random.normal(size=(20, 1)) + random.normal(size=(20, 3))
        return mean_interval(values.ravel(), clusters=np.repeat(np.arange(20), 3))

    assert 0.93 <= _covers(ties, 0.7) <= 0.98
    assert 0.93 <= _covers(clustered, 0.8) <= 0.98
    assert 0.93 <= _covers(normal, 2) <= 0.97
    assert 0.93 <= _covers(clustered_mean, 0) <= 0.97


def test_bootstrap_covers_and_ignoring_clusters_does_not():
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(50), 4)

    def values():
        return (random.normal(size=(50, 1)) + 0.3 * random.normal(size=(50, 4))).ravel()

    kept = _covers(lambda: bootstrap_mean(values(), clusters=labels, resamples=400), 0, 300)
    ignored = _covers(lambda: bootstrap_mean(values(), resamples=400), 0, 300)
    assert 0.91 <= kept <= 0.98
    assert ignored < 0.75


def test_bootstrap_is_seeded_and_independent_of_block_size():
    values = np.random.default_rng(0).exponential(size=37)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)
    whole = np.concatenate(list(_cluster_weights(37, 100, 2)))
    pieces = np.concatenate(list(_cluster_weights(37, 100, 2, block=37 * 7)))
    assert (whole == pieces).all()
    assert (whole.sum(axis=1) == 37).all()


def test_ratio_of_sums_against_a_loop():
    random = np.random.default_rng(5)
    a, b = random.random(30), random.random(30) + 0.5
    labels = random.integers(0, 9, 30)
    estimate = ratio_interval(a, b, clusters=labels, resamples=500, seed=1)
    present = list(dict.fromkeys(labels.tolist()))
    ratios = []
    for weights in np.concatenate(list(_cluster_weights(len(present), 500, 1))):
        times = dict(zip(present, weights, strict=True))
        ratios.append(
            sum(times[c] * x for c, x in zip(labels, a, strict=True))
            / sum(times[c] * x for c, x in zip(labels, b, strict=True))
        )
    assert estimate.value == pytest.approx(a.sum() / b.sum())
    # Hesterberg's tail for 9 clusters: Φ(-√(9/8) · 2.306004) = 0.72 % beyond each end
    tail = norm.cdf(-math.sqrt(9 / 8) * 2.306004)
    assert tail == pytest.approx(0.0072, abs=1e-4)
    assert (estimate.low, estimate.high) == pytest.approx(
        tuple(np.quantile(ratios, [tail, 1 - tail])), abs=1e-6
    )


def test_ratio_of_few_clusters_by_hand():
    # Ratios of sums 1/2, 4/4, 1/4: R = 6/10; left over 1 - 1.2, 4 - 2.4, 1 - 2.4; error √(3/2 · (0.04 + 2.56 + 1.96)) / 10
    estimate = ratio_interval([1, 3, 1, 1], [2, 2, 2, 4], clusters=["a", "b", "b", "c"])
    half = 4.302653 * math.sqrt(1.5 * 4.56) / 10
    assert (estimate.low, estimate.high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)


def test_cut_intervals_keep_nan():
    assert within(Estimate(value=0.01, low=-0.1, high=1.2, n=3), 0, 1) == Estimate(
        value=0.01, low=0, high=1, n=3
    )
    assert math.isnan(within(mean_interval([0.5]), 0, 1).low)
    assert exactly(0.5, 7).low == exactly(0.5, 7).high == 0.5
