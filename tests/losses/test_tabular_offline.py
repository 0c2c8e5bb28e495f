"""Offline objectives on infinite data reach the policy that theory says they do, in the policy's own parameters.

From Bradley-Terry comparisons of rewards r the margin that a loss wants of a pair is known; where the margins of all pairs fit together, so is the
policy: π(y) = π_ref(y) u(y), with g(log u) = r/β + c for some c that makes π a distribution (g the identity but for f-DPO).
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .tabular import (
    Rows,
    World,
    bradley_terry_data,
    distribution,
    hard_data,
    minimise,
    plackett_luce_data,
)

BETA = 0.5
SEEDS = (0, 1, 2)


def tilted(world: World, log_ratio: Tensor) -> Tensor:
    """π_ref e^log_ratio, normalised."""
    return (distribution(world.reference).log() + log_ratio).softmax(0)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Total variation."""
    return (found - wanted).abs().sum().item() / 2


def normalised(world: World, ratio: Callable[[Tensor], Tensor]) -> Tensor:
    """π_ref u(r/β - c) with c by bisection, u falling in c."""
    reference = distribution(world.reference)
    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        total = (reference * ratio(world.rewards / BETA - middle)).sum().item()
        low, high = (middle, high) if total > 1 else (low, middle)
    return reference * ratio(world.rewards / BETA - (low + high) / 2)


def mean_wins(world: World) -> Tensor:
    """(1/N) Σ_j (2 p_ij - 1): the least-squares strengths whose differences are nearest to 2p - 1."""
    difference = world.rewards[:, None] - world.rewards[None, :]
    return (2 * difference.sigmoid() - 1).mean(1)


def forward_kl_ratio(x: Tensor) -> Tensor:
    """u with -1/u = x."""
    return torch.where(x < 0, -1 / x, torch.inf)


def jensen_shannon_ratio(x: Tensor) -> Tensor:
    """u with log(2u/(1 + u)) = x."""
    return torch.where(x < torch.log(torch.tensor(2.0)), x.exp() / (2 - x.exp()), torch.inf)


def alpha_ratio(x: Tensor) -> Tensor:
    """u with (1 - u^-½)/½ = x."""
    return torch.where(x < 2, (1 - x / 2).clamp(min=1e-12) ** -2, torch.inf)


OPTIMA: dict[str, tuple[Callable[[World], Rows], Callable[[World], Tensor], dict[str, float]]] = {
    "dpo": (lambda w: bradley_terry_data(w.rewards), lambda w: tilted(w, w.rewards / BETA), {}),
    "robust_dpo": (
        lambda w: bradley_terry_data(w.rewards, flip=0.2),
        lambda w: tilted(w, w.rewards / BETA),
        {"label_smoothing": 0.2},
    ),
    "ipo_sum": (
        lambda w: bradley_terry_data(w.rewards),
        lambda w: tilted(w, mean_wins(w) / (2 * BETA)),
        {},
    ),
    "f_dpo_forward_kl": (
        lambda w: bradley_terry_data(w.rewards),
        lambda w: normalised(w, forward_kl_ratio),
        {},
    ),
    "f_dpo_jensen_shannon": (
        lambda w: bradley_terry_data(w.rewards),
        lambda w: normalised(w, jensen_shannon_ratio),
        {},
    ),
    "f_dpo_alpha": (lambda w: bradley_terry_data(w.rewards), lambda w: normalised(w, alpha_ratio), {}),
    "gpo_exponential": (
        lambda w: bradley_terry_data(w.rewards),
        lambda w: tilted(w, w.rewards / (2 * BETA)),
        {},
    ),
    "gpo_truncated_square": (
        lambda w: bradley_terry_data(w.rewards),
        lambda w: tilted(w, mean_wins(w) / BETA),
        {},
    ),
    "gpo_savage": (lambda w: bradley_terry_data(w.rewards), lambda w: tilted(w, w.rewards / BETA), {}),
    "pl_dpo": (lambda w: plackett_luce_data(w.rewards), lambda w: tilted(w, w.rewards / BETA), {}),
    "dro": (lambda w: hard_data("scores", w.rewards), lambda w: tilted(w, w.rewards / BETA), {}),
}
"""Objective -> its infinite data, the policy it must end in, settings beside β (τ of `dro`) = ½."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", OPTIMA)
def test_the_optimum_is_where_theory_puts_it(name: str, seed: int):  # K15
    world = World.of(seed)
    data, wanted, settings = OPTIMA[name]
    scale = {"tau" if name == "dro" else "beta": BETA}
    trained = minimise(name, world, data(world), **scale, **settings)
    target = wanted(world)
    assert target.sum().item() == pytest.approx(1, abs=1e-6)
    assert distance(distribution(world.reference), target) > 0.03
    assert distance(distribution(trained.table), target) < 0.005
    if name == "dro":  # the value is β log Z
        best = BETA * (distribution(world.reference).log() + world.rewards / BETA).logsumexp(0).item()
        assert trained.value.item() == pytest.approx(best, abs=0.01)


def test_cdpo_holds_margins_where_dpo_does_not():
    """One pair, seen without noise: DPO's margin grows for ever, cDPO's stops at log((1 - ε)/ε)/β."""
    world = World.of(0)
    rows = Rows.of([[0, 1]], said=[1.0, 0.0])
    trained = minimise("cdpo", world, rows, beta=BETA, label_smoothing=0.1)
    ratio = distribution(trained.table).log() - distribution(world.reference).log()
    assert (ratio[0] - ratio[1]).item() == pytest.approx(torch.tensor(9.0).log().item() / BETA, rel=1e-3)
