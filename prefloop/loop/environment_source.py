"""Rollouts that are conversations with an environment (`rollout/playing.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial

from torch import nn

from prefloop.configs.common import Sampling
from prefloop.configs.environments import EnvironmentSettings
from prefloop.environments.calls import Caller
from prefloop.environments.environment import Maker, open_environment
from prefloop.errors import InputError
from prefloop.loop.sources import ProcessSampler, PromptSource
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.roles import Critic, Policy
from prefloop.rollout import Rollout
from prefloop.rollout.families import text_config
from prefloop.rollout.playing import Player
from prefloop.rollout.steered import Drawer
from prefloop.text.turns import check_turns


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentSource(PromptSource):
    """A run's prompts, each the start of conversations between the policy and an environment."""

    settings: EnvironmentSettings
    make: Maker
    caller: Caller
    told: set[str] = field(default_factory=set)
    """Kinds of failures that were warned of."""

    def check_room(self, *roles: Policy | Critic) -> None:
        """As for completions of one turn; and raise `InputError` if a conversation may have more tokens than a role reads, or cannot go on in one row."""
        PromptSource.check_room(self, *roles)
        if self.settings.max_turns > 1 and has_encoder(roles[0].model.config):
            raise InputError(
                f"environment.max_turns is {self.settings.max_turns}, but the policy is an encoder-decoder, whose encoder would read the whole conversation again "
                "at every turn; set it to 1, or use a decoder-only model"
            )
        most = self.settings.max_tokens or _positions(roles[0].model)
        least = min(_positions(role.model) for role in roles)
        if most > least:
            raise InputError(
                f"a conversation may have {most:g} tokens (environment.max_tokens; 0 is what the policy reads), but one of the models reads at most "
                f"{least:g}; set environment.max_tokens to {least:g} or less"
            )

    def draw_of(
        self,
        policy: Drawer,
        chosen: Sequence[int],
        *,
        k: int,
        version: int,
        first_key: int,
        sampling: Sampling,
    ) -> Rollout:
        """k conversations of this process's share of the prompts at these places; keys are those of completions of one turn."""
        places = self.world.share(range(len(chosen)))
        with policy.active() as model:
            player = Player(
                make=self.make,
                settings=self.settings,
                caller=self.caller,
                tokenizer=self.reader.tokenizer,
                turn_tokens=sampling.max_new_tokens,
                room=self.settings.max_tokens or _positions(model),
                seed=self.seed,
                told=self.told,
            )

            play = partial(
                player.play,
                [self.prompts.records[chosen[place]] for place in places],
                [first_key + place for place in places],
                partial(self.sample, model, sampling=sampling),
                k=k,
                version=version,
            )
            return self.world.together(play)


def in_environment(settings: EnvironmentSettings, source: PromptSource) -> PromptSource:
    """The same prompts as starts of conversations, where an environment is named.

    Raises `InputError` if there is no such environment, completions are drawn by an engine, or the tokenizer's template cannot write a conversation
    that goes on.
    """
    if not settings.name:
        return source
    if not isinstance(source.sampler, ProcessSampler):
        raise InputError(
            f"environment is {settings.name}, but sampling.engine is set, and conversations are drawn in this process; leave sampling.engine out"
        )
    make = source.world.together(lambda: open_environment(settings.name))
    if settings.max_turns > 1:
        check_turns(source.reader.tokenizer)
    return EnvironmentSource(
        **{inherited.name: getattr(source, inherited.name) for inherited in fields(source)},
        settings=settings,
        make=make,
        caller=Caller(parallel=settings.parallel, seconds=settings.seconds),
    )


def _positions(model: nn.Module) -> float:
    """Tokens that a model reads at most; infinite if it has no limit."""
    limit = getattr(text_config(model), "max_position_embeddings", None)
    return float("inf") if limit is None else limit
