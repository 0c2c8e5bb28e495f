"""Coefficients of agreement against published examples, evalica, and loops that follow the definitions."""

import math
from itertools import combinations, permutations

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.feedback.agreement import (
    MISSING,
    Labels,
    cohen_kappa,
    fleiss_kappa,
    half_credit_agreement,
    krippendorff_alpha,
    make_labels,
    noise_ceiling,
    raw_agreement,
)
from prefloop.feedback.agreement.chance import Agreement

# Four observers, twelve units, five values: the example of Krippendorff, Computing Krippendorff's alpha-reliability (2011).
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def published() -> Labels:
    rows = [[MISSING if cell == "." else int(cell) - 1 for cell in row.split()] for row in OBSERVERS]
    return make_labels(np.array(rows).T, (1, 2, 3, 4, 5))


def random_labels(seed: int, *, items: int = 12, people: int = 4, categories: int = 4) -> Labels:
    random = np.random.default_rng(seed)
    truth = random.integers(categories, size=items)[:, None]
    table = np.where(
        random.random((items, people)) < 0.6, truth, random.integers(categories, size=(items, people))
    )
    return make_labels(
        np.where(random.random((items, people)) < 0.25, MISSING, table), tuple(range(categories))
    )


@pytest.mark.parametrize(("metric", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(metric, value: float):
    alpha = krippendorff_alpha(published(), metric)
    assert alpha.value == pytest.approx(value, abs=5e-4)
    assert alpha.items == 11  # the last unit has one value
    assert alpha.low < alpha.value < alpha.high


def alpha_by_pairs(labels: Labels, metric: str) -> float:
    """1 - D_o/D_e from every pair of values, no coincidence matrix."""
    units = [[int(x) for x in row if x != MISSING] for row in labels.table]
    units = [unit for unit in units if len(unit) > 1]
    values = [x for unit in units for x in unit]
    n_of = [values.count(c) for c in range(len(labels.categories))]

    def distance(c: int, k: int) -> float:
        if metric == "nominal":
            return float(c != k)
        if metric == "interval":
            return float(labels.categories[c] - labels.categories[k]) ** 2
        low, high = min(c, k), max(c, k)
        return (sum(n_of[low : high + 1]) - (n_of[c] + n_of[k]) / 2) ** 2

    observed = sum(sum(distance(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum(distance(a, b) for a, b in permutations(values, 2))
    return 1 - (observed / len(values)) / (expected / (len(values) * (len(values) - 1)))


@given(seed=st.integers(0, 500), metric=st.sampled_from(["nominal", "ordinal", "interval"]))
@settings(max_examples=40)
def test_alpha_by_its_definition(seed: int, metric):
    labels = random_labels(seed)
    assert krippendorff_alpha(labels, metric, resamples=2).value == pytest.approx(
        alpha_by_pairs(labels, metric), abs=1e-9
    )


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
def test_evalica_agrees_on_alpha(metric):
    labels = published()
    table = np.where(labels.table == MISSING, np.nan, labels.table + 1.0)
    found = evalica.alpha(pd.DataFrame(table.T), distance=metric)
    assert krippendorff_alpha(labels, metric).value == pytest.approx(found.alpha, abs=1e-9)


@given(seed=st.integers(0, 200), metric=st.sampled_from(["nominal", "ordinal"]))
@settings(max_examples=20)
def test_alpha_does_not_depend_on_order_or_who(seed: int, metric):
    labels = random_labels(seed)
    random = np.random.default_rng(seed)
    expected = krippendorff_alpha(labels, metric, resamples=2).value
    moved = random.permuted(labels.table[random.permutation(12)], axis=1)  # who said it does not matter
    assert krippendorff_alpha(
        make_labels(moved, labels.categories), metric, resamples=2
    ).value == pytest.approx(expected, abs=1e-9)


def test_the_bootstraps_interval_covers():
    # Items of 3 labels; with truth known, the interval should hold the large-sample value about 95 % of the time.
    def drawn(seed: int, items: int) -> Labels:
        return random_labels(seed, items=items, people=3, categories=3)

    truth = krippendorff_alpha(drawn(0, 60_000), resamples=2).value
    held = 0
    for seed in range(1, 101):
        alpha = krippendorff_alpha(drawn(seed, 100), resamples=300)
        held += alpha.low <= truth <= alpha.high
    assert held >= 88


def test_fleiss_kappa_of_the_published_example():
    counts = """0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/6 5 2 1 0/0 2 2 3 7"""
    table = [
        [category for category, count in enumerate(map(int, row.split())) for _ in range(count)]
        for row in counts.split("/")
    ]
    assert fleiss_kappa(make_labels(table, range(5))) == pytest.approx(0.210, abs=5e-4)
    with pytest.raises(ValueError, match="Krippendorff"):
        fleiss_kappa(published())
    assert math.isnan(fleiss_kappa(make_labels([[0, 0]] * 3, range(2))))


def test_cohen_kappa_by_hand():
    # 20 both yes, 5 and 10 differ, 15 both no: p_o 0.7, p_e 0.5·0.6 + 0.5·0.4 = 0.5
    first = np.array([0] * 25 + [1] * 25)
    second = np.array([0] * 20 + [1] * 5 + [0] * 10 + [1] * 15)
    assert cohen_kappa(first, second, 2) == pytest.approx(0.4, abs=1e-12)
    gap = np.array([MISSING])
    assert cohen_kappa(np.append(first, gap), np.append(second, 0), 2) == pytest.approx(0.4, abs=1e-12)
    assert math.isnan(cohen_kappa(gap, gap, 2))
    assert math.isnan(cohen_kappa(np.zeros(3, np.intp), np.zeros(3, np.intp), 2))


# a, b, tie, both-bad
SAID = make_labels(
    [[0, 0, 2], [0, 1, MISSING], [2, 3, MISSING], [1, MISSING, MISSING]], ("a", "b", "tie", "both_bad")
)


def test_raw_agreement_by_hand():
    # pairs: item 0 has 3, one agreeing; items 1 and 2 have one each, none; item 3 none
    assert raw_agreement(SAID).value == pytest.approx(1 / 5)
    assert raw_agreement(SAID).items == 3
    # sides only: item 0 one pair, agreeing; item 1 one, not
    sides = raw_agreement(SAID, ignoring=(2, 3))
    assert (sides.value, sides.items) == (pytest.approx(1 / 2), 2)
    # item 0: aa 1, a-tie ½, a-tie ½; item 1: 0; item 2: two ties of different kinds 1
    assert half_credit_agreement(SAID, first=0, second=1).value == pytest.approx(3 / 5)
    nothing = raw_agreement(make_labels([[0, MISSING]], (0, 1)))
    assert math.isnan(nothing.value)
    assert nothing.items == 0


@given(seed=st.integers(0, 200))
@settings(max_examples=20)
def test_raw_agreement_is_that_of_pairs(seed: int):
    labels = random_labels(seed)
    pairs = [a == b for row in labels.table for a, b in combinations([x for x in row if x != MISSING], 2)]
    assert raw_agreement(labels).value == pytest.approx(np.mean(pairs))


def test_unanimity_and_chance():
    same = make_labels([[0, 0], [1, 1], [0, 0]], (0, 1))
    assert krippendorff_alpha(same).value == 1.0
    assert math.isnan(krippendorff_alpha(make_labels([[0, 0]] * 3, (0, 1))).value)
    random = np.random.default_rng(0).integers(2, size=(20_000, 2))
    assert krippendorff_alpha(make_labels(random, (0, 1)), resamples=2).value == pytest.approx(0, abs=0.02)


def test_labels_that_make_no_sense():
    with pytest.raises(ValueError, match="category 5"):
        make_labels([[0, 5]], (0, 1))
    with pytest.raises(ValueError, match="shape"):
        make_labels([0, 1], (0, 1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="1 annotators' names for 2"):
        make_labels([[0, 1]], (0, 1), ["a"])
    with pytest.raises(ValueError, match="metric is"):
        krippendorff_alpha(SAID, "ratio")  # pyright: ignore[reportArgumentType]


def agreement(value: float) -> Agreement:
    return Agreement(value=value, low=value, high=value, items=10)


def test_noise_ceiling_by_hand():
    # everybody says a with probability 0.9: agreement 0.82, and 0.9 is the best accuracy, the upper bound
    one = noise_ceiling(agreement(0.82))
    assert (one.at_least, one.at_most) == (pytest.approx(0.82), pytest.approx(0.9))
    # half of the items are clear and half are coins: agreement 0.75, and 0.75 is the best accuracy, the lower bound
    assert noise_ceiling(agreement(0.75)).at_least == pytest.approx(0.75)
    assert noise_ceiling(agreement(0.4)).at_most == 0.5
    assert math.isnan(noise_ceiling(agreement(math.nan)).at_most)


@given(q=st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_noise_ceiling_lies_between_its_bounds(q: list[float]):
    p = np.array(q)
    bounds = noise_ceiling(agreement(float((p**2 + (1 - p) ** 2).mean())))
    best = float(np.maximum(p, 1 - p).mean())
    assert bounds.at_least - 1e-9 <= best <= bounds.at_most + 1e-9
