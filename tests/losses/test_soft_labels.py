"""Losses on labels that are probabilities, against formulas written out with Python's numbers."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.losses import bradley_terry
from prefloop.losses.objectives import OBJECTIVES, call, over_labels
from prefloop.losses.quantities import quantities

from .cases import gradient, normal, quick
from .objectives import example

SOFT = [name for name, each in OBJECTIVES.items() if each.soft_labels]
PROBABILITIES = torch.tensor([0.0, 0.1, 0.5, 0.7, 1.0, 0.31], dtype=torch.float64)


def nls(x: float) -> float:
    return math.log1p(math.exp(-x))


def logistic(z: float, p: float) -> float:
    return p * nls(z) + (1 - p) * nls(-z)


def _ipo(h: float, p: float, beta: float) -> float:
    """The square round (2p - 1)τ, and the constant that a label drawn with p adds."""
    tau = 1 / (2 * beta)
    return (h - (2 * p - 1) * tau) ** 2 + tau**2 * (1 - (2 * p - 1) ** 2)


Row = Mapping[str, float]


def _h(r: Row) -> float:
    return r["policy_chosen"] - r["reference_chosen"] - r["policy_rejected"] + r["reference_rejected"]


def _per_token(r: Row) -> float:
    chosen = (r["policy_chosen"] - r["reference_chosen"]) / r["chosen_tokens"]
    return chosen - (r["policy_rejected"] - r["reference_rejected"]) / r["rejected_tokens"]


def _robust(r: Row, p: float, beta: float, e: float) -> float:
    z = beta * _h(r)
    return ((p * (1 - e) - (1 - p) * e) * nls(z) + ((1 - p) * (1 - e) - p * e) * nls(-z)) / (1 - 2 * e)


def _sppo(r: Row, p: float, beta: float) -> float:
    """The win rate's form, (ρ_w - (p - ½)/β)² + (ρ_l - (½ - p)/β)², and a constant."""
    w, l = r["policy_chosen"] - r["reference_chosen"], r["policy_rejected"] - r["reference_rejected"]  # noqa: E741
    target = (p - 0.5) / beta
    return (w - target) ** 2 + (l + target) ** 2 + 2 * ((0.5 / beta) ** 2 - target**2)


BY_HAND: Mapping[str, Callable[[Row, float], float]] = {
    "dpo": lambda r, p: logistic(0.1 * _h(r), p),
    "cdpo": lambda r, p: logistic(0.1 * _h(r), p * 0.9 + (1 - p) * 0.1),
    "robust_dpo": lambda r, p: _robust(r, p, 0.1, 0.1),
    "ipo_sum": lambda r, p: _ipo(_h(r), p, 0.1),
    "ipo_mean": lambda r, p: _ipo(_per_token(r), p, 0.1),
    "dpo_norm": lambda r, p: logistic(5.0 * _per_token(r), p),
    "sppo_hard": lambda r, p: _sppo(r, p, 1e-3),
}


def values_of(name: str, *, at_start: bool = False) -> dict[str, Tensor]:
    objective = OBJECTIVES[name]
    numbers = example("comparisons", at_start=at_start).numbers
    return quantities("comparisons", objective.names, numbers) | {
        key: torch.tensor(float(value), dtype=torch.float64) for key, value in objective.settings.items()
    }


def plain(name: str, values: Mapping[str, Tensor]) -> dict[str, object]:
    """Settings as numbers again."""
    return {key: value.item() if value.dim() == 0 else value for key, value in values.items()}


def soft(name: str, values: Mapping[str, Tensor], p: Tensor) -> Tensor:
    return over_labels(OBJECTIVES[name].loss, plain(name, values) | {"p_soft": p})


def test_which_objectives_take_soft_labels():
    assert set(SOFT) == set(BY_HAND)
    assert not any(each.soft_labels and each.prepare for each in OBJECTIVES.values())


@pytest.mark.parametrize("name", SOFT)
def test_the_formulas_written_out(name: str):
    values = values_of(name)
    count = len(values["policy_chosen"])
    p = PROBABILITIES[:count]
    ours = soft(name, values, p)
    for at in range(count):
        row = {key: value[at].item() for key, value in values.items() if value.dim()}
        assert ours[at].item() == pytest.approx(BY_HAND[name](row, p[at].item()), rel=1e-9)


