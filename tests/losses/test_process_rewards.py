"""Ordinal, process and segment losses, and how scores of tokens become one: against formulas in Python's numbers, on ragged batches."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.losses.reward_model import (
    TOKEN_READINGS,
    binary,
    bradley_terry,
    free,
    level_probabilities,
    ordinal,
    process,
    rising,
    segments,
)

from .cases import Array, gradient, normal, numerical_gradient, ragged_mask

LEVELS = torch.tensor([0, 3, 1, 2, 3, 0])
ENDS = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
GOOD = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1]], dtype=torch.bool)
SIZES = ([4, 1, 2], [2, 3, 2])


def nls(x: float) -> float:
    return math.log(1 + math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def ordinal_by_loops(x: Array) -> float:
    """The last three numbers are the thresholds."""
    scores, thresholds = x[:-3], [-math.inf, *x[-3:], math.inf]
    total = 0.0
    for score, level in zip(scores, LEVELS.tolist(), strict=True):
        above = [1.0 if t == -math.inf else 0.0 if t == math.inf else sigmoid(score - t) for t in thresholds]
        total -= math.log(above[level] - above[level + 1])
    return total


def test_ordinal_value_and_gradient_equal_loops():
    x = torch.cat([normal(6, seed=1, scale=2.0), torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)])

    def ours(x: Tensor) -> Tensor:
        return ordinal(x[:-3], LEVELS, x[-3:])

    assert ours(x).sum().item() == pytest.approx(ordinal_by_loops(x.numpy()), rel=1e-12)
    np.testing.assert_allclose(gradient(ours, x).numpy(), numerical_gradient(ordinal_by_loops, x), atol=1e-7)
    torch.testing.assert_close(ours(x + 5), ours(x))  # scores and thresholds move together


def test_ordinal_with_one_threshold_at_zero_is_binary():
    scores, good = normal(5, seed=2, scale=3.0), torch.tensor([1, 0, 1, 1, 0])
    zero = torch.zeros(1, dtype=torch.float64)
    torch.testing.assert_close(ordinal(scores, good, zero), binary(scores, good.bool()))


def test_level_probabilities_are_the_likelihood():
    scores, thresholds = normal(6, seed=3, scale=3.0), torch.tensor([-1.0, 0.3, 2.0]).double()
    p = level_probabilities(scores, thresholds)
    torch.testing.assert_close(p.sum(1), torch.ones(6).double())
    torch.testing.assert_close(
        -p.gather(1, LEVELS[:, None]).squeeze(1).log(), ordinal(scores, LEVELS, thresholds)
    )


@pytest.mark.parametrize("score", [-1e4, -60.0, 60.0, 1e4])
def test_ordinal_stays_finite_far_away(score: float):  # K10
    scores, thresholds = torch.full((4,), score), torch.tensor([-1.0, -0.999, 1.0])
    levels = torch.arange(4)
    assert torch.isfinite(ordinal(scores, levels, thresholds)).all()
    slopes = gradient(lambda s: ordinal(s, levels, thresholds), scores)
    assert torch.isfinite(slopes).all()
    # Towards the level that was given.
    assert slopes[0] >= 0 >= slopes[3]


def test_thresholds_rise_and_come_back():
    raw = normal(5, seed=4, scale=3.0)
    thresholds = rising(raw)
    assert bool((thresholds.diff() > 0).all())
    torch.testing.assert_close(free(thresholds), raw)


def process_by_loops(x: Array) -> float:
    total = 0.0
    for row, ends, good in zip(x, ENDS.tolist(), GOOD.tolist(), strict=True):
        losses = [nls(s if g else -s) for s, e, g in zip(row, ends, good, strict=True) if e]
        total += sum(losses) / len(losses)
    return total


def segments_by_loops(x: Array, share: float) -> float:
    total = 0.0
    for row, (n, m) in enumerate(zip(*SIZES, strict=True)):
        difference = sum(x[0, row, :n]) - sum(x[1, row, :m])
        total -= math.log((1 - share) * sigmoid(difference) + share / 2)
    return total


MASKS = [ragged_mask(sizes, width=4) for sizes in SIZES]


@pytest.mark.parametrize(
    ("ours", "by_loops", "shape", "mask"),
    [
        (lambda x: process(x, ENDS, GOOD), process_by_loops, (4, 4), ENDS),
        (lambda x: segments(x[0], x[1], *MASKS), lambda x: segments_by_loops(x, 0.0), (2, 3, 4), torch.stack(MASKS)),
        (lambda x: segments(x[0], x[1], *MASKS, random_share=0.1), lambda x: segments_by_loops(x, 0.1), (2, 3, 4), torch.stack(MASKS)),
    ],
    ids=["process", "segments", "segments with chance"],
)  # fmt: skip
def test_value_and_gradient_equal_loops(ours, by_loops, shape, mask):
    scores = normal(*shape, seed=5, scale=2.0)
    assert ours(scores).sum().item() == pytest.approx(by_loops(scores.numpy()), rel=1e-12)
    np.testing.assert_allclose(
        gradient(ours, scores).numpy(), numerical_gradient(by_loops, scores), atol=1e-7
    )
    for junk in (math.nan, math.inf):  # M8
        dirty = torch.where(mask, scores, junk)
        torch.testing.assert_close(ours(dirty), ours(scores))
        torch.testing.assert_close(gradient(ours, dirty), gradient(ours, scores))


def test_reductions():
    """One step at the end is `binary`; one token is Bradley-Terry; without a difference chance does not matter."""
    scores, good = normal(5, seed=6, scale=2.0), torch.tensor([1, 0, 1, 1, 0]).bool()
    ends = torch.ones(5, 1, dtype=torch.bool)
    torch.testing.assert_close(process(scores[:, None], ends, good[:, None]), binary(scores, good))
    other = normal(5, seed=7, scale=2.0)
    alone = segments(scores[:, None], other[:, None], ends, ends)
    torch.testing.assert_close(alone, bradley_terry(scores, other))
    equal = segments(scores[:, None], scores[:, None], ends, ends, random_share=0.3)
    assert equal.tolist() == pytest.approx([math.log(2)] * 5)


def test_an_answer_by_chance_bounds_the_loss_and_lets_go_of_outliers():
    ends = torch.ones(1, 1, dtype=torch.bool)
    far = torch.tensor([[-50.0]]).double()

    def loss(x: Tensor, share: float) -> Tensor:
        return segments(x, torch.zeros_like(x), ends, ends, random_share=share)

    assert loss(far, 0.1).item() == pytest.approx(-math.log(0.05))
    assert gradient(lambda x: loss(x, 0.0), far).item() == pytest.approx(-1)
    assert gradient(lambda x: loss(x, 0.1), far).item() == pytest.approx(0, abs=1e-12)


def test_a_longer_trajectory_counts_by_its_sum():
    """A sum and not a mean: the same reward a token, and the longer one is better."""
    scores = torch.full((1, 4), 0.5).double()
    longer, shorter = ragged_mask([4]), ragged_mask([2], width=4)
    assert segments(scores, scores, longer, shorter).item() == pytest.approx(nls(1.0))


def reading_by_loops(x: Array, ends: Tensor, rule: str) -> float:
    total = 0.0
    for row, marks in zip(x, ends.tolist(), strict=True):
        found = [s for s, e in zip(row, marks, strict=True) if e]
        if found:
            total += {
                "sum": sum(found),
                "minimum": min(found),
                "product": sum(math.log(sigmoid(s)) for s in found),
                "last": found[-1],
            }[rule]
    return total


@pytest.mark.parametrize("rule", TOKEN_READINGS)
def test_readings_equal_loops(rule: str):
    ends = torch.cat([ENDS, torch.zeros(1, 4, dtype=torch.bool)])
    scores = normal(5, 4, seed=8, scale=2.0)

    def ours(x: Tensor) -> Tensor:
        return TOKEN_READINGS[rule](x, ends)

    assert ours(scores).sum().item() == pytest.approx(reading_by_loops(scores.numpy(), ends, rule), rel=1e-12)
    np.testing.assert_allclose(
        gradient(ours, scores).numpy(),
        numerical_gradient(lambda x: reading_by_loops(x, ends, rule), scores),
        atol=1e-7,
    )
    dirty = torch.where(ends, scores, math.nan)
    torch.testing.assert_close(ours(dirty), ours(scores))
