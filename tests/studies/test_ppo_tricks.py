"""The study of PPO's tricks: every trick does something, PPO reaches the optimum with all and with none, and a share is that of the best policy."""

from dataclasses import fields

import pytest
import torch

from prefloop.studies.letters import Letters, distribution, expected, kl, make_world, tilted
from prefloop.studies.ppo_tricks import (
    ALL,
    NAMES,
    NONE,
    ONLY,
    WITHOUT,
    PpoTricksSettings,
    TrickedPpo,
    Tricks,
    _measured,
    _one_way,
    tricks_of,
)

SMALL = PpoTricksSettings(steps=5, completions=16, critic_steps=8, offset=0.0, spread=1.0)


@pytest.fixture(scope="module")
def world() -> Letters:
    return make_world(prompts=2, letters=2, longest=3, seed=0)


def trained(world: Letters, tricks: Tricks, settings: PpoTricksSettings = SMALL) -> torch.Tensor:
    scores = settings.offset + settings.spread * world.gold
    return TrickedPpo(world, scores, tricks, settings, 0).train(settings.steps)


def test_cells_have_the_tricks_that_they_name() -> None:
    assert set(NAMES) == {field.name for field in fields(Tricks)}
    assert tricks_of(ALL) == Tricks()
    for field, name in NAMES.items():
        assert not getattr(tricks_of(f"{WITHOUT}{name}"), field)
        assert tricks_of(f"{ONLY}{name}") != tricks_of(NONE)
        assert sum(getattr(tricks_of(f"{ONLY}{name}"), one) for one in NAMES) == 1


def test_every_trick_does_something(world: Letters) -> None:
    everything = trained(world, Tricks())
    for name in NAMES.values():
        other = trained(world, tricks_of(f"{WITHOUT}{name}"))
        assert (everything - other).abs().max() > 1e-5, name


@pytest.mark.parametrize("cell", [NONE, f"{ONLY}KL in the reward, not in the loss"])
def test_ppo_comes_near_the_best_policy(world: Letters, cell: str) -> None:
    settings = PpoTricksSettings(steps=30, completions=32, offset=0.0, spread=1.0, kl_coef=0.4)
    found = _measured(world, world.gold, trained(world, tricks_of(cell), settings))
    assert found["share"] > 85
    assert found["kl"] > 0.1


def test_normalised_runs_do_not_see_the_scale_of_scores(world: Letters) -> None:
    tricks = Tricks(critic_from_reward_model=False, critic_pretrained=False)
    far = PpoTricksSettings(steps=12, completions=16, offset=50.0, spread=20.0)
    near = PpoTricksSettings(steps=12, completions=16, offset=0.0, spread=1.0)
    torch.testing.assert_close(trained(world, tricks, far), trained(world, tricks, near), atol=2e-3, rtol=0)


def test_the_pretraining_loss_holds_the_policy_back(world: Letters) -> None:
    free = trained(world, tricks_of(NONE))
    held = trained(
        world,
        tricks_of(f"{ONLY}pretraining loss"),
        PpoTricksSettings(steps=12, completions=16, offset=0.0, spread=1.0, ptx_coef=5.0),
    )
    assert kl(held, world.probabilities) < kl(free, world.probabilities)


def test_the_best_policy_has_the_whole_share(world: Letters) -> None:
    best = tilted(world, world.gold, 0.7)
    assert _measured(world, world.gold, best)["share"] == pytest.approx(100, abs=1)
    assert expected(best, world.gold) > 0
    assert distribution(world.tree, world.reference).shape == best.shape


def test_a_trick_helps_where_nothing_says_otherwise() -> None:
    assert _one_way([True, None]) is True
    assert _one_way([None, False]) is False
    assert _one_way([True, False]) is None
    assert _one_way([None, None]) is None
