"""Merging changes: against the definition weight by weight, and what must hold of it."""

import pytest
import torch

from prefloop.models.merge import merged, summed, ties, trimmed


def test_trim_keeps_the_largest_changes() -> None:
    change = torch.tensor([[0.1, -3.0], [2.0, -0.2]])
    assert trimmed(change, 0.5).tolist() == [[0.0, -3.0], [2.0, 0.0]]
    assert torch.equal(trimmed(change, 1.0), change)
    assert trimmed(torch.ones(4), 0.5).tolist() == [1, 1, 0, 0]  # ties by place: as many as were asked for


def test_ties_by_hand() -> None:
    """The sign of the weighted sum is elected; the mean is over those that have it and are not zero."""
    changes = torch.tensor([[1.0, -2.0, 0.0, 3.0, 0.0], [3.0, 1.0, 4.0, -3.0, 0.0]])
    assert ties(changes, torch.ones(2)).tolist() == [2.0, -2.0, 4.0, 0.0, 0.0]
    assert ties(changes, torch.tensor([1.0, 3.0])).tolist() == [2.5, 1.0, 4.0, -3.0, 0.0]
    assert summed(changes, torch.tensor([1.0, 3.0])).tolist() == [10.0, 1.0, 12.0, -6.0, 0.0]


@pytest.mark.parametrize("method", ["ties", "sum"])
def test_merging_a_model_with_the_base_gives_the_model(method: str) -> None:
    base = {"w": torch.randn(3, 4), "steps": torch.tensor([7])}
    model = {"w": torch.randn(3, 4), "steps": torch.tensor([9])}
    found = merged(base, [model, base], method=method, densities=(1, 1), weights=(1, 1), scale=1.0)
    torch.testing.assert_close(found["w"], model["w"])
    assert found["steps"].tolist() == [7]


def test_changes_apart_from_each_other_both_survive() -> None:
    """What PAFT is for: two trainings that touch different weights lose nothing of either."""
    base = {"w": torch.zeros(4)}
    one, other = {"w": torch.tensor([1.0, 2.0, 0.0, 0.0])}, {"w": torch.tensor([0.0, 0.0, -3.0, 4.0])}
    for method in ("ties", "sum"):
        found = merged(base, [one, other], method=method, densities=(1, 1), weights=(1, 1), scale=0.5)
        assert found["w"].tolist() == [0.5, 1.0, -1.5, 2.0]
    swapped = merged(base, [other, one], method="ties", densities=(1, 1), weights=(1, 1), scale=0.5)
    assert torch.equal(swapped["w"], found["w"])
