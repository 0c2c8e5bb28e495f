"""Win rates from utilities and from verdicts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import InputError
from prefloop.evaluation.intervals import proportion_interval
from prefloop.evaluation.win_rate import (
    PairVerdict,
    Verdict,
    win_matrix,
    win_matrix_of_judgements,
    win_rate,
    win_rate_of_verdicts,
)

utilities = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=40)


def test_wins_ties_and_losses_by_hand():
    rate = win_rate([3, 2, 1, 1], [1, 2, 2, 0])
    assert rate.value == (1 + 0.5 + 0 + 1) / 4
    assert rate.n == 4
    assert win_rate([1.0, 2.0], [1.05, 1.0], tie_within=0.1).value == 0.75


def test_without_ties_it_is_a_proportion():
    assert win_rate([1] * 8 + [0] * 2, [0] * 8 + [1] * 2) == proportion_interval(8, 10)


@given(st.data())
def test_antisymmetric(data: st.DataObject):
    a = data.draw(utilities)
    b = data.draw(st.lists(st.integers(-3, 3).map(float), min_size=len(a), max_size=len(a)))
    one, other = win_rate(a, b), win_rate(b, a)
    assert one.value + other.value == pytest.approx(1)
    assert one.low + other.high == pytest.approx(1)
    assert one.high + other.low == pytest.approx(1)


def test_a_missing_utility_is_not_a_tie():
    with pytest.raises(ValueError, match="NaN"):
        win_rate([1.0, math.nan], [0.0, 0.0])


def test_matrix_both_ways():
    random = np.random.default_rng(0)
    scores = {"sft": random.normal(size=50), "ppo": random.normal(1, 1, 50), "dpo": random.normal(1, 1, 50)}
    matrix = win_matrix(scores)
    assert matrix.names == ("sft", "ppo", "dpo")
    assert len(matrix.rates) == 6
    one, other = matrix.rate("ppo", "sft"), matrix.rate("sft", "ppo")
    assert one is not None
    assert other is not None
    assert one.value == pytest.approx(win_rate(scores["ppo"], scores["sft"]).value)
    assert one.low == pytest.approx(1 - other.high)
    assert matrix.rate("sft", "sft") is None


def test_verdicts():
    assert win_rate_of_verdicts(["a", "a", "b", "tie", "both_bad"]).value == pytest.approx(3 / 5)
    with pytest.raises(InputError, match=r"verdict 1 is 'A'.*a, b, tie, both_bad"):
        win_rate_of_verdicts(["a", "A"])


def test_matrix_of_judgements_does_not_care_which_was_shown_first():
    seen: list[tuple[str, str, Verdict]] = [
        ("ppo", "sft", "a"),
        ("sft", "ppo", "b"),
        ("sft", "ppo", "a"),
        ("ppo", "sft", "tie"),
        ("dpo", "sft", "b"),
    ]
    judgements = [
        PairVerdict(first=first, second=second, verdict=verdict, prompt=str(i))
        for i, (first, second, verdict) in enumerate(seen)
    ]
    matrix = win_matrix_of_judgements(judgements)
    against_sft = matrix.rate("ppo", "sft")
    assert against_sft is not None
    assert against_sft.value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert matrix.rate("dpo", "ppo") is None
    lost = matrix.rate("dpo", "sft")
    assert lost is not None
    assert lost.value == 0