@pytest.mark.parametrize("name", SOFT)
def test_certain_labels_are_hard_labels(name: str):
    values = values_of(name)
    ones = torch.ones_like(values["policy_chosen"])
    other = {
        key.replace("chosen", "@").replace("rejected", "chosen").replace("@", "rejected"): value
        for key, value in values.items()
    }
    hard = call(OBJECTIVES[name].loss, plain(name, values))
    turned = call(OBJECTIVES[name].loss, plain(name, other))
    assert torch.equal(soft(name, values, ones), hard)
    assert torch.equal(soft(name, values, 0 * ones), turned)
    p = torch.linspace(0.05, 0.95, len(ones), dtype=torch.float64)
    torch.testing.assert_close(soft(name, values, p), soft(name, other, 1 - p), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SOFT)
def test_half_pulls_nowhere_at_the_reference(name: str):
    values = values_of(name, at_start=True)
    half = torch.full_like(values["policy_chosen"], 0.5)
    for side in ("policy_chosen", "policy_rejected"):
        slope = gradient(lambda x, side=side: soft(name, values | {side: x}, half), values[side])
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)
    start = OBJECTIVES[name].start
    assert start is not None
    expected = call(start, plain(name, values))
    assert soft(name, values, 0.3 * half).tolist() == pytest.approx([expected] * len(half))  # K9


@quick
@given(st.floats(0.02, 0.98), st.floats(0.01, 2.0))
def test_dpo_is_lowest_where_its_probability_is_the_labels(p: float, beta: float):
    at = torch.tensor([math.log(p / (1 - p)) / beta], dtype=torch.float64)
    zero, label = torch.zeros_like(at), torch.tensor([p], dtype=torch.float64)

    def loss(policy_chosen: Tensor) -> Tensor:
        values = {"policy_chosen": policy_chosen, "policy_rejected": zero, "reference_chosen": zero}
        return over_labels(
            OBJECTIVES["dpo"].loss,
            {**values, "reference_rejected": zero, "beta": beta, "p_soft": label},
        )

    assert gradient(loss, at).item() == pytest.approx(0, abs=1e-12)
    assert loss(at).item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_bradley_terry_with_margin_and_smoothing_written_out():
    chosen, rejected, margin = (normal(6, seed=seed, scale=2.0) for seed in range(3))
    ours = bradley_terry(chosen, rejected, margin=margin, label_smoothing=0.2, p_soft=PROBABILITIES)
    for at, p in enumerate(PROBABILITIES.tolist()):
        d, m = (chosen - rejected)[at].item(), margin[at].item()
        right = p * 0.8 + (1 - p) * 0.2
        assert ours[at].item() == pytest.approx(right * nls(d - m) + (1 - right) * nls(-d - m), rel=1e-12)


@quick
@given(st.floats(-8, 8), st.floats(0, 1), st.floats(0, 2), st.floats(0, 0.49))
def test_bradley_terry_the_other_way_round(difference: float, p: float, margin: float, smoothing: float):
    d, zero = torch.tensor([difference], dtype=torch.float64), torch.zeros(1).double()
    settings = {"margin": margin, "label_smoothing": smoothing}
    one = bradley_terry(d, zero, p_soft=torch.tensor([p], dtype=torch.float64), **settings)
    other = bradley_terry(zero, d, p_soft=torch.tensor([1 - p], dtype=torch.float64), **settings)
    assert one.item() == pytest.approx(other.item(), rel=1e-12, abs=1e-12)
    hard = bradley_terry(d, zero, p_soft=torch.ones(1).double(), **settings)
    assert hard.item() == pytest.approx(bradley_terry(d, zero, **settings).item(), rel=1e-15)


def test_bradley_terry_is_lowest_where_its_probability_is_the_labels():
    p = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    slope = gradient(lambda d: bradley_terry(d, torch.zeros_like(d), p_soft=p), (p / (1 - p)).log())
    assert slope.tolist() == pytest.approx([0, 0, 0], abs=1e-12)
