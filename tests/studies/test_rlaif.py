"""The study of AI labels: biases are as planted, averaging orders takes one of them away, and the price buys as many labels as it says."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from prefloop.studies.letters import Letters, expected, make_world
from prefloop.studies.rlaif import (
    BOTH_ORDERS,
    FAIR,
    FIRST_SHOWN,
    LABELLED,
    LONGER,
    ONE_ORDER,
    PEOPLE,
    REVISED_LABELLED,
    UNLIMITED_LABELLED,
    RlaifSettings,
    _agreement,
    _imitate,
    _labels,
    _revised,
    ask,
    cells,
    name_of,
    principles,
    taste,
)

SETTINGS = RlaifSettings(prompts=2, letters=2, longest=3, labels=30, cheaper=10, revising=0.4)


@pytest.fixture(scope="module")
def world() -> Letters:
    return make_world(prompts=2, letters=2, longest=3, seed=0)


def labels(world: Letters, *, position: float, both: bool, temperature: float = 0.05) -> float:
    draw = torch.Generator().manual_seed(0)
    found = ask(
        world, world.gold[None], 20_000, temperature=temperature, position=position, both=both, draw=draw
    )
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
            torch.zeros_like(world.gold)[None],
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
        torch.zeros_like(world.gold)[None],
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
        name: len(_labels(SETTINGS, by_name[name], 0, world, world, draw).prompt)
        for name in (
            PEOPLE,
            name_of(FAIR, ONE_ORDER),
            name_of(FAIR, BOTH_ORDERS),
            LABELLED,
            REVISED_LABELLED,
            UNLIMITED_LABELLED,
        )
    }
    assert list(counts.values()) == [30, 300, 150, 300, 180, 180]


def test_the_price_of_a_revision_is_two_judgements(world: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fifths of 300 judgements are 120, which buy 120 / (2 · 4) = 15 answers revised four times, beside the 180 labels above."""
    bought: list[int] = []

    def count(world: Letters, prompt: torch.Tensor, answers: torch.Tensor, **given: int) -> torch.Tensor:
        bought.append(len(answers))
        return world.reference

    monkeypatch.setattr("prefloop.studies.rlaif.imitate", count)
    draw = torch.Generator().manual_seed(0)
    _imitate(SETTINGS, 0, world, world.probabilities, 4, share=0.4, draw=draw)
    _imitate(SETTINGS, 0, world, world.probabilities, 1, share=1.0, draw=draw)
    assert bought == [15, 150]


def test_principles_are_the_parts_of_the_judges_taste(world: Letters) -> None:
    p = world.probabilities
    torch.testing.assert_close(world.parts.sum(0), world.gold, atol=1e-5, rtol=0)
    found = principles(world, SETTINGS, 0)
    deviations = (p * found.square()).sum(-1).mean(-1).sqrt()
    torch.testing.assert_close(deviations, torch.ones(len(found)))
    whole = taste(world, SETTINGS, FAIR, 0)
    scale = torch.linalg.lstsq(found.flatten(1).T, whole.flatten()[:, None])
    weights = scale.solution.squeeze(1)
    assert (weights > 0).all()
    torch.testing.assert_close((weights[:, None, None] * found).sum(0), whole, atol=1e-4, rtol=0)


def test_one_principle_is_drawn_for_each_question(world: Letters) -> None:
    """Two principles that contradict each other leave a sure judge right half of the time."""
    two = torch.stack([world.gold, -world.gold])
    draw = torch.Generator().manual_seed(0)
    found = ask(world, two, 20_000, temperature=1e-4, position=0.0, both=False, draw=draw)
    assert _agreement(world, found) == pytest.approx(50, abs=1.5)


def test_labels_are_of_the_policy_that_revisions_taught(
    world: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That policy is told apart from the reference, and the judge's principles stay the ones they were."""
    draw = torch.Generator().manual_seed(0)
    cell = next(cell for cell in cells(SETTINGS) if cell.name == UNLIMITED_LABELLED)
    start = _revised(SETTINGS, cell, 0, world, draw)
    assert expected(start.probabilities, world.gold) > 0.2
    many = replace(SETTINGS, labels=3000)
    data = _labels(many, cell, 0, world, start, draw)
    drawn = torch.cat([data.chosen, data.rejected]).bincount(minlength=world.gold.shape[1])
    shares = drawn / drawn.sum()
    assert (shares - start.probabilities.mean(0)).abs().max() < 0.01
    assert (shares - world.probabilities.mean(0)).abs().max() > 0.02

    def keep(start: Letters, tastes: torch.Tensor, count: int, **given: Any) -> torch.Tensor:
        return tastes

    monkeypatch.setattr("prefloop.studies.rlaif.ask", keep)
    assert torch.equal(_labels(SETTINGS, cell, 0, world, start, draw), principles(world, SETTINGS, 0))  # pyright: ignore[reportArgumentType]
