import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.losses import dpo_loss, implicit_reward, sequence_sum

from .cases import Array, gradient, normal, numerical_gradient, quick, ragged_mask, widened, with_padding

sums = st.floats(-200, 0, allow_nan=False)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dpo_by_loops(policy: Array, reference: Array, mask: Array, beta: float, smoothing: float) -> list[float]:
    """Equation 7 of the paper over token log-probabilities `[2, B, T]` (chosen, rejected), and the note's label smoothing."""
    losses = []
    for pair in range(policy.shape[1]):
        ratio = [0.0, 0.0]
        for side in range(2):
            for t in range(policy.shape[2]):
                if mask[side, pair, t]:
                    ratio[side] += policy[side, pair, t] - reference[side, pair, t]
        z = beta * (ratio[0] - ratio[1])
        losses.append(-(1 - smoothing) * math.log(sigmoid(z)) - smoothing * math.log(sigmoid(-z)))
    return losses


def dpo_of_tokens(policy: Tensor, reference: Tensor, mask: Tensor, beta: float, smoothing: float) -> Tensor:
    summed = [sequence_sum(tokens[side], mask[side]) for tokens in (policy, reference) for side in range(2)]
    return dpo_loss(*summed, beta=beta, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_equals_loops_over_the_papers_equation(smoothing: float):  # K15
    mask = torch.stack((ragged_mask([3, 1, 5], width=5), ragged_mask([2, 4, 1], width=5)))
    policy, reference = normal(2, 3, 5, seed=0) - 2, normal(2, 3, 5, seed=1) - 2

    def by_loops(p: Array) -> float:
        return sum(dpo_by_loops(p, reference.numpy(), mask.numpy(), 0.3, smoothing))

    losses = dpo_of_tokens(policy, reference, mask, 0.3, smoothing)
    np.testing.assert_allclose(
        losses.numpy(),
        dpo_by_loops(policy.numpy(), reference.numpy(), mask.numpy(), 0.3, smoothing),
        rtol=1e-12,
    )
    ours = gradient(lambda p: dpo_of_tokens(p, reference, mask, 0.3, smoothing), policy)
    np.testing.assert_allclose(ours.numpy(), numerical_gradient(by_loops, policy), atol=1e-8)
    assert torch.all(ours[~mask] == 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_at_the_reference_the_loss_is_ln_two_and_pulls_by_half_beta(smoothing: float):  # K9
    reference = torch.tensor([-3.0, -90.0]).double()
    sides = (reference.clone().requires_grad_(), (reference - 7).clone().requires_grad_())
    losses = dpo_loss(*sides, reference, reference - 7, beta=0.1, label_smoothing=smoothing)
    np.testing.assert_allclose(losses.detach().numpy(), math.log(2), rtol=1e-15)
    losses.sum().backward()
    pull = 0.1 * (1 - 2 * smoothing) / 2
    for side, expected in zip(sides, (-pull, pull), strict=True):
        assert side.grad is not None
        np.testing.assert_allclose(side.grad.numpy(), expected, rtol=1e-12)


def test_one_token_completions_have_the_value_by_hand():  # M3
    """h = (-1 + 2) - (-3 + 2) = 2, so -log σ(0.1 * 2)."""
    mask = torch.ones(2, 1, 1, dtype=torch.bool)
    policy, reference = torch.tensor([[[-1.0]], [[-3.0]]]), torch.tensor([[[-2.0]], [[-2.0]]])
    loss = dpo_of_tokens(policy, reference, mask, 0.1, 0.0)
    assert loss.item() == pytest.approx(0.5981389)
    assert implicit_reward(policy, reference, beta=0.1).flatten().tolist() == pytest.approx([0.1, -0.1])


def test_rejected_side_is_masked_like_the_chosen_one():  # M4
    mask = torch.stack((ragged_mask([2, 3]), ragged_mask([3, 1])))
    policy, reference = normal(2, 2, 3, seed=0), normal(2, 2, 3, seed=1)
    for content in (0.0, 1e6, math.nan):
        dirty = with_padding(policy.flatten(0, 1), mask.flatten(0, 1), content).view_as(policy)
        assert torch.equal(
            dpo_of_tokens(dirty, reference, mask, 0.1, 0.0), dpo_of_tokens(policy, reference, mask, 0.1, 0.0)
        )


@quick
@given(st.integers(0, 5), st.integers(0, 99))
def test_dpo_does_not_depend_on_padding(extra: int, seed: int):  # M9
    mask = ragged_mask([3, 1, 5, 2])
    policy, reference = normal(4, 5, seed=seed), normal(4, 5, seed=seed + 100)
    wide, wide_mask = with_padding(policy, mask, -1e9, extra), widened(mask, extra)
    wide_reference = with_padding(reference, mask, math.nan, extra)
    results = []
    for p, r, m in ((policy, reference, mask), (wide, wide_reference, wide_mask)):
        pairs = lambda x, r=r, m=m: dpo_of_tokens(  # noqa: E731
            x.view(2, 2, -1), r.view(2, 2, -1), m.view(2, 2, -1), 0.1, 0.0
        )
        results.append((pairs(p), gradient(pairs, p)[:, :5]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@quick
@given(sums, sums, sums, sums, st.floats(-50, 50), st.floats(0.01, 1.0), st.floats(0, 0.49))
def test_dpo_invariances(
    policy_w: float, policy_l: float, ref_w: float, ref_l: float, shift: float, beta: float, smoothing: float
):
    def loss(*numbers: float, smoothing: float = smoothing) -> float:
        tensors = [torch.tensor([number], dtype=torch.float64) for number in numbers]
        return dpo_loss(*tensors, beta=beta, label_smoothing=smoothing).item()

    value = loss(policy_w, policy_l, ref_w, ref_l)
    close = pytest.approx(value, rel=1e-9, abs=1e-9)
    # A constant per prompt in the policy, or per completion in policy and reference alike, changes nothing.
    assert loss(policy_w + shift, policy_l + shift, ref_w, ref_l) == close
    assert loss(policy_w + shift, policy_l, ref_w + shift, ref_l) == close
    # A swapped pair is a flipped label.
    assert loss(policy_l, policy_w, ref_l, ref_w, smoothing=1 - smoothing) == close
    assert value >= 0


def test_label_smoothing_has_its_optimum_at_the_logit_of_the_label_rate():
    """ε = 0.1, β = 0.1: h = log(9)/0.1 = 21.97."""
    h = torch.linspace(0, 60, 60001, dtype=torch.float64)
    zero = torch.zeros_like(h)
    losses = dpo_loss(h, zero, zero, zero, beta=0.1, label_smoothing=0.1)
    assert h[losses.argmin()].item() == pytest.approx(math.log(9) / 0.1, abs=1e-3)
    slope = gradient(
        lambda x: dpo_loss(x, zero[:1], zero[:1], zero[:1], beta=0.1, label_smoothing=0.1),
        torch.tensor([math.log(9) / 0.1], dtype=torch.float64),
    )
    assert slope.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("h", [-1e5, -300.0, 300.0, 1e5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_margins_stay_finite_with_the_right_gradient(h: float, smoothing: float):  # K10
    zero = torch.zeros(1)

    def loss(x: Tensor) -> Tensor:
        return dpo_loss(x, zero, zero, zero, beta=1.0, label_smoothing=smoothing)

    x = torch.tensor([h])
    assert loss(x).item() == pytest.approx((1 - smoothing) * max(0, -h) + smoothing * max(0, h), rel=1e-6)
    assert gradient(loss, x).item() == pytest.approx(smoothing if h > 0 else smoothing - 1, abs=1e-6)
