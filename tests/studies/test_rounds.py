"""The study of rounds: where comparisons come from, what is fitted again, and ratings that follow true rewards."""

import pytest
import torch

from prefloop.studies.letters import accuracy, compare, make_world, tilted
from prefloop.studies.rounds import (
    FROZEN,
    ONE_SHOT,
    REFERENCE,
    REFITTED,
    RoundsSettings,
    after,
    cells,
    last,
    ratings,
    work,
)
from prefloop.studies.study import Numbers, Place, StudyCell, StudyResults

SMALL = RoundsSettings(
    prompts=2, letters=2, longest=3, rounds=2, labels=40, width=8, reward_steps=40, drawn=5
)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Numbers]:
    place = Place(seed=0, folder=tmp_path_factory.mktemp("a"), prepared=tmp_path_factory.mktemp("b"), data="")
    return {cell.name: work(SMALL, cell, place) for cell in cells(SMALL)}


def test_rounds_begin_at_the_reference_and_one_shot_is_one_round(numbers: dict[str, Numbers]) -> None:
    for name, found in numbers.items():
        assert len(found["points"]) == (2 if name == ONE_SHOT else 3)
        assert after(0, "gold")(found) == pytest.approx(0, abs=1e-6)
        assert after(0, "kl")(found) == pytest.approx(0, abs=1e-6)
    assert last("gold")(numbers[ONE_SHOT]) > 0.2


def test_a_model_that_is_kept_gives_the_same_policy_every_round(numbers: dict[str, Numbers]) -> None:
    frozen, refitted = numbers[FROZEN], numbers[REFITTED]
    assert after(1, "gold")(frozen) == pytest.approx(after(2, "gold")(frozen))
    assert after(1, "gold")(refitted) == pytest.approx(after(1, "gold")(frozen))
    assert after(1, "gold")(refitted) != pytest.approx(after(2, "gold")(refitted))


def test_later_rounds_ask_about_the_policy_s_own_completions(numbers: dict[str, Numbers]) -> None:
    assert after(2, "gold")(numbers[REFITTED]) != pytest.approx(after(2, "gold")(numbers[REFERENCE]))
    world = make_world(prompts=2, letters=2, longest=3, seed=0)
    policy = tilted(world, world.gold, 0.05)
    draw = torch.Generator().manual_seed(0)
    own = compare(world, 500, temperature=0.5, draw=draw, policy=policy)
    best = world.gold.argmax(1)
    assert (own.chosen == best[own.prompt]).float().mean() > 0.9
    assert accuracy(world, world.gold, policy=policy) == 1.0


def test_ratings_follow_true_reward() -> None:
    def points(*golds: float) -> Numbers:
        return {"points": [{"drawn": [[gold] * 4] * 3} for gold in golds]}

    results = StudyResults(numbers={REFITTED: {seed: points(0, 1, 2) for seed in range(4)}})
    found = ratings(results, {"a": (REFITTED, 0), "b": (REFITTED, 1), "c": (REFITTED, 2)})
    assert found["a"].value == 1000
    assert found["a"].value < found["b"].value < found["c"].value


def test_cells_have_names_of_their_own() -> None:
    names = [cell.name for cell in cells(SMALL)]
    assert len(set(names)) == len(names)
    assert isinstance(cells(SMALL)[0], StudyCell)
