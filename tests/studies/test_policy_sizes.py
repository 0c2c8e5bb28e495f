"""Policies that are trained: their networks, what a KL penalty does to them, and what is said of planted curves."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from torch import Tensor

from prefloop.studies import policy_sizes
from prefloop.studies.letters import Letters, distribution, expected, kl, make_world, tilted
from prefloop.studies.policy_sizes import (
    PolicyNetwork,
    alike,
    imitate,
    policy_cells,
    policy_figures,
    policy_findings,
    policy_table,
    trained,
)
from prefloop.studies.reward_curves import line, point_of, reward_at
from prefloop.studies.study import Numbers, StudyResults, over_seeds

WIDTHS, COEFS = (2, 8, 64), (0.1, 0.3)


@pytest.fixture(scope="module")
def world() -> Letters:
    return make_world(prompts=2, letters=2, longest=3, seed=0)


def test_a_network_reads_the_letters_before_each_token(world: Letters) -> None:
    tree = world.tree
    features = PolicyNetwork(world, 4, seed=0).features
    read = features[:, :, 2:].unflatten(2, (3, tree.vocabulary)).argmax(-1)
    for tokens, mask, states in zip(tree.tokens, tree.mask, tree.states, strict=True):
        for place in range(int(mask.sum())):
            before = tokens[:place].tolist()
            none = tree.vocabulary - 1
            expect = [*before, *[none] * (2 - place), *(before[-1:] or [none])]
            assert read[:, states[place]].tolist() == [expect, expect]
    assert features[:, 0, :2].tolist() == [[1, 0], [0, 1]]


def test_a_wide_network_imitates_what_a_narrow_one_cannot(world: Letters) -> None:
    demonstrations = tilted(world, world.gold, 1.0)

    def missed(width: int) -> float:
        policy = PolicyNetwork(world, width, seed=0)
        imitate(world, policy, demonstrations, steps=150)
        return kl(demonstrations, distribution(world.tree, policy()))

    assert missed(32) < 0.02 < 0.1 < missed(1)


def _trained(world: Letters, scores: Tensor, kl_coef: float = 0.0) -> Numbers:
    (cell,) = policy_cells([16], [])
    cell = replace(cell, given={**cell.given, "kl_coef": kl_coef})
    return trained(world, scores, cell, demonstrator=1.0, steps=60, completions=16, most=8, seed=0)


def test_training_against_the_opposite_of_the_true_reward_loses_what_the_score_gains(world: Letters) -> None:
    found = _trained(world, -world.gold)
    assert found["start"] > 0.3
    assert found["rl"][0] == {"d": 0.0, "gold": 0.0, "proxy": 0.0}
    for curve in ("rl", "bon"):
        end = found[curve][-1]
        assert end["proxy"] > 0.5
        assert end["gold"] == pytest.approx(-end["proxy"], abs=1e-5)
    assert len(found["bon"]) == 4
    assert found["bon"][0] == pytest.approx({"d": 0.0, "gold": 0.0, "proxy": 0.0}, abs=2e-3)  # best of one


def test_a_kl_penalty_keeps_a_policy_near_its_start(world: Letters) -> None:
    free, held = _trained(world, world.gold), _trained(world, world.gold, kl_coef=2.0)
    assert free["rl"][-1]["gold"] > held["rl"][-1]["gold"] > 0.1
    assert held["rl"][-1]["d"] < 0.6 * free["rl"][-1]["d"]
    assert held["start"] == free["start"]


def test_steps_that_do_not_divide_end_with_the_last(world: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_sizes, "POINTS", 4)
    (cell,) = policy_cells([2], [])

    def way(steps: int) -> int:
        given = {"demonstrator": 1.0, "completions": 2, "most": 1, "seed": 0}
        return len(trained(world, world.gold, cell, steps=steps, **given)["rl"])

    assert (way(8), way(10)) == (5, 6)  # after 0, 2, 4, 6 and 8; 0, 2, 4, 6, 8 and 10
    assert way(11) == 7  # 0, 2, 4, 6, 8, 10 and 11


def test_a_kl_is_read_where_it_is_first_reached(world: Letters) -> None:
    way = [(0.0, 0.0), (1.0, 1.0), (0.5, 9.0), (2.0, 3.0), (1.5, 9.0)]
    numbers = {"rl": [{"d": d, "gold": gold, "proxy": 2 * gold} for d, gold in way]}
    found = [reward_at("rl", "gold", d)(numbers) for d in (0.0, 0.5, 1.0, 1.5, 2.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 2.0, 3.0])
    assert reward_at("rl", "gap", 1.5)(numbers) == pytest.approx(2.0)
    assert reward_at("rl", "gold", 2.1)(numbers) != reward_at("rl", "gold", 2.1)(numbers)  # NaN

    p, start = tilted(world, world.gold, 0.3), tilted(world, world.gold, 1.0)
    point = point_of(world, 3 * world.gold, p, start)
    assert point["d"] == pytest.approx(kl(p, start) ** 0.5)
    assert point["gold"] == pytest.approx(expected(p, world.gold) - expected(start, world.gold))
    assert point["proxy"] == pytest.approx(3 * point["gold"], rel=1e-5)


def _curve(end: float, gold: float, proxy: float) -> list[dict[str, float]]:
    return [{"d": d * end, "gold": d * gold, "proxy": d * proxy} for d in (0.0, 0.5, 1.0)]


def _planted(
    gains: Mapping[int, float], gaps: Mapping[int, float], held: tuple[float, float]
) -> tuple[StudyResults, list[bool | None]]:
    """Straight lines to √KL 2: the gold gain and the gap of each width there, and how far policies with a penalty, which end at √KL 1, lie above
    in gold and in proxy; and the answers."""
    numbers: dict[str, dict[int, Any]] = {}
    for cell in policy_cells(WIDTHS, COEFS):
        width = cell.given["policy"]
        for seed in range(4):
            away = 0.01 * (1 - 2 * (seed % 2))  # else no difference would have a spread
            gold = gains[width] + (away if width == 2 else 0)
            proxy = gold + gaps[width] + (away if width == 2 else 0)
            rl = _curve(2.0, gold, proxy)
            if cell.given["kl_coef"]:
                rl = _curve(1.0, gold / 2 + held[0] + away, proxy / 2 + held[1] + away)
            own = {"start": 0.5, "rl": rl, "bon": _curve(2.0, gold, proxy)}
            numbers.setdefault(cell.name, {})[seed] = own
    results = StudyResults(numbers=numbers)
    return results, [finding.holds for finding in policy_findings(WIDTHS, COEFS, results)]


def test_findings_are_those_of_planted_curves() -> None:
    as_published = {2: 1.5, 8: 1.2, 64: 1.0}, {2: 1.0, 8: 1.0, 64: 1.05}, (0.02, 0.3)
    results, holds = _planted(*as_published)
    assert holds == [True, True, True, True]
    gains, gaps, scored, kept = (one.found for one in policy_findings(WIDTHS, COEFS, results))
    assert "the first gains 0.5" in gains
    assert "0.025 [0.016, 0.034] at √KL 1 (4 seeds)" in gaps
    assert (
        "0.300 [0.282, 0.318] (coefficient 0.1, 4 seeds), 0.300 [0.282, 0.318] (coefficient 0.3, 4 seeds)"
        in scored
    )
    assert "0.020 [0.002, 0.038] (coefficient 0.1, 4 seeds)" in kept

    _, holds = _planted({2: 1.0, 8: 1.2, 64: 1.5}, {2: 1.0, 8: 1.0, 64: 2.0}, (0.3, -0.2))
    assert holds == [False, False, False, False]
    _, holds = _planted({2: 1.0, 8: 1.0, 64: 1.0}, {2: 1.0, 8: 1.0, 64: 1.14}, (0.1, 0.0))
    assert holds[0] is None
    assert holds[1] is None  # at √KL 1.5 the gaps differ by about what counts as alike
    assert holds[2:] == [None, None]


def test_what_counts_as_alike() -> None:
    assert alike(over_seeds([0.01, 0.02, 0.0])) is True
    assert alike(over_seeds([-0.31, -0.32, -0.3])) is False
    assert alike(over_seeds([0.3, -0.3, 0.0])) is None
    assert alike(over_seeds([0.3])) is None  # one seed has no interval


def test_the_table_and_the_figures_hold_every_policy() -> None:
    results, _ = _planted({2: 1.5, 8: 1.2, 64: 1.0}, {2: 1.0, 8: 1.0, 64: 1.0}, (0.0, 0.3))
    cells = policy_cells(WIDTHS, COEFS)
    table = policy_table(cells, results)
    assert [row[0] for row in table.rows] == [cell.name for cell in cells]
    row = dict(zip(table.columns, map(str, table.rows[0]), strict=True))
    assert "value=0.5," in row["true reward at the start"]
    assert "value=0.75," in row["gap at √KL 1.5"]
    sizes, coefs = (
        one.drawing for one in policy_figures(WIDTHS, COEFS, results, [0.0, 0.5, 1.0, 1.5, 2.0, 2.4])
    )
    for drawing, lines in ((sizes, 3), (coefs, 3)):
        assert drawing.count(' dashed"') == lines
        assert drawing.count('<path class="line') + drawing.count("<path d=") >= 2 * lines
    assert "coefficient 0.1, reward model" in coefs
    assert "width 8, true reward" in sizes


def test_a_line_ends_where_the_first_seed_does() -> None:
    short = {"rl": _curve(1.0, 1.0, 1.0)}
    results = StudyResults(numbers={"one": {0: short, 1: {"rl": _curve(2.0, 2.0, 2.0)}}})
    found = line(results, "one", "rl", "gold", grid=[0.0, 0.5, 1.0, 1.5], label="one", slot=1)
    assert found.x == [0.0, 0.5, 1.0]
    assert found.y == pytest.approx([0.0, 0.5, 1.0])
    assert all(a < b for a, b in pairwise(found.y))
