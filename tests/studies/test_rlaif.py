"""The study of AI labels: biases are as planted, averaging orders takes one of them away, and the price buys as many labels as it says."""

import pytest
import torch

from prefloop.studies.letters import Letters, make_world
from prefloop.studies.rlaif import (
    BOTH_ORDERS,
    FAIR,
    FIRST_SHOWN,
    LONGER,
    ONE_ORDER,
    PEOPLE,
    RlaifSettings,
    _agreement,
    _labels,
    ask,
    cells,
    name_of,
    taste,
)

SETTINGS = RlaifSettings(prompts=2, letters=2, longest=3, labels=30, cheaper=10)


@pytest.fixture(scope="module")
def world() -> Letters:
    return make_world(prompts=2, letters=2, longest=3, seed=0)


def labels(world: Letters, *, position: float, both: bool, temperature: float = 0.05) -> float:
    draw = torch.Generator().manual_seed(0)
    found = ask(world, world.gold, 20_000, temperature=temperature, position=position, both=both, draw=draw)
    return _agreement(world, found)


def test_a_sure_judge_without_bias_is_always_right(world: Letters) -> None:
    assert labels(world, position=0.0, both=False, temperature=1e-4) == 100
    assert labels(world, position=0.0, both=True, temperature=1e-4) == 100


def test_position_costs_agreement_and_both_orders_give_back_only_ties(world: Letters) -> None:
    """A sure judge with a bias beyond every gap always takes the first; in both orders it contradicts itself, and half is right."""
    assert labels(world, position=1e3, both=False) == pytest.approx(50, abs=2)
    assert labels(world, position=1e3, both=True) == pytest.approx(50, abs=2)
    one, both = (labels(world, position=1.0, both=both, temperature=0.5) for both in (False, True))
    assert 60 < one < both + 1


def test_the_bias_is_for_the_first_shown(world: Letters) -> None:
    """The same draws, so the same pairs: a bias of the other sign must choose the other side of close pairs."""
    up, down = (
        ask(
            world,
            torch.zeros_like(world.gold),
            1000,
            temperature=0.1,
            position=sign,
            both=False,
            draw=torch.Generator().manual_seed(1),
        )
        for sign in (5.0, -5.0)
    )
    assert torch.equal(up.chosen, down.rejected)
    averaged = ask(
        world,
        torch.zeros_like(world.gold),
        1000,
        temperature=0.1,
        position=5.0,
        both=True,
        draw=torch.Generator().manual_seed(1),
    )
    assert 0.4 < (averaged.chosen == up.chosen)[up.chosen != up.rejected].float().mean() < 0.6


def test_a_judge_for_length_gives_each_token_more(world: Letters) -> None:
    plain, longer = (taste(world, SETTINGS, bias, 0) for bias in (FAIR, LONGER))
    lengths = world.tree.mask.sum(1).float()
    given = (longer - plain)[0]
    slope = (given[lengths == 3].mean() - given[lengths == 1].mean()) / 2
    assert float(slope) == pytest.approx(SETTINGS.length, abs=1e-5)
    torch.testing.assert_close(taste(world, SETTINGS, FIRST_SHOWN, 0), plain)


def test_the_price_of_a_label_buys_so_many_judgements(world: Letters) -> None:
    by_name = {cell.name: cell for cell in cells(SETTINGS)}
    draw = torch.Generator().manual_seed(0)
    counts = {
        name: len(_labels(SETTINGS, by_name[name], 0, world, draw).prompt)
        for name in (PEOPLE, name_of(FAIR, ONE_ORDER), name_of(FAIR, BOTH_ORDERS))
    }
    assert list(counts.values()) == [30, 300, 150]
