import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.losses import (
    clipped_surrogate,
    clipped_value_loss,
    is_clipped,
    keep,
    probability_ratio,
    token_mean,
)
from prefloop.losses.ratio import LOG_RATIO_LIMIT, bounded_exp

from .cases import Array, gradient, normal, numerical_gradient, quick, ragged_mask, widened, with_padding


def surrogate_by_hand(lp: float, old: float, advantage: float, low: float, high: float, dual: float) -> float:
    """The negated objective of the PPO paper's equation 7, with the dual-clip paper's bound for negative advantages."""
    ratio = math.exp(lp - old)
    clipped = min(max(ratio, 1 - low), 1 + high)
    objective = min(ratio * advantage, clipped * advantage)
    if dual and advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


def one(number: float) -> Tensor:
    return torch.tensor([[number]], dtype=torch.float64)


@pytest.mark.parametrize("dual_clip", [0.0, 1.3])
@pytest.mark.parametrize("clip", [0.2, (0.2, 0.28)])
def test_surrogate_equals_loops(clip: float | tuple[float, float], dual_clip: float):
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    mask = ragged_mask([3, 1, 6, 2])
    old, advantages = normal(4, 6, seed=0) - 2, normal(4, 6, seed=1)
    logprobs = old + normal(4, 6, seed=2, scale=0.4)

    def by_loops(lp: Array) -> float:
        return sum(
            surrogate_by_hand(
                float(lp[b, t]), float(old[b, t]), float(advantages[b, t]), low, high, dual_clip
            )
            for b, t in np.argwhere(mask.numpy())
        ) / int(mask.sum())

    def ours(lp: Tensor) -> Tensor:
        losses = clipped_surrogate(lp, old, advantages, clip=clip, dual_clip=dual_clip)
        return token_mean(losses, mask, tokens=int(mask.sum()))

    assert ours(logprobs).item() == pytest.approx(by_loops(logprobs.numpy()), rel=1e-12)
    np.testing.assert_allclose(
        gradient(ours, logprobs).numpy(), numerical_gradient(by_loops, logprobs), atol=1e-8
    )


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "kept"),
    [
        (1.0, 1.5, -1.2, False),  # already far enough
        (1.0, 0.5, -0.5, True),  # went the wrong way: pulled back
        (-1.0, 1.5, 1.5, True),  # went the wrong way: pulled back
        (-1.0, 0.5, 0.8, False),  # already far enough
        (1.0, 1.1, -1.1, True),
        (-1.0, 1.1, 1.1, True),
        (0.0, 1.5, 0.0, False),
    ],
)
def test_gradient_is_cut_only_the_way_the_advantage_wants(
    advantage: float, ratio: float, loss: float, kept: bool
):
    logprob = one(math.log(ratio))
    losses = clipped_surrogate(logprob, one(0), one(advantage), clip=0.2)
    assert losses.item() == pytest.approx(loss)
    slope = gradient(lambda lp: clipped_surrogate(lp, one(0), one(advantage), clip=0.2), logprob).item()
    assert slope == pytest.approx(-advantage * ratio if kept else 0.0)
    cut = is_clipped(logprob, one(0), one(advantage), clip=0.2).item()
    assert cut == (not kept and advantage != 0)


def test_dual_clip_caps_only_negative_advantages():
    def loss(ratio: float, advantage: float) -> tuple[float, float]:
        at = one(math.log(ratio))
        function = lambda lp: clipped_surrogate(lp, one(0), one(advantage), clip=0.2, dual_clip=3.0)  # noqa: E731
        return function(at).item(), gradient(function, at).item()

    assert loss(5.0, -2.0) == (6.0, 0.0)
    assert loss(2.5, -2.0) == pytest.approx((5.0, 5.0))
    assert loss(5.0, 2.0) == pytest.approx((-2.4, 0.0))
    with pytest.raises(AssertionError, match=r"dual_clip is 0\.5"):
        clipped_surrogate(one(0), one(0), one(1), clip=0.2, dual_clip=0.5)


def test_first_update_is_the_plain_policy_gradient():  # K11
    """Ratio exactly 1, loss -A, gradient -A."""
    logprobs, advantages = normal(3, 4, seed=0).float(), normal(3, 4, seed=1).float()
    assert torch.all(probability_ratio(logprobs, logprobs) == 1)
    loss = lambda lp: clipped_surrogate(lp, logprobs, advantages, clip=0.2)  # noqa: E731
    assert torch.equal(loss(logprobs), -advantages)
    assert torch.equal(gradient(loss, logprobs), -advantages)
    assert torch.all(is_clipped(logprobs, logprobs, advantages, clip=0.2) == 0)


