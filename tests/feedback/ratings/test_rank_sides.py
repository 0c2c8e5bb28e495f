"""Rank ranges look at both sides: a gap between two models is told only beyond the two-sided quantile."""

import numpy as np
import pytest

from prefloop.feedback.ratings import rank_ranges


@pytest.mark.parametrize(("gap", "told"), [(1.75, False), (1.85, False), (2.1, True)])
def test_two_models_are_told_apart_beyond_1_96_standard_errors(gap: float, told: bool) -> None:
    """A one-sided quantile, 1.64, would rank models that a 95 % interval of their difference does not tell apart."""
    covariance = np.array([[0.5, -0.5], [-0.5, 0.5]]) / 2  # the difference has a standard error of 1
    best, worst = rank_ranges(np.array([gap, 0.0]), covariance)
    assert (best.tolist(), worst.tolist()) == (([1, 2], [1, 2]) if told else ([1, 1], [2, 2]))
