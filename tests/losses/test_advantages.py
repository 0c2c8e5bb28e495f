import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.losses import clipped_surrogate, gae, masked_sum, returns_to_go

from .cases import Array, gradient, normal, quick, ragged_mask, widened, with_padding

lengths_of_a_batch = st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any)
shares = st.floats(0, 1)


def gae_by_double_sum(rewards: Array, values: Array, gamma: float, lam: float) -> list[float]:
    """One episode's list: A_t = Σ_{k >= t} (γλ)^{k - t} δ_k with V = 0 after the last step."""
    length = len(rewards)
    deltas = []
    for t in range(length):
        following = values[t + 1] if t + 1 < length else 0.0
        deltas.append(rewards[t] + gamma * following - values[t])
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]


def test_gae_by_hand():
    """r = (0, 0, 1), V = 0.5, γ = 1, λ = 0.95."""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.full((1, 3), 0.5)
    advantages, returns = gae(rewards, values, ragged_mask([3]), gamma=1.0, lam=0.95)
    torch.testing.assert_close(advantages, torch.tensor([[0.45125, 0.475, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[0.95125, 0.975, 1.0]]))


@quick
@given(lengths_of_a_batch, shares, shares, st.integers(0, 99))
def test_gae_equals_the_double_sum_on_ragged_episodes(
    lengths: list[int], gamma: float, lam: float, seed: int
):  # C1 C2 M9
    mask = ragged_mask(lengths, width=8)
    rewards, values = normal(*mask.shape, seed=seed), normal(*mask.shape, seed=seed + 100)
    # Anything in the padding: the sum must not see it.
    advantages, returns = gae(
        with_padding(rewards, mask, math.nan),
        with_padding(values, mask, math.inf),
        mask,
        gamma=gamma,
        lam=lam,
    )
    for b, length in enumerate(lengths):
        expected = gae_by_double_sum(rewards[b, :length].numpy(), values[b, :length].numpy(), gamma, lam)
        np.testing.assert_allclose(advantages[b, :length].numpy(), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            returns[b, :length].numpy(), expected + values[b, :length].numpy(), rtol=1e-10, atol=1e-12
        )
        assert torch.all(advantages[b, length:] == 0)
        assert torch.all(returns[b, length:] == 0)


def test_nothing_is_bootstrapped_past_the_last_token():  # C2
    """γ = λ = 1: the last return is the last reward, whatever the critic says about padding."""
    mask = ragged_mask([2, 4])
    rewards, values = normal(2, 4, seed=0), normal(2, 4, seed=1) + 100
    _, returns = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    assert returns[0, 1].item() == pytest.approx(rewards[0, 1].item())
    assert returns[1, 3].item() == pytest.approx(rewards[1, 3].item())


def test_lambda_one_is_monte_carlo_and_zero_is_temporal_difference():
    mask = ragged_mask([4])
    rewards, values = normal(1, 4, seed=0), normal(1, 4, seed=1)
    _, monte_carlo = gae(rewards, values, mask, gamma=0.9, lam=1.0)
    torch.testing.assert_close(monte_carlo, returns_to_go(rewards, mask, gamma=0.9))
    discounted = [sum(0.9 ** (k - t) * rewards[0, k].item() for k in range(t, 4)) for t in range(4)]
    assert monte_carlo[0].tolist() == pytest.approx(discounted)
    one_step, _ = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    following = torch.cat((values[:, 1:], torch.zeros(1, 1)), dim=1)
    torch.testing.assert_close(one_step, rewards + 0.9 * following - values)


def test_true_values_leave_no_advantage():  # C1
    """With deterministic returns as values, every advantage is zero; values moved by one position would not do it."""
    mask = ragged_mask([5, 3])
    rewards = normal(2, 5, seed=0)
    values = returns_to_go(rewards, mask, gamma=0.9)
    advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=0.95)
    torch.testing.assert_close(advantages, torch.zeros_like(advantages), atol=1e-12, rtol=0)
    moved, _ = gae(rewards, values.roll(1, dims=1), mask, gamma=0.9, lam=0.95)
    assert moved.abs().max() > 0.1


@quick
@given(lengths_of_a_batch, st.integers(0, 5), st.integers(0, 99))
def test_padding_changes_neither_advantages_nor_the_policys_gradient(
    lengths: list[int], extra: int, seed: int
):  # M9
    mask = ragged_mask(lengths)
    rewards, values, logprobs = (normal(*mask.shape, seed=seed + 100 * i) for i in range(3))
    results = []
    for content, width in ((0.0, 0), (1e9, extra)):
        wide_mask = widened(mask, width)
        r, v, old = (with_padding(x, mask, content, width) for x in (rewards, values, logprobs))
        advantages, returns = gae(r, v, wide_mask, gamma=0.99, lam=0.95)
        slope = gradient(
            lambda lp, old=old, a=advantages, m=wide_mask: masked_sum(
                clipped_surrogate(lp, old, a, clip=0.2), m
            ),
            old,
        )
        results.append([x[:, : mask.shape[1]] for x in (advantages, returns, slope)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_rows_do_not_mix():  # C8
    mask = ragged_mask([3, 5, 1])
    rewards, values = normal(3, 5, seed=0), normal(3, 5, seed=1)
    order = torch.tensor([1, 0, 2])
    advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=0.9)
    permuted, _ = gae(rewards[order], values[order], mask[order], gamma=0.9, lam=0.9)
    assert torch.equal(permuted, advantages[order])


def test_reward_of_zero_is_a_reward():  # C7
    mask = ragged_mask([2])
    advantages, returns = gae(torch.zeros(1, 2), torch.ones(1, 2), mask, gamma=1.0, lam=1.0)
    assert returns.tolist() == [[0, 0]]
    assert advantages.tolist() == [[-1, -1]]


def test_targets_carry_no_gradient():
    values = torch.ones(1, 2, requires_grad=True)
    advantages, returns = gae(torch.ones(1, 2), values, ragged_mask([2]), gamma=1.0, lam=1.0)
    assert not advantages.requires_grad
    assert not returns.requires_grad


def test_tokens_of_others_are_no_steps() -> None:
    """What stands between the policy's tokens changes nothing: they have the advantages that they have without it."""
    mask = torch.tensor([[1, 0, 0, 1, 1, 0], [1, 1, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    rewards, values = normal(3, 6, seed=1), normal(3, 6, seed=2)
    found = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    for b in range(3):
        own = mask[b]
        alone = gae(
            rewards[b, own][None],
            values[b, own][None],
            torch.ones(1, int(own.sum())).bool(),
            gamma=0.9,
            lam=0.8,
        )
        for ours, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(ours[b, own], theirs[0])
            assert not ours[b, ~own].any()
