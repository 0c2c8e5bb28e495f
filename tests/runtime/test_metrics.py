import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.runtime.metrics import Metrics
from prefloop.runtime.world import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_mean_is_of_all_values_not_of_means() -> None:  # N9
    metrics = Metrics()
    metrics.add("kl", torch.tensor(6.0), 3)
    metrics.add("kl", 10.0, torch.tensor(1))
    metrics.add("length", 4, 2)
    assert metrics.reduce(ALONE) == {"kl": 4.0, "length": 2.0}


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=5), min_size=1, max_size=6))
def test_any_split_gives_the_mean_of_all_values(parts: list[list[float]]) -> None:  # N9
    metrics = Metrics()
    for part in parts:
        micro = Metrics()
        micro.add("x", torch.tensor(part, dtype=torch.float64).sum(), len(part))
        metrics.merge(micro)
    values = [value for part in parts for value in part]
    mean = metrics.reduce(ALONE)["x"]
    if values:
        assert mean == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-6)
    else:
        assert math.isnan(mean)


def test_sums_are_float64_and_carry_no_graph() -> None:
    metrics = Metrics()
    weight = torch.ones((), requires_grad=True)
    metrics.add("x", weight * 1e8, 1)
    for _ in range(10):
        metrics.add("x", torch.tensor(1.0), 0)
    assert metrics.reduce(ALONE)["x"] == 1e8 + 10


def test_an_unreduced_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metric x was given a tensor of shape \(2,\)"):
        Metrics().add("x", torch.ones(2), 2)


def test_nothing_added_is_nothing() -> None:
    assert Metrics().reduce(ALONE) == {}
