"""Importance weights against hand-worked numbers, and against what they are for: the mean under the trainer's policy from the sampler's samples."""

import math

import pytest
import torch
from torch import Tensor

from prefloop.losses import IMPORTANCE_RULES, importance_ratios, importance_weights

MASK = torch.tensor([[True, True, True], [True, True, False]])
RATIOS = torch.tensor([[0.25, 1.0, 3.0], [2.0, 0.5, 99.0]])
"""π_old / μ of every token; the last one is outside the mask."""
OLD = torch.full_like(RATIOS, -1.0)
SAMPLER = OLD - RATIOS.log()


def weights(rule: str, level: str, low: float, high: float) -> Tensor:
    ratio = importance_ratios(OLD, SAMPLER, MASK, level=level)
    return importance_weights(ratio, MASK, rule=rule, low=low, high=high)


@pytest.mark.parametrize(
    ("name", "rule", "level", "low", "high", "expected"),
    [
        ("TIS", "truncate", "token", 0, 2, [[0.25, 1, 2], [2, 0.5, 0]]),
        ("MIS, token", "mask", "token", 0, 2, [[0.25, 1, 0], [2, 0.5, 0]]),
        ("IcePop", "mask", "token", 0.5, 5, [[0, 1, 3], [2, 0.5, 0]]),
        # 0.25 * 1 * 3 = 0.75 and 2 * 0.5 = 1
        ("sequence TIS", "truncate", "sequence_sum", 0.8, 2, [[0.8] * 3, [1, 1, 0]]),
        ("MIS", "mask", "sequence_sum", 0.8, 2, [[0] * 3, [1, 1, 0]]),
        ("geometric", "mask", "sequence_mean", 0, 2, [[0.75 ** (1 / 3)] * 3, [1, 1, 0]]),
    ],
)
def test_published_rules_by_hand(
    name: str, rule: str, level: str, low: float, high: float, expected: list[list[float]]
) -> None:
    torch.testing.assert_close(weights(rule, level, low, high), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("level", ["token", "sequence_mean", "sequence_sum"])
@pytest.mark.parametrize("rule", IMPORTANCE_RULES)
def test_where_sampler_and_trainer_agree_every_weight_is_one(rule: str, level: str) -> None:
    ratio = importance_ratios(OLD, OLD.clone(), MASK, level=level)
    assert torch.equal(importance_weights(ratio, MASK, rule=rule, low=1.0, high=1.0), MASK.float())


def test_weights_have_no_gradient_and_what_is_outside_the_mask_does_not_matter() -> None:
    old = OLD.clone().requires_grad_()
    sampler = SAMPLER.clone()
    sampler[1, 2] = math.nan
    ratio = importance_ratios(old, sampler, MASK, level="sequence_sum")
    assert not ratio.requires_grad
    torch.testing.assert_close(ratio, torch.tensor([[0.75] * 3, [1, 1, 0]]))


def test_unbounded_weights_give_the_trainers_mean_from_the_samplers_samples() -> None:
    """Completions of two tokens out of three, enumerated: Σ_y μ(y) w(y) f(y) = Σ_y π(y) f(y), with the ratio of the whole completion."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, generator=generator).double().log_softmax(-1) for _ in range(2))
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    old, sampler = (
        torch.stack([table[0][pairs[:, 0]], table[1][pairs[:, 1]]], 1) for table in (ours, theirs)
    )
    mask = torch.ones_like(pairs, dtype=torch.bool)
    value = torch.arange(9).double() ** 2
    ratio = importance_ratios(old, sampler, mask, level="sequence_sum")
    weighted = importance_weights(ratio, mask, rule="truncate", low=0.0, high=1e9)[:, 0]
    expected = (old.sum(1).exp() * value).sum()
    torch.testing.assert_close((sampler.sum(1).exp() * weighted * value).sum(), expected)
    # A cap biases it towards the sampler: that is its price.
    capped = importance_weights(ratio, mask, rule="truncate", low=0.0, high=1.01)[:, 0]
    assert (sampler.sum(1).exp() * capped * value).sum() < expected


def test_a_bound_that_leaves_agreement_out_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="bounded to"):
        weights("mask", "token", 0.0, 0.9)
