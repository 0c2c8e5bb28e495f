"""Stages whose completions are conversations with an environment."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.environments import EnvironmentSettings
from prefloop.errors import InputError
from prefloop.loop.environment_source import in_environment
from prefloop.loop.sources import read_prompts
from prefloop.loop.tensors import logprobs_of, mask_of, sampler_logprobs
from prefloop.models.load import load_policy
from prefloop.records import Message, Prompt
from prefloop.rollout.episodes import Episodes
from tests.algorithms.online_stages import IN_ENVIRONMENT, has_a_vowel
from tests.algorithms.small import assert_same, metrics_of, settings, train
from tests.algorithms.test_resume import train_with_a_stop_after_every_step


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_resumed_at_every_step_equals_uninterrupted(
    name: str, project: Path, unbroken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:  # R1 R2
    whole = unbroken(name)
    broken = settings(name, project, out=f"broken-{name}")
    assert train_with_a_stop_after_every_step(broken, monkeypatch) == 4
    assert_same(Path(broken.run.out), whole)


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_how_conversations_went_is_logged(name: str, unbroken: Callable[[str], Path]) -> None:
    for row in metrics_of(unbroken(name)):
        assert 1 < row["turns"] <= 3
        assert row["environment_tokens"] > 1
        assert sum(value for key, value in row.items() if key.startswith("ends/")) == pytest.approx(1)
        assert 0 <= row["score"] - row["environment_reward"] <= 1  # what the other scorer gives


class OneTurn:
    """Scores what a function scores, and says no more."""

    def reset(self, prompt: Prompt) -> Any:
        return prompt.content

    def step(self, messages: Sequence[Message]) -> Any:
        return [], has_a_vowel(None, [messages[-1].content])[0], True


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_an_environment_of_one_turn_is_a_reward_function(name: str, project: Path) -> None:
    """To the bit."""
    config = settings(name, project, out=f"one-{name}")
    config = replace(config, steps=2, data=replace(config.data, chat=True))
    alone = replace(
        config, environment=EnvironmentSettings(), run=replace(config.run, out=config.run.out + "-0")
    )
    here = f"{__name__}:OneTurn"
    train(replace(config, reward_model="", environment=EnvironmentSettings(name=here)))
    train(alone)
    extra = {"turns", "environment_tokens"}
    rows = [
        {key: value for key, value in row.items() if key not in extra and not key.startswith("ends/")}
        for row in metrics_of(Path(config.run.out))
    ]
    assert rows == metrics_of(Path(alone.run.out))


def test_logprobs_are_those_of_a_pass_over_the_whole_conversation(project: Path) -> None:
    config = settings("grpo_environment", project, out="never")
    source = in_environment(config.environment, read_prompts(config))
    policy = load_policy(config.model, config.compute)
    rollout = source.draw(policy, 1, k=3)
    assert isinstance(rollout, Episodes)
    assert max(len(episode.turns) for episode in rollout.flat()) == 3
    mask = mask_of(rollout.groups, torch.device("cpu"))
    (found,) = logprobs_of([policy], rollout.groups, mask, temperature=1.3, tokens=64)
    torch.testing.assert_close(found, sampler_logprobs(rollout, mask), atol=2e-5, rtol=1e-4)
    assert not found[~mask].any()


def test_an_engine_draws_no_conversations(project: Path) -> None:
    config = settings("grpo_environment", project, out="never")
    source = replace(read_prompts(config), sampler=Any)
    with pytest.raises(
        InputError, match=r"but sampling.engine is set, and conversations are drawn in this process"
    ):
        in_environment(config.environment, source)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "tests.algorithms.online_stages:Eco"}, "has no 'Eco'; did you mean 'Echo'"),
        (
            {"name": "tests.algorithms.online_stages:basic"},
            "environment tests.algorithms.online_stages:basic raised",
        ),
        ({"max_tokens": 999}, r"a conversation may have 999 tokens .* reads at most 256"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is_drawn(
    changes: dict[str, Any], reason: str, project: Path
) -> None:
    config = settings("grpo_environment", project, out="refused")
    with pytest.raises(InputError, match=reason):
        train(replace(config, environment=replace(config.environment, **changes)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reward_model": "", "environment": EnvironmentSettings()}, "reward_model is empty"),
        ({"reward": {"clip": 1.0}}, r"reward.clip is 1.0, which is for a completion's one score"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], reason: str, project: Path) -> None:
    config = settings("grpo_environment", project, out="refused")
    if "reward" in changes:
        changes = {"reward": replace(config.reward, **changes["reward"])}
    with pytest.raises(InputError, match=reason):
        replace(config, **changes)
