"""However a step is cut into micro-batches, the sum of their losses and gradients is that of the whole."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.losses import (
    bradley_terry,
    clipped_surrogate,
    clipped_value_loss,
    dpo_loss,
    example_mean,
    fixed_length,
    k2,
    k3,
    sequence_count,
    sequence_mean_of_token_mean,
    sequence_sum,
    token_count,
    token_mean,
)

from .cases import normal, quick, ragged_mask

LENGTHS = [3, 1, 7, 0, 4, 2, 5, 1]
MASK = ragged_mask(LENGTHS)
TOKENS, SEQUENCES = float(token_count(MASK)), float(sequence_count(MASK))
OLD = normal(*MASK.shape, seed=1, scale=0.5) - 2
START = OLD + normal(*MASK.shape, seed=2, scale=0.3)
OTHER = normal(*MASK.shape, seed=3)

# Per token: the trained numbers, then what else the rows hold.
PER_TOKEN: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "nll": lambda trained, old, other: -trained,
    "surrogate": lambda trained, old, other: clipped_surrogate(trained, old, other, clip=0.2),
    "dual clip": lambda trained, old, other: clipped_surrogate(
        trained, old, other, clip=(0.2, 0.28), dual_clip=3.0
    ),
    "value": lambda trained, old, other: clipped_value_loss(trained, old, other, clip=0.2),
    "k2": lambda trained, old, other: k2(trained, old),
    "k3": lambda trained, old, other: k3(trained, old),
}

AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "token mean": lambda losses, mask: token_mean(losses, mask, tokens=TOKENS),
    "mean of means": lambda losses, mask: sequence_mean_of_token_mean(losses, mask, sequences=SEQUENCES),
    "fixed length": lambda losses, mask: fixed_length(losses, mask, length=7, sequences=SEQUENCES),
}

cuts = st.sets(st.integers(1, len(LENGTHS) - 1)).map(lambda inner: [0, *sorted(inner), len(LENGTHS)])


def step(loss_of_rows: Callable[[slice, int, Tensor], Tensor], bounds: list[int]) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a step over these micro-batches, each only as wide as its own longest completion."""
    trained = START.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for first, last in pairwise(bounds):
        loss = loss_of_rows(slice(first, last), max(1, *LENGTHS[first:last], 1), trained)
        loss.backward()
        total += loss.detach()
    assert trained.grad is not None
    return total, trained.grad


def assert_split_changes_nothing(
    loss_of_rows: Callable[[slice, int, Tensor], Tensor], bounds: list[int]
) -> None:
    whole, whole_gradient = step(loss_of_rows, [0, len(LENGTHS)])
    split, split_gradient = step(loss_of_rows, bounds)
    assert whole_gradient.abs().max() > 0
    torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(split_gradient, whole_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("name", PER_TOKEN)
@quick
@given(bounds=cuts)
def test_token_losses_sum_to_the_whole_over_any_split(
    name: str, aggregation: str, bounds: list[int]
):  # N1 N6
    def loss_of_rows(rows: slice, width: int, trained: Tensor) -> Tensor:
        losses = PER_TOKEN[name](trained[rows, :width], OLD[rows, :width], OTHER[rows, :width])
        return AGGREGATIONS[aggregation](losses, MASK[rows, :width])

    assert_split_changes_nothing(loss_of_rows, bounds)


@quick
@given(bounds=cuts)
def test_dpo_with_its_sft_term_sums_to_the_whole_over_any_split(bounds: list[int]):  # N1 N7
    """Pairs are rows i of the trained completions and of fixed rejected ones; the SFT term is a mean over chosen tokens."""

    def loss_of_rows(rows: slice, width: int, trained: Tensor) -> Tensor:
        mask, chosen = MASK[rows, :width], trained[rows, :width]
        rejected = sequence_sum(OTHER[rows, :width], mask)
        pairs = dpo_loss(
            sequence_sum(chosen, mask),
            rejected,
            sequence_sum(OLD[rows, :width], mask),
            rejected - 1,
            beta=0.1,
            label_smoothing=0.1,
        )
        return example_mean(pairs, examples=len(LENGTHS)) + 0.5 * token_mean(-chosen, mask, tokens=TOKENS)

    assert_split_changes_nothing(loss_of_rows, bounds)


@quick
@given(bounds=cuts)
def test_bradley_terry_sums_to_the_whole_over_any_split(bounds: list[int]):  # N1
    def loss_of_rows(rows: slice, width: int, trained: Tensor) -> Tensor:
        return example_mean(bradley_terry(trained[rows, 0], OTHER[rows, 0]), examples=len(LENGTHS))

    assert_split_changes_nothing(loss_of_rows, bounds)


def test_sft_term_beside_dpo_is_normalised_once_by_hand():  # N7
    """Two pairs; chosen token log-probabilities (-1, -2) and (-3), so 3 chosen tokens: 2 ln 2 / 2 + 0.5 * 6 / 3."""
    mask = ragged_mask([2, 1])
    chosen = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
    sums = sequence_sum(chosen, mask)
    pairs = dpo_loss(sums, sums, sums, sums, beta=0.1)
    loss = example_mean(pairs, examples=2) + 0.5 * token_mean(-chosen, mask, tokens=3)
    assert loss.item() == pytest.approx(0.6931472 + 1.0)
