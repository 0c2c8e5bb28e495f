"""Intervals of shares: by hand, by properties, and by simulation where clusters agree, or nearly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from prefloop.feedback.shares import share_interval, tail_of, wilson

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40)


def test_ties_by_hand() -> None:
    # 10 wins, 6 losses, 4 ties: p 0.6, mean s(1 - s) 0.05 · 20/(20 + z²); n = 20/(1 - 0.041944/0.24)
    scores = np.array([1.0] * 10 + [0.0] * 6 + [0.5] * 4)
    n = 20 / (1 - 0.05 * 20 / (20 + 3.841459) / 0.24)
    assert n == pytest.approx(24.236, abs=1e-3)
    assert share_interval(scores) == pytest.approx(wilson(0.6, n, 1.959964), abs=1e-6)


def test_clusters_by_hand() -> None:
    # Three clusters of two: both right, both right, both wrong. Deviations of sums 2/3, 2/3, -4/3, so the variance of the mean is
    # 3/2 · (8/3 · 9/9) / 36 = 1/9; of independent ones 0.266667/6; effect 2.5. Seen is 3 · 1/3 = 1 cluster, at most 2: (2.5 + 2)/2 = 2.25.
    scores, members = np.array([1.0, 1, 1, 1, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    assert share_interval(scores, members) == pytest.approx(
        wilson(2 / 3, 6 / 2.25, float(t.ppf(0.975, 2))), abs=1e-9
    )


@given(SCORES, st.integers(1, 9))
def test_bounds_hold_the_share_have_a_width_and_mirror(scores: list[float], clusters: int) -> None:  # V1
    s, members = np.array(scores), np.arange(len(scores)) % clusters
    low, high = share_interval(s, members)
    assert 0 <= low <= s.mean() <= high <= 1
    assert high - low > 0.5 / (len(scores) + 4)
    assert share_interval(1 - s, members) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_agreeing_clusters_count_as_so_many() -> None:  # V1
    # Eight prompts of five right answers each: Wilson's interval of 8 with Student's t
    low, high = share_interval(np.ones(40), np.repeat(np.arange(8), 5))
    z2 = float(t.ppf(0.975, 7)) ** 2
    assert (low, high) == (pytest.approx(8 / (8 + z2)), 1.0)


@pytest.mark.parametrize(("clusters", "share", "alike"), [(8, 0.8, 0.5), (24, 0.95, 0.9), (60, 0.98, 0.5)])
def test_rare_outcomes_in_clusters_are_covered(clusters: int, share: float, alike: float) -> None:  # E3
    """Chances that differ between clusters; without the weight of a cluster that agrees the last two cover 92 and 90 %."""
    random = np.random.default_rng(0)
    size = (1 - alike) / alike
    members, held = np.repeat(np.arange(clusters), 6), 0
    for _ in range(400):
        chance = random.beta(share * size, (1 - share) * size, clusters)
        low, high = share_interval((random.random(clusters * 6) < chance[members]).astype(float), members)
        held += low <= share <= high
    assert held >= 0.935 * 400


@pytest.mark.parametrize("n", [10, 40])
def test_shares_that_are_mostly_nothing_are_covered(n: int) -> None:
    """Such as repeated n-grams: seven of ten texts repeat nothing, the others a tenth. Student's t covers 80 and 90 %."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        low, high = share_interval(np.where(random.random(n) < 0.7, 0.0, random.beta(1, 9, n)))
        held += low <= 0.03 <= high
    assert held >= 0.94 * 400


def test_tails_by_hand() -> None:
    # Φ(-√(8/7) · 2.364624) and, with many clusters, nearly 2.5 %
    assert tail_of(8) == pytest.approx(norm.cdf(-math.sqrt(8 / 7) * 2.364624), abs=1e-7)
    assert tail_of(8) == pytest.approx(0.0057, abs=1e-4)
    assert tail_of(10_000) == pytest.approx(0.025, abs=1e-4)
