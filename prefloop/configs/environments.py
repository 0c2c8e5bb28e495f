"""Settings of conversations with an environment."""

from dataclasses import dataclass, fields
from typing import Literal

from prefloop.configs.common import Sampling, require
from prefloop.configs.engine import PROCESS, engine_of
from prefloop.configs.scorers import Combining


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentSettings:
    """An environment that answers the policy, and the limits of a conversation with it."""

    name: str = ""
    """`file.py:Class` or `module:Class` of an `Environment`, or a function that makes one; empty for completions of one turn."""
    max_turns: int = 8
    """Turns of the policy in a conversation."""
    max_tokens: int = 0
    """Tokens of a conversation, the prompt and the environment's turns included; 0 is as many as the models read."""
    seconds: float = 60.0
    """Time for one `reset` or `step` by the clock."""
    parallel: int = 64
    """Calls of the environment that run at the same time, on each process."""
    on_error: Literal["stop", "count"] = "stop"
    """When the environment raises: stop the run, or end that conversation and count it. One that takes too long is always counted."""
    failure_reward: float = 0.0
    """Reward of the turn at which the environment failed or took too long."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "parallel"):
            value = getattr(self, name)
            require(value >= 1, f"environment.{name} is {value}; it must be 1 or more")
        require(
            self.max_tokens >= 0,
            f"environment.max_tokens is {self.max_tokens}; it must be 0 (what the models read) or more",
        )
        require(self.seconds > 0, f"environment.seconds is {self.seconds}; it must be above 0")
        for setting in fields(self):
            value = getattr(self, setting.name)
            require(
                bool(self.name) or value == setting.default,
                f"environment.{setting.name} is {value}, but no environment is named; give --environment file.py:Class, or leave it out",
            )

    def most_tokens(self, of_turn: int) -> int:
        """The policy's tokens in a conversation at most, where a turn has `of_turn` at most."""
        return of_turn * (self.max_turns if self.name else 1)


def require_played_here(environment: EnvironmentSettings, sampling: Sampling) -> None:
    """Raise `InputError` for conversations that something else than this process would have to draw."""
    require(
        not environment.name or engine_of(sampling) == PROCESS,
        f"environment is {environment.name}, but sampling.engine {engine_of(sampling)} draws completions of one turn only; set it to process",
    )


def require_rewarded(environment: EnvironmentSettings, reward_model: str, shaping: Combining) -> None:
    """Raise `InputError` if nothing gives rewards, or an environment's would be shaped as a completion's one score is."""
    require(
        bool(environment.name or reward_model),
        "reward_model is empty; name a reward model, a Python function or a verifier, or an environment that gives rewards",
    )
    for name in ("scale", "clip"):
        value = getattr(shaping, name)
        require(
            not (environment.name and value),
            f"reward.{name} is {value}, which is for a completion's one score, but an environment rewards turns; leave it out, and let the environment do it",
        )
