"""The parts of TRPO's step on matrices that are known, and on a softmax table whose Fisher matrix can be written down."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.losses import conjugate_gradient, search_back, trust_region_step

from .cases import normal, quick


@quick
@given(st.integers(1, 8), st.integers(0, 99))
def test_conjugate_gradient_solves(n: int, seed: int):
    root = normal(n, n, seed=seed)
    matrix = root @ root.T + 0.5 * torch.eye(n, dtype=torch.float64)
    target = normal(n, seed=seed + 1)
    ours = conjugate_gradient(lambda v: matrix @ v, target, iterations=n + 5, tolerance=1e-24)
    np.testing.assert_allclose(
        ours.numpy(), np.linalg.solve(matrix.numpy(), target.numpy()), rtol=1e-6, atol=1e-8
    )


def test_conjugate_gradient_of_nothing_is_nothing():
    zero = torch.zeros(3)
    assert torch.equal(conjugate_gradient(lambda v: v, zero, iterations=5), zero)
    assert torch.equal(trust_region_step(zero, zero, max_kl=0.1), zero)
    assert torch.isfinite(conjugate_gradient(lambda v: -v, torch.ones(3), iterations=5)).all()


def test_the_step_spends_the_bound_exactly():
    matrix = torch.diag(torch.tensor([1.0, 4.0]))
    step = trust_region_step(torch.tensor([1.0, 1.0]), matrix @ torch.tensor([1.0, 1.0]), max_kl=0.1)
    assert 0.5 * (step @ matrix @ step).item() == pytest.approx(0.1)


def test_the_natural_gradient_of_a_softmax_does_not_depend_on_its_parametrisation():
    """F = diag(p) - ppᵀ in the logits; in other coordinates z = W u it is WᵀFW, and the step W u* is the same change of the logits."""
    logits, reward = normal(4, seed=1), normal(4, seed=2)
    p = logits.softmax(0)
    fisher = torch.diag(p) - torch.outer(p, p) + 1e-10 * torch.eye(4)
    slope = p * (reward - p @ reward)
    change = normal(4, 4, seed=3) + 2 * torch.eye(4)
    other = change.T @ fisher @ change
    mine = conjugate_gradient(lambda v: fisher @ v, slope, iterations=50, tolerance=1e-28)
    theirs = change @ conjugate_gradient(
        lambda v: other @ v, change.T @ slope, iterations=50, tolerance=1e-28
    )
    advantage = reward - p @ reward
    # Known: the natural gradient of E[r] is the advantage itself, up to a constant that softmax does not see.
    torch.testing.assert_close(mine - mine.mean(), advantage - advantage.mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs - theirs.mean(), mine - mine.mean(), rtol=1e-4, atol=1e-5)


def test_search_back_takes_the_first_share_that_is_good_enough():
    tried = []

    def evaluate(share: float) -> tuple[float, float]:
        tried.append(share)
        return 1.0, 0.02 * share**2

    found = search_back(evaluate, max_kl=0.01)
    assert found.share == pytest.approx(0.8**2)
    assert found.kl <= 0.01 < 0.02 * tried[-2] ** 2


@pytest.mark.parametrize(
    "result", [(-1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (float("nan"), 0.0), (1.0, float("nan"))]
)
def test_nothing_good_enough_changes_nothing(result: tuple[float, float]):
    """No gain, too far, or not a number."""
    count = []
    found = search_back(lambda share: (count.append(share), result)[1], max_kl=0.01, tries=7)
    assert found.share == found.gain == 0
    assert len(count) == 7
