"""An environment by value, from Python, and by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefloop.api.given import settings_from
from prefloop.configs.critic_free import GRPOConfig
from prefloop.environments.environment import open_environment, opening_in
from prefloop.errors import InputError
from prefloop.records import Message, Prompt


class Game:
    """Plays."""

    def reset(self, prompt: Any) -> Any:
        return []

    def step(self, messages: Any) -> Any:
        return [], 0.0, True


@dataclass
class Settings:
    """An environment that has settings of its own."""

    most: int = 3
    seen: int = 0

    def reset(self, prompt: Any) -> Any:
        return []

    def step(self, messages: Any) -> Any:
        return [], 0.0, True


def given(environment: Any, tmp_path: Path) -> GRPOConfig:
    return settings_from(
        GRPOConfig,
        {"model": "m", "data": "d.jsonl", "out": str(tmp_path), "environment": environment},
        stage="grpo",
    )


@pytest.mark.parametrize("environment", [Game, Game(), lambda: Game(), Settings(most=5), {"name": Game}])
def test_by_value(environment: Any, tmp_path: Path) -> None:
    config = given(environment, tmp_path)
    make = open_environment(config.environment.name)
    assert make() is not make()


def test_an_object_is_copied_with_what_it_holds(tmp_path: Path) -> None:
    make = open_environment(given(Settings(most=5), tmp_path).environment.name)
    first, second = make(), make()
    first.seen = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert (second.most, second.seen) == (5, 0)  # pyright: ignore[reportAttributeAccessIssue]


def test_beside_other_settings(tmp_path: Path) -> None:
    config = given({"name": Game, "max_turns": 3}, tmp_path)
    assert config.environment.max_turns == 3
    assert config.environment.name.endswith(":Game")


def test_what_is_no_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="environment is 3; give a class with reset and step"):
        given(3, tmp_path)
    with pytest.raises(InputError, match=r"makes .* of type dict; it must have the methods reset\(prompt\)"):
        open_environment(given(dict, tmp_path).environment.name)


@pytest.mark.parametrize(
    "content", ["Go.", (Message(role="system", content="Be kind."), Message(role="user", content="Go."))]
)
def test_a_prompts_content_is_an_opening(content: Any) -> None:
    opening = opening_in(Prompt(content=content).content, what="reset")
    assert opening[-1] == Message(role="user", content="Go.")
    assert len(opening) == (1 if isinstance(content, str) else 2)


def test_a_chat_as_one_messages_content_is_refused_with_the_way_out() -> None:
    chat = (Message(role="user", content="Go."),)
    with pytest.raises(InputError, match="the content of a prompt that is a chat is messages already"):
        opening_in([{"role": "user", "content": chat}], what="reset")
