"""The study of all objectives: every one can be trained and tuned, and what is said of them follows from planted numbers."""

import pytest
import torch
from torch import Tensor

from prefloop.losses.objectives import OBJECTIVES
from prefloop.studies.letters import (
    Letters,
    compare,
    distribution,
    expected,
    kl,
    make_world,
    soft_labels,
    tilted,
    win_rate,
)
from prefloop.studies.objective_claims import CLAIMS, FAMILIES, SWEEPS, family_of
from prefloop.studies.objectives import (
    DPO,
    ObjectivesSettings,
    above_dpo,
    choose,
    report,
    seed_world,
    untuned,
    values,
)
from prefloop.studies.offline import judge_groups, train_by_objective
from prefloop.studies.study import StudyResults

SMALL = ObjectivesSettings(prompts=2, letters=2, longest=3, completions=400, reward_steps=10, width=4)


@pytest.fixture(scope="module")
def world() -> Letters:
    return make_world(prompts=2, letters=2, longest=3, seed=0)


def test_every_objective_is_tuned_over_five_settings_that_it_has() -> None:
    assert SWEEPS.keys() == OBJECTIVES.keys()
    assert {family_of(name) for name in OBJECTIVES} == set(FAMILIES)
    assert CLAIMS.keys() <= OBJECTIVES.keys()
    for name, sweep in SWEEPS.items():
        assert len({tuple(one.items()) for one in sweep}) == 5, name
        for one in sweep:
            assert one.keys() <= OBJECTIVES[name].settings.keys() | {"rate"}, name


def test_every_objective_trains_on_its_data() -> None:
    own = seed_world(SMALL, 0)
    for name in OBJECTIVES:
        data = own.data(name, SMALL, 0)
        table = train_by_objective(own.world, data, name, steps=15, seed=0, settings=SWEEPS[name][2])
        p = distribution(own.world.tree, table)
        assert kl(p, own.world.probabilities) > 1e-3, name
        if name != "discopop":  # its first steps push margins down, as its docstring says
            assert expected(p, own.world.gold) > 0.02, name


def test_win_rates_are_those_of_all_pairs(world: Letters) -> None:
    gold = world.gold.round()  # with ties
    one, other = tilted(world, world.gold, 0.5), world.probabilities
    by_hand = torch.zeros(())
    for a, b, g in zip(one, other, gold, strict=True):
        by_hand += (a[:, None] * b * ((g[:, None] > g) + 0.5 * (g[:, None] == g))).sum() / len(gold)
    assert win_rate(one, other, gold) == pytest.approx(float(by_hand), abs=1e-5)
    assert win_rate(one, one, gold) == pytest.approx(0.5, abs=1e-5)


def test_an_annotator_orders_as_comparisons_do(world: Letters) -> None:
    draw = torch.Generator().manual_seed(0)
    groups = judge_groups(world, 100_000, 2, temperature=0.7, draw=draw)
    assert (groups.labels.diff(dim=1) <= 0).all()
    gold = world.gold[groups.prompt[:, None], groups.completions]
    size = gold.diff(dim=1).abs()
    for low, high in ((0.2, 0.6), (1.0, 1.4)):  # errors of the shares are 0.005
        some = (size > low) & (size < high)
        right = (gold.diff(dim=1) < 0)[some].float().mean()
        assert float(right) == pytest.approx(float(torch.sigmoid(size[some] / 0.7).mean()), abs=0.02)


def test_soft_labels_have_the_annotator_s_scale(world: Letters) -> None:
    data = compare(world, 4000, temperature=0.5, draw=torch.Generator().manual_seed(0))
    gap = world.gold[data.prompt, data.chosen] - world.gold[data.prompt, data.rejected]
    torch.testing.assert_close(soft_labels(world.gold, data), torch.sigmoid(gap / 0.5), atol=0.03, rtol=0.1)


def _half(gold: float, wins: Tensor) -> dict[str, object]:
    return {"gold": gold, "kl": 1.0, "length": 2.0, "wins": wins.tolist(), "drawn": [[gold, gold]] * 3}


def _planted(golds: dict[str, list[tuple[list[float], list[float]]]]) -> StudyResults:
    """Objective -> seed -> for each half of the prompts, true reward of the default and the five settings."""
    wins = torch.full((6,), 50.0)
    return StudyResults(
        numbers={
            name: {
                seed: {
                    "points": [
                        [_half(row[at], wins + 10 * at) for row in halves] for at in range(len(halves[0]))
                    ]
                }
                for seed, halves in enumerate(seeds)
            }
            for name, seeds in golds.items()
        }
    )


def test_a_setting_is_chosen_on_other_prompts_than_it_is_reported_on() -> None:
    first, second = [0.0, 9, 1, 1, 1, 1], [0.0, 1, 1, 1, 1, 8]
    results = _planted({DPO: [(first, second), (first, second)]})
    assert [choose(results, DPO, half) for half in (0, 1)] == [5, 1]
    assert values(results, DPO, "gold") == [1, 1, 1, 1]
    assert values(results, DPO, "wins") == [100, 100, 60, 60]
    assert values(results, DPO, "wins", untuned) == [50] * 4


def test_claims_are_sorted_by_what_is_left_of_them() -> None:
    """Noise of a hundredth: SimPO is better tuned and untuned, ORPO untuned only, CPO with neither."""

    def rows(default: float, tuned: float) -> list[tuple[list[float], list[float]]]:
        halves = [[default + 0.01 * one, *[tuned + 0.01 * (one % 3)] * 5] for one in range(4)]
        return [(halves[0], halves[1]), (halves[2], halves[3])]

    results = _planted(
        {
            DPO: [([0.5] + [1.0] * 5, [0.5] + [1.0] * 5)] * 2,
            "simpo": rows(0.8, 1.3),
            "orpo": rows(0.8, 0.99),
            "cpo": rows(0.1, 0.2),
            "kto": rows(0.5, 0.95),
        }
    )
    assert above_dpo(results, "cpo").high < 0
    made = report(SMALL, results)
    whole, *claims = made.findings
    assert "Holds for 2 of 4 (simpo, kto)" in whole.found
    assert "not when both are tuned for 1 (orpo)" in whole.found
    assert "with neither for 1 (cpo)" in whole.found
    assert [claim.holds for claim in claims] == [True, None, False, True]
    assert whole.holds is False  # as one is refuted
    assert [row[0] for row in made.table.rows][::4] == ["simpo", "cpo"]
