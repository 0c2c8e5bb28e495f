import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.losses import bradley_terry, centring, pairwise_accuracy

from .cases import Array, gradient, normal, numerical_gradient, quick

scores = st.floats(-30, 30)


def bradley_terry_by_loops(chosen: Array, rejected: Array, margin: Array, smoothing: float) -> list[float]:
    """Mixture over whether the label is flipped, each a Bradley-Terry likelihood that asks its winner for the margin."""
    losses = []
    for w, l, m in zip(chosen, rejected, margin, strict=True):  # noqa: E741
        as_labelled = 1 / (1 + math.exp(-(w - l - m)))
        flipped = 1 / (1 + math.exp(-(l - w - m)))
        losses.append(-(1 - smoothing) * math.log(as_labelled) - smoothing * math.log(flipped))
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_bradley_terry_equals_loops(smoothing: float):
    chosen, rejected, margin = (normal(6, seed=seed, scale=2.0) for seed in range(3))
    losses = bradley_terry(chosen, rejected, margin=margin, label_smoothing=smoothing)
    expected = bradley_terry_by_loops(chosen.numpy(), rejected.numpy(), margin.numpy(), smoothing)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)
    ours = gradient(lambda c: bradley_terry(c, rejected, margin=margin, label_smoothing=smoothing), chosen)
    numeric = numerical_gradient(
        lambda c: sum(bradley_terry_by_loops(c, rejected.numpy(), margin.numpy(), smoothing)), chosen
    )
    np.testing.assert_allclose(ours.numpy(), numeric, atol=1e-8)


def test_equal_scores_cost_ln_two_and_pull_by_half():
    score = torch.tensor([0.0, -3.0, 1e4]).double()
    assert bradley_terry(score, score).tolist() == pytest.approx([math.log(2)] * 3)
    assert bradley_terry(score, score, label_smoothing=0.1).tolist() == pytest.approx([math.log(2)] * 3)
    assert gradient(lambda c: bradley_terry(c, score), score).tolist() == [-0.5] * 3


def test_margin_is_inside_the_sigmoid():  # K15
    """A difference equal to the margin still costs ln 2."""
    losses = bradley_terry(
        torch.tensor([3.0, 1.0]), torch.tensor([0.0, 0.0]), margin=torch.tensor([3.0, 1.0])
    )
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert bradley_terry(torch.tensor([3.0]), torch.tensor([0.0]), margin=1.0).item() == pytest.approx(
        math.log1p(math.exp(-2))
    )


@quick
@given(scores, scores, st.floats(-30, 30), st.floats(0, 0.49))
def test_bradley_terry_invariances(w: float, l: float, shift: float, smoothing: float):  # noqa: E741
    def loss(chosen: float, rejected: float, smoothing: float = smoothing) -> float:
        sides = (torch.tensor([side], dtype=torch.float64) for side in (chosen, rejected))
        return bradley_terry(*sides, label_smoothing=smoothing).item()

    value = loss(w, l)
    assert loss(w + shift, l + shift) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert loss(l, w, 1 - smoothing) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert value >= 0


def test_label_smoothing_has_a_finite_optimum():
    difference = torch.linspace(0, 5, 50001, dtype=torch.float64)
    losses = bradley_terry(difference, torch.zeros_like(difference), label_smoothing=0.1)
    assert difference[losses.argmin()].item() == pytest.approx(math.log(9), abs=2e-4)


@pytest.mark.parametrize("difference", [-1e6, -200.0, 200.0, 1e6])
def test_extreme_scores_stay_finite(difference: float):  # K10
    chosen, rejected = torch.tensor([difference]), torch.zeros(1)
    assert bradley_terry(chosen, rejected).item() == pytest.approx(max(0, -difference))
    assert gradient(lambda c: bradley_terry(c, rejected), chosen).item() == (0 if difference > 0 else -1)


def test_score_of_zero_counts_like_any_other():  # C7
    assert bradley_terry(torch.zeros(1), torch.ones(1)).item() == pytest.approx(math.log1p(math.e))
    assert pairwise_accuracy(torch.zeros(1), -torch.ones(1)).item() == 1


def test_centring_pulls_the_sum_of_scores_to_zero():
    chosen, rejected = torch.tensor([2.0, 1.0]), torch.tensor([1.0, -1.0])
    assert centring(chosen, rejected).tolist() == [9, 0]
    assert gradient(lambda c: centring(c, rejected), chosen).tolist() == [6, 0]


def test_accuracy_counts_a_tie_as_half():
    accuracy = pairwise_accuracy(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))
    assert accuracy.tolist() == [1, 0, 0.5]
    assert math.isnan(pairwise_accuracy(torch.tensor([math.nan]), torch.zeros(1)).item())


@quick
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=9))
def test_accuracy_and_its_swap_sum_to_one(pairs: list[tuple[float, float]]):  # N9
    chosen, rejected = (Tensor([pair[side] for pair in pairs]) for side in range(2))
    both = pairwise_accuracy(chosen, rejected) + pairwise_accuracy(rejected, chosen)
    assert both.tolist() == [1.0] * len(pairs)
