import math

import pytest
import torch

from prefloop.errors import InputError
from prefloop.losses import (
    ESTIMATORS,
    EXPECTED_AT_START,
    check_start,
    dpo_loss,
    expected_at_start,
    probability_ratio,
)

from .cases import normal


def test_every_entry_is_what_its_loss_gives_at_the_reference():
    sums, other = normal(5, seed=0), normal(5, seed=1)
    tokens = normal(2, 3, seed=2)
    observed = {
        "dpo": lambda: dpo_loss(sums, other, sums, other, beta=0.3, label_smoothing=0.2),
        "ratio": lambda: probability_ratio(tokens, tokens),
        "kl": lambda: torch.stack([estimator(tokens, tokens) for estimator in ESTIMATORS.values()]),
    }
    assert set(observed) == set(EXPECTED_AT_START)
    assert expected_at_start("dpo", beta=0.3, label_smoothing=0.2) == pytest.approx(0.6931472)
    for name, values in observed.items():
        settings = {"beta": 0.3, "label_smoothing": 0.2} if name == "dpo" else {}
        for value in values().flatten().tolist():
            assert value == pytest.approx(expected_at_start(name, **settings), abs=1e-12)


def test_check_passes_within_the_tolerance_and_says_why_not():  # K9
    check_start("loss", 0.69315, math.log(2), 1e-4, way_out="do this")
    check_start("kl", 0.0, 0.0, 0.0, way_out="do this")
    with pytest.raises(InputError) as error:
        check_start("loss", 0.71, math.log(2), 1e-4, way_out="do this")
    assert str(error.value) == (
        "step 0: loss is 0.71, but before the first update it must be 0.693147 (within 0.0001): "
        "the policy does not give the log-probabilities it is compared with; do this"
    )


@pytest.mark.parametrize("observed", [math.nan, math.inf, -math.inf])
def test_check_refuses_what_is_not_finite(observed: float):
    with pytest.raises(InputError, match="step 0"):
        check_start("ratio", observed, 1.0, 1e-3, way_out="do this")
