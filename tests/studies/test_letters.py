"""The world of letters, by hand and by brute force; and the studies on it, their measures and their smallest sizes."""

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.configs.study import StudyConfig
from prefloop.studies import frontier, overoptimisation
from prefloop.studies.letters import (
    Comparisons,
    Letters,
    accuracy,
    best_of,
    compare,
    distribution,
    expected,
    fit_reward_model,
    kl,
    make_tree,
    make_world,
    tilted,
    train_on_reward,
)
from prefloop.studies.offline import paired, train_by_objective
from prefloop.studies.run import study
from tests.losses.tabular import SEQUENCES


@pytest.fixture(scope="module")
def world() -> Letters:
    return make_world(prompts=2, letters=2, longest=3, seed=0)


def test_all_completions_are_there_once(world: Letters) -> None:
    tree = make_tree(2, 3)
    found = [tuple(row[mask].tolist()) for row, mask in zip(tree.tokens, tree.mask, strict=True)]
    assert sorted(found) == sorted(SEQUENCES)
    torch.testing.assert_close(world.probabilities.sum(1), torch.ones(2))
    assert expected(world.probabilities, world.gold) == pytest.approx(0, abs=1e-6)
    assert expected(world.probabilities, world.gold.square()) == pytest.approx(1, abs=1e-5)


def test_the_best_of_three_is_that_of_all_triples(world: Letters) -> None:
    """With rewards that are equal here and there: each of the equal best is as likely as it was drawn."""
    reward = (2 * world.gold).round()
    found = best_of(world, reward, 3)
    for p, own, r in zip(world.probabilities, found, reward, strict=True):
        by_hand = torch.zeros(len(p))
        for triple in product(range(len(p)), repeat=3):
            best = [each for each in triple if r[each] == r[list(triple)].max()]
            for each in best:
                by_hand[each] += p[list(triple)].prod() / len(best)
        torch.testing.assert_close(own, by_hand, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(best_of(world, reward, 1), world.probabilities)
    assert kl(best_of(world, world.gold, 3), world.probabilities) <= math.log(3) - 2 / 3 + 1e-6


def test_the_tilted_policy_is_the_best_one(world: Letters) -> None:
    p, draw = world.probabilities, torch.Generator().manual_seed(0)

    def value(policy: torch.Tensor) -> float:
        return expected(policy, world.gold) - 0.4 * kl(policy, p)

    best = tilted(world, world.gold, 0.4)
    for _ in range(20):
        other = (best.log() + 0.1 * torch.randn(best.shape, generator=draw)).softmax(-1)
        assert value(other) < value(best)


def test_a_sure_annotator_is_always_right_and_a_reward_model_learns_it(world: Letters) -> None:
    draw = torch.Generator().manual_seed(0)
    data = compare(world, 400, temperature=1e-6, draw=draw)
    differ = data.chosen != data.rejected
    gap = world.gold[data.prompt, data.chosen] - world.gold[data.prompt, data.rejected]
    assert (gap[differ] > 0).all()
    scores = fit_reward_model(world, data, width=16, steps=150, seed=0)
    assert accuracy(world, scores) > 0.85
    assert accuracy(world, -world.gold) == 0.0


@pytest.mark.parametrize("loss", frontier.OFFLINE.values())
def test_offline_methods_learn_what_is_preferred(world: Letters, loss: str) -> None:
    draw = torch.Generator().manual_seed(1)
    data: Comparisons = compare(world, 400, temperature=0.2, draw=draw)
    table = train_by_objective(world, paired(data), loss, steps=40, seed=0, settings={"beta": 0.3})
    assert expected(distribution(world.tree, table), world.gold) > 0.3


@pytest.mark.parametrize("method", frontier.ONLINE)
def test_online_methods_climb_towards_the_optimum(world: Letters, method: str) -> None:
    def reached(kl_coef: float) -> torch.Tensor:
        table = train_on_reward(world, world.gold, method, kl_coef=kl_coef, steps=60, k=16, seed=0)
        return distribution(world.tree, table)

    free, held = reached(0.1), reached(2.0)
    assert expected(free, world.gold) > 0.8 * expected(tilted(world, world.gold, 0.1), world.gold)
    assert kl(held, world.probabilities) < 0.5 * kl(free, world.probabilities)


def test_frontiers_are_read_between_points() -> None:
    points = {"points": [{"kl": 2.0, "gold": 1.0}, {"kl": 1.0, "gold": 0.8}]}
    assert frontier.at("gold", 0.5)(points) == pytest.approx(0.4)
    assert frontier.at("gold", 1.5)(points) == pytest.approx(0.9)
    assert np.isnan(frontier.at("gold", 2.5)(points))


def test_laws_are_found_again() -> None:
    d = np.linspace(0.1, 2.0, 20)
    planted = {
        "bon": [{"d": x, "gold": x * (1.5 - 0.4 * x)} for x in d],
        "rl": [{"d": x, "gold": x * (1.5 - 0.4 * np.log(x))} for x in d],
    }
    for curve in ("bon", "rl"):
        law = {what: overoptimisation.fitted(curve, curve, what)(planted) for what in ("alpha", "beta", "r2")}
        assert law == pytest.approx({"alpha": 1.5, "beta": 0.4, "r2": 1.0})
    assert overoptimisation.fitted("bon", "rl", "r2")(planted) < 0.999


@pytest.mark.parametrize(
    "name", ["frontier", "overoptimisation", "objectives", "ppo_tricks", "rounds", "rlaif"]
)
def test_the_smallest_size_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    assert study(StudyConfig(name=name, size="smallest", jobs=1, out=str(out))) == 0
    found = json.loads((out / "study.json").read_text())
    assert found["made"]["seeds"] == 2
    assert len(found["findings"]) >= 4
    assert (out / "figure.svg").read_text().startswith("<svg")
