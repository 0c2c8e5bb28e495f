"""Implicit Q-learning's losses against loops over ragged lists in float64, and on chains whose values are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.losses.ilql import WEIGHT_CAP, expectile_loss, likelihood_weights, td_loss, td_targets
from prefloop.losses.reduce import mean_over

from .cases import gradient, normal, numerical_gradient, quick, ragged_mask, with_padding

LENGTHS = [3, 1, 5, 2]
MASK = ragged_mask(LENGTHS)


@quick
@given(st.floats(0.1, 1.0), st.integers(0, 99))
def test_targets_equal_a_loop(gamma: float, seed: int):
    """Nothing is taken from beyond a completion's last token, whatever stands there."""
    rewards, values = normal(*MASK.shape, seed=seed), normal(*MASK.shape, seed=seed + 100)
    targets = td_targets(
        with_padding(rewards, MASK, math.nan), with_padding(values, MASK, math.inf), MASK, gamma=gamma
    )
    for b, length in enumerate(LENGTHS):
        for t in range(MASK.shape[1]):
            following = values[b, t + 1].item() if t + 1 < length else 0.0
            expected = rewards[b, t].item() + gamma * following if t < length else 0.0
            assert targets[b, t].item() == pytest.approx(expected)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.8])
def test_losses_and_gradients_equal_a_loop(tau: float):
    values, q, targets = (normal(*MASK.shape, seed=seed) for seed in (1, 2, 3))
    expected_td = [
        [0.5 * (a - b) ** 2 for a, b in zip(*rows, strict=True)]
        for rows in zip(q.tolist(), targets.tolist(), strict=True)
    ]
    np.testing.assert_allclose(td_loss(q, targets).numpy(), expected_td)

    def by_loop(v: np.ndarray) -> float:
        total = 0.0
        for b, length in enumerate(LENGTHS):
            for t in range(length):
                error = q[b, t].item() - v[b, t]
                total += abs(tau - (1.0 if error < 0 else 0.0)) * error**2
        return total / sum(LENGTHS)

    def ours(v: Tensor) -> Tensor:
        return mean_over(expectile_loss(v, q, tau=tau), MASK, count=sum(LENGTHS))

    assert ours(values).item() == pytest.approx(by_loop(values.numpy()))
    np.testing.assert_allclose(gradient(ours, values).numpy(), numerical_gradient(by_loop, values), atol=1e-7)
    # Q is not moved towards V.
    variable = q.clone().requires_grad_()
    assert not expectile_loss(values, variable, tau=tau).requires_grad


def settled(tau: float, outcomes: Tensor) -> float:
    """The value that minimises the mean expectile loss to some outcomes."""
    low, high = outcomes.min().item(), outcomes.max().item()
    for _ in range(100):
        middle = torch.tensor([[(low + high) / 2]]).double()
        slope = gradient(
            lambda v: expectile_loss(v.expand(1, len(outcomes)), outcomes[None], tau=tau).sum(), middle
        )
        low, high = (middle.item(), high) if slope.item() < 0 else (low, middle.item())
    return low


def test_half_is_the_mean_and_towards_one_the_best():
    outcomes = torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    assert settled(0.5, outcomes) == pytest.approx(1.0, abs=1e-6)
    values = normal(1, 4, seed=0)
    torch.testing.assert_close(
        expectile_loss(values, outcomes[None], tau=0.5), 0.5 * (outcomes[None] - values).square()
    )
    ordered = [settled(tau, outcomes) for tau in (0.1, 0.5, 0.9, 0.999)]
    assert ordered == sorted(ordered)
    assert ordered[-1] == pytest.approx(3.0, abs=0.02)


def test_values_of_a_chain_are_those_of_the_best_stitched_path():
    """Data: from s0 to s1 by a bad episode (a0, then b1: 0) and from s1 on by a good one that begins at s1 (b0: 1). No episode is the best path;
    τ near 1 finds its value at s0, τ = ½ the mean of what the data did."""
    found = {}
    for tau in (0.5, 0.95):
        q = torch.zeros(4, dtype=torch.float64, requires_grad=True)  # (s0 a0), (s0 a1), (s1 b0), (s1 b1)
        v = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        states = torch.tensor([[0, 1], [0, 1], [1, 0]])
        actions = torch.tensor([[0, 3], [1, 3], [2, 0]])
        rewards = torch.tensor([[0.0, 0.0], [0.3, 0.0], [1.0, 0.0]]).double()
        mask = torch.tensor([[True, True], [True, False], [True, False]])
        optimizer = torch.optim.Adam([q, v], lr=0.02)
        for _ in range(2500):
            targets = td_targets(rewards, v.detach()[states], mask, gamma=1.0)
            losses = td_loss(q[actions], targets) + expectile_loss(v[states], q.detach()[actions], tau=tau)
            optimizer.zero_grad()
            mean_over(losses, mask, count=4).backward()
            optimizer.step()
        found[tau] = [round(value, 2) for value in [*v.tolist(), q[0].item()]]
    # s1: half of the data's actions there pay 1. s0: a0 leads to s1, a1 pays 0.3 at once.
    assert found[0.5] == [0.4, 0.5, 0.5]
    assert found[0.95] == pytest.approx([0.91, 0.95, 0.95], abs=0.015)


def test_weights_of_the_likelihood():
    q, values = torch.tensor([[1.0, 2.0, 100.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    torch.testing.assert_close(likelihood_weights(q, values, beta=0.0), torch.ones(1, 3))
    weights = likelihood_weights(q, values, beta=2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, math.exp(2.0), WEIGHT_CAP]]))
