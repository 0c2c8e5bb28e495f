import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.losses import (
    Moments,
    RunningMoments,
    clip_scores,
    length_slope,
    normalise_scores,
    penalise_missing_eos,
    residual_scores,
    scale_scores,
    shape_rewards,
    soft_overlong_penalty,
)

from .cases import normal, quick, ragged_mask, widened, with_padding


def moments_of(scores: Tensor) -> Moments:
    return Moments.of(scores, torch.ones_like(scores, dtype=torch.bool))


def test_score_lands_on_the_last_token_by_hand():
    kl = torch.tensor([[0.1, 0.2, 9.0], [0.3, 0.4, 0.5]])
    rewards = shape_rewards(torch.tensor([1.0, -2.0]), kl, ragged_mask([2, 3]), kl_coef=0.5)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.9, 0.0], [-0.15, -0.2, -2.25]]))


def test_score_lands_on_one_token_for_one_token_full_and_empty_completions():  # M15
    mask = ragged_mask([1, 4, 0])
    rewards = shape_rewards(torch.tensor([3.0, 5.0, 7.0]), torch.zeros(3, 4), mask, kl_coef=0.1)
    assert rewards.tolist() == [[3, 0, 0, 0], [0, 0, 0, 5], [0, 0, 0, 0]]


@quick
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.floats(0, 2),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_rewards_sum_to_score_less_the_kl_penalty(lengths: list[int], coef: float, extra: int, seed: int):
    mask = ragged_mask(lengths)
    kl, scores = normal(*mask.shape, seed=seed), normal(len(lengths), seed=seed + 100)
    rewards = shape_rewards(
        scores, with_padding(kl, mask, math.nan, extra), widened(mask, extra), kl_coef=coef
    )
    for b, length in enumerate(lengths):
        expected = -coef * kl[b, :length].numpy()
        assert float(rewards[b].sum()) == pytest.approx(float(scores[b]) + expected.sum(), abs=1e-12)
        np.testing.assert_allclose(rewards[b, : length - 1].numpy(), expected[:-1], atol=1e-15)
        assert torch.all(rewards[b, length:] == 0)


def test_score_of_zero_is_a_score():  # C7
    zero = torch.zeros(2)
    rewards = shape_rewards(zero, torch.ones(2, 3), ragged_mask([3, 2]), kl_coef=1.0)
    assert rewards.tolist() == [[-1, -1, -1], [-1, -1, 0]]
    assert normalise_scores(zero, mean=2.0, std=4.0).tolist() == [-0.5, -0.5]
    assert penalise_missing_eos(zero, torch.tensor([True, False]), penalty=1.0).tolist() == [0, -1]
    running = RunningMoments().update(moments_of(torch.tensor([0.0, 0.0, 3.0])))
    assert (running.count, running.mean) == (3, 1)
    running = running.update(moments_of(zero))
    assert (running.count, running.mean) == (5, 0.6)


def test_clipping():
    scores = torch.tensor([-9.0, 0.5, 9.0])
    assert clip_scores(scores, limit=2.0).tolist() == [-2, 0.5, 2]
    assert clip_scores(scores, limit=0.0).tolist() == [-9, 0.5, 9]


@quick
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=30), st.data())
def test_running_moments_are_those_of_all_scores_in_any_batches(numbers: list[float], data: st.DataObject):
    scores = torch.tensor(numbers)
    cut = data.draw(st.integers(0, len(numbers)))
    whole = RunningMoments().update(moments_of(scores))
    parts = RunningMoments().update(moments_of(scores[cut:])).update(moments_of(scores[:cut]))
    merged = RunningMoments().update(moments_of(scores[:cut]).merge(moments_of(scores[cut:])))
    for other in (parts, merged):
        assert other.count == whole.count
        assert other.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-12)
        assert other.std == pytest.approx(whole.std, rel=1e-6)
    spread = np.std(scores.double().numpy(), ddof=1)
    assert whole.mean == pytest.approx(scores.double().numpy().mean(), rel=1e-12, abs=1e-12)
    if spread > 1e-3:
        assert whole.std == pytest.approx(spread, rel=1e-6)


def test_running_moments_merge_exactly_where_the_sums_are_exact():
    scores = torch.arange(-20, 21, dtype=torch.float32) / 8
    whole = RunningMoments().update(moments_of(scores))
    parts = RunningMoments()
    for part in scores.split(7):
        parts = parts.update(moments_of(part))
    assert parts == whole


def test_scaling_divides_by_the_running_deviation_and_keeps_the_sign():
    scores = torch.tensor([1.0, 2.0, 3.0])
    running = RunningMoments().update(moments_of(scores * 2))
    assert running.std == 2
    assert scale_scores(scores, running).tolist() == [0.5, 1, 1.5]


@pytest.mark.parametrize("numbers", [[], [5.0], [0.1] * 1000, [1e6] * 77])
def test_scores_without_spread_are_not_blown_up(numbers: list[float]):
    scores = torch.tensor(numbers)
    running = RunningMoments().update(moments_of(scores))
    assert running.std == 1
    assert torch.equal(scale_scores(scores, running), scores)


@quick
@given(
    st.lists(st.integers(1, 40), min_size=3, max_size=12).filter(lambda n: len(set(n)) > 1),
    st.integers(0, 99),
)
def test_residual_scores_do_not_rise_with_length(lengths: list[int], seed: int):
    """Against numpy's fit; what is left has no slope, and the same mean as before."""
    n, scores = torch.tensor(lengths).double(), normal(len(lengths), seed=seed) + 0.3 * torch.tensor(lengths)
    slope, mean_length = length_slope(scores, n, lambda tensor: tensor)
    assert slope == pytest.approx(np.polyfit(n.numpy(), scores.numpy(), 1)[0], abs=1e-9)
    left = residual_scores(scores, n, slope=slope, mean_length=mean_length)
    assert np.polyfit(n.numpy(), left.numpy(), 1)[0] == pytest.approx(0, abs=1e-9)
    assert left.mean().item() == pytest.approx(scores.mean().item())


def test_equal_lengths_leave_scores_alone():
    slope, mean_length = length_slope(
        torch.tensor([1.0, 5.0]), torch.tensor([7.0, 7.0]), lambda tensor: tensor
    )
    assert (slope, mean_length) == (0.0, 7.0)
    assert length_slope(torch.zeros(0), torch.zeros(0), lambda tensor: tensor) == (0.0, 0.0)


def test_soft_overlong_penalty_by_hand():
    """Of 20 tokens the last 4 cost: nothing at 16, a quarter at 17, all at 20."""
    lengths = torch.tensor([1.0, 16.0, 17.0, 18.0, 20.0])
    assert soft_overlong_penalty(lengths, longest=20, zone=4).tolist() == [0, 0, -0.25, -0.5, -1]


def test_the_score_stands_on_the_policys_last_token() -> None:
    """Where others speak in between, that is not the last token before the first of theirs."""
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 1]], dtype=torch.bool)
    rewards = shape_rewards(torch.tensor([3.0, 5.0]), torch.ones(2, 6), mask, kl_coef=0.5)
    assert rewards.tolist() == [[-0.5, -0.5, 0, 0, 2.5, 0], [-0.5, 0, -0.5, 0, -0.5, 4.5]]