@pytest.mark.parametrize("log_ratio", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_extreme_ratios_keep_loss_and_gradient_finite(log_ratio: float, advantage: float):  # K10
    def loss(lp: Tensor) -> Tensor:
        return clipped_surrogate(lp, torch.zeros(1, 1), torch.tensor([[advantage]]), clip=0.2)

    at = torch.tensor([[log_ratio]])
    assert loss(at).isfinite().all()
    slope = gradient(loss, at).item()
    assert math.isfinite(slope)
    # Only an exploded ratio of a bad action still pulls; it pulls down.
    assert slope > 0 if (log_ratio > 0 and advantage < 0) else slope == 0


def test_bounded_exp_is_the_exponential_and_then_its_tangent():
    x = torch.linspace(-50, LOG_RATIO_LIMIT, 50, dtype=torch.float64)
    torch.testing.assert_close(bounded_exp(x), x.exp())
    beyond = torch.tensor([LOG_RATIO_LIMIT + 3], dtype=torch.float64)
    assert bounded_exp(beyond).item() == pytest.approx(4 * math.exp(LOG_RATIO_LIMIT))
    assert gradient(bounded_exp, beyond).item() == pytest.approx(math.exp(LOG_RATIO_LIMIT))
    assert bounded_exp(torch.tensor([-math.inf])).item() == 0


@quick
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any), st.integers(0, 4), st.integers(0, 99))
def test_losses_do_not_depend_on_padding(lengths: list[int], extra: int, seed: int):  # M9
    mask = ragged_mask(lengths)
    old, other = normal(*mask.shape, seed=seed), normal(*mask.shape, seed=seed + 100)
    start = old + normal(*mask.shape, seed=seed + 200, scale=0.3)
    tokens = int(mask.sum())
    for loss in (
        lambda x, old, other: clipped_surrogate(x, old, other, clip=0.2, dual_clip=3.0),
        lambda x, old, other: clipped_value_loss(x, old, other, clip=0.2),
        lambda x, old, other: is_clipped(x, old, other, clip=0.2) + 0 * x,
    ):
        results = []
        for content, width in ((0.0, 0), (math.nan, extra)):
            m = widened(mask, width)
            x, o, a = (with_padding(v, mask, content, width) for v in (start, old, other))
            reduced = lambda x, o=o, a=a, m=m, loss=loss: token_mean(  # noqa: E731
                loss(keep(x, m), keep(o, m), keep(a, m)), m, tokens=tokens
            )
            results.append((reduced(x), gradient(reduced, x)[:, : mask.shape[1]]))
        torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def value_loss_by_hand(value: float, old: float, target: float, clip: float) -> float:
    errors = [(value - target) ** 2]
    if clip:
        errors.append((old + min(max(value - old, -clip), clip) - target) ** 2)
    return 0.5 * max(errors)


@pytest.mark.parametrize("clip", [0.0, 0.2])
def test_value_loss_equals_loops(clip: float):
    old, returns = normal(4, 6, seed=0), normal(4, 6, seed=1)
    values = old + normal(4, 6, seed=2, scale=0.4)

    def by_loops(v: Array) -> float:
        return sum(
            value_loss_by_hand(float(v[index]), float(old[index]), float(returns[index]), clip)
            for index in np.ndindex(v.shape)
        )

    def ours(v: Tensor) -> Tensor:
        return clipped_value_loss(v, old, returns, clip=clip)

    assert float(ours(values).sum()) == pytest.approx(by_loops(values.numpy()), rel=1e-12)
    np.testing.assert_allclose(
        gradient(ours, values).numpy(), numerical_gradient(by_loops, values), atol=1e-8
    )


def test_value_loss_has_its_half():  # N6
    """V = 3, R = 1: half of 4; its gradient is the error, 2."""
    assert clipped_value_loss(one(3), one(3), one(1), clip=0.2).item() == 2
    assert gradient(lambda v: clipped_value_loss(v, one(3), one(1), clip=0.2), one(3)).item() == 2


@pytest.mark.parametrize(("value", "slope"), [(1.5, 0.0), (1.1, -0.9), (0.5, -1.5)])
def test_value_gradient_is_cut_only_towards_the_return(value: float, slope: float):
    """V_old = 1, R = 2, clip 0.2: beyond 1.2 the clipped error is the larger one and constant; below 1 it is not."""
    assert gradient(
        lambda v: clipped_value_loss(v, one(1), one(2), clip=0.2), one(value)
    ).item() == pytest.approx(slope)
