"""Reward-model losses beyond Bradley-Terry, each against its formula in Python's numbers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.losses.listwise import plackett_luce
from prefloop.losses.reward_model import (
    ENSEMBLES,
    all_pairs,
    best_of,
    binary,
    bradley_terry,
    ensemble_penalised,
    outcome,
    regression,
    token_level,
)

from .cases import Array, gradient, normal, numerical_gradient, ragged_mask

SIZES = [3, 1, 4, 2]
PRESENT = ragged_mask(SIZES)
GOOD = torch.tensor([True, False, True, True])


def nls(x: float) -> float:
    return math.log(1 + math.exp(-x))


def pairs_by_loops(scores: Array) -> float:
    total = 0.0
    for row, size in zip(scores, SIZES, strict=True):
        losses = [nls(row[i] - row[j]) for i in range(size) for j in range(i + 1, size)]
        total += sum(losses) / max(1, len(losses))
    return total


def best_by_loops(scores: Array) -> float:
    rows = zip(scores, SIZES, strict=True)
    return sum(-math.log(math.exp(row[0]) / sum(math.exp(x) for x in row[:n])) for row, n in rows)


def order_by_loops(scores: Array) -> float:
    total = 0.0
    for row, size in zip(scores, SIZES, strict=True):
        for k in range(size):
            total -= math.log(math.exp(row[k]) / sum(math.exp(x) for x in row[k:size]))
    return total


def outcome_by_loops(scores: Array) -> float:
    rows = zip(scores, SIZES, GOOD.tolist(), strict=True)
    return sum(sum(nls(x if good else -x) for x in row[:n]) / n for row, n, good in rows)


@pytest.mark.parametrize(
    ("ours", "by_loops"),
    [
        (lambda x: all_pairs(x, PRESENT), pairs_by_loops),
        (lambda x: best_of(x, PRESENT), best_by_loops),
        (lambda x: plackett_luce(x, PRESENT), order_by_loops),
        (lambda x: outcome(x, PRESENT, GOOD), outcome_by_loops),
        (lambda x: binary(x[:, 0], GOOD), lambda x: sum(nls(v if g else -v) for v, g in zip(x[:, 0], GOOD, strict=True))),
        (lambda x: regression(x[:, 0], x[:, 0].detach() * 0 + 2), lambda x: ((x[:, 0] - 2) ** 2).sum()),
    ],
    ids=["all_pairs", "best_of", "plackett_luce", "outcome", "binary", "regression"],
)  # fmt: skip
def test_value_and_gradient_equal_loops(ours, by_loops):
    scores = normal(4, 4, seed=1, scale=2.0)
    assert ours(scores).sum().item() == pytest.approx(by_loops(scores.numpy()), rel=1e-12)
    np.testing.assert_allclose(
        gradient(ours, scores).numpy(), numerical_gradient(by_loops, scores), atol=1e-7
    )
    for junk in (math.nan, math.inf):  # M8
        dirty = torch.where(PRESENT, scores, junk)
        torch.testing.assert_close(ours(dirty), ours(scores))
        torch.testing.assert_close(gradient(ours, dirty), gradient(ours, scores))


def test_two_candidates_are_bradley_terry():
    scores, both = normal(5, 2, seed=2), torch.ones(5, 2, dtype=torch.bool)
    expected = bradley_terry(scores[:, 0], scores[:, 1])
    for loss in (all_pairs, plackett_luce, best_of):
        torch.testing.assert_close(loss(scores, both), expected)
        torch.testing.assert_close(loss(scores + 7, both), expected)


def token_level_by_loops(
    scores: Array, lengths: list[tuple[int, int]], ids: list[tuple[list[int], list[int]]]
) -> float:
    total = 0.0
    for row, ((n, m), (ours, theirs)) in enumerate(zip(lengths, ids, strict=True)):
        start = next(t for t in range(max(n, m)) if ours[t : t + 1] != theirs[t : t + 1])
        losses = [
            nls(scores[0, row, min(t, n - 1)] - scores[1, row, min(t, m - 1)])
            for t in range(start, max(n, m))
        ]
        total += sum(losses) / len(losses)
    return total


def test_token_level_runs_from_the_first_difference_to_the_longer_end():
    ids = [([5, 6, 7], [5, 6, 8, 9]), ([1], [2]), ([3, 4], [3])]
    lengths = [(len(a), len(b)) for a, b in ids]
    masks = [ragged_mask([pair[side] for pair in lengths], width=5) for side in range(2)]
    tokens = [
        torch.tensor([[*pair[side], *[0] * (5 - len(pair[side]))] for pair in ids]) for side in range(2)
    ]
    scores = normal(2, 3, 5, seed=3, scale=2.0)

    def ours(x: Tensor) -> Tensor:
        return token_level(x[0], x[1], *masks, *tokens)

    def by_loops(x: Array) -> float:
        return token_level_by_loops(x, lengths, ids)

    assert ours(scores).sum().item() == pytest.approx(by_loops(scores.numpy()), rel=1e-12)
    np.testing.assert_allclose(
        gradient(ours, scores).numpy(), numerical_gradient(by_loops, scores), atol=1e-7
    )
    dirty = torch.where(torch.stack(masks), scores, math.nan)
    torch.testing.assert_close(gradient(ours, dirty), gradient(ours, scores))
    # One-token completions are Bradley-Terry.
    torch.testing.assert_close(ours(scores)[1], bradley_terry(scores[0, 1, :1], scores[1, 1, :1])[0])


def test_ensembles_by_hand():
    scores = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert {name: rule(scores).tolist() for name, rule in ENSEMBLES.items()} == {
        "mean": [2.0, 0.0],
        "worst": [1.0, 0.0],
        "penalised": [1.5, 0.0],
    }
    assert ensemble_penalised(scores, penalty=0.0).tolist() == [2.0, 0.0]
