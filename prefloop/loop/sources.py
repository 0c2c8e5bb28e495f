"""Where a step's rollouts come from.

An algorithm asks a `RolloutSource` for completions of a batch of prompts, and passes it the policy. `PromptSource` samples in this
process, with the current weights. An engine that runs beside the training, or an environment, is another source: it may return
completions of weights that are a few steps old, and each rollout says which (`Rollout.versions`).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from torch import nn

from prefloop.configs.common import LoRA, Sampling
from prefloop.configs.distill_context import DistillContextConfig
from prefloop.configs.engine import (
    COLOCATED,
    PROCESS,
    OnlineSampling,
    engine_of,
    has_engine,
    is_function,
    staleness_of,
)
from prefloop.configs.online import OnlineConfig
from prefloop.errors import InputError
from prefloop.loop.batches import Batches
from prefloop.loop.engine_source import BatchUnderWay, EngineSampler, do_nothing
from prefloop.loop.engine_sync import NOISE
from prefloop.loop.function_sampler import FunctionSampler
from prefloop.loop.inputs import Prompts, prompts
from prefloop.loop.own_engine import start_engine
from prefloop.loop.reading import Read, Reader, open_reader
from prefloop.loop.roles import check_prompt_room
from prefloop.loop.scoring import models_of
from prefloop.loop.session import Session, open_run
from prefloop.losses import check_start, expected_at_start
from prefloop.models.generation import say_what_is_not_taken
from prefloop.models.roles import Critic, Policy
from prefloop.records import Prompt
from prefloop.rollout import Rollout, Sampled, make_rollout, sample
from prefloop.rollout.steered import Drawer
from prefloop.runtime import World
from prefloop.text import decode_completion, stop_token_ids


class TokenSampler(Protocol):
    """Draws completions of prompts that are token ids."""

    def sample(
        self,
        policy: Drawer,
        prompts: Sequence[Sequence[int]],
        *,
        k: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        row_keys: Sequence[int],
        version: int,
    ) -> Sequence[Sequence[Sampled]]:
        """k completions of each prompt, with the policy's weights, which have this version. Collective: all processes call it."""
        ...

    def check_room(self, longest: int) -> None:
        """Raise `InputError` if there is no room for a prompt of so many tokens and its completion."""
        ...

    def metrics(self) -> dict[str, float]:
        """What to log of the draws since this was last called."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class ProcessSampler:
    """Samples in this process, with the weights being trained."""

    def sample(
        self,
        policy: Drawer,
        prompts: Sequence[Sequence[int]],
        *,
        k: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        row_keys: Sequence[int],
        version: int,
    ) -> list[list[Sampled]]:
        """See `TokenSampler`."""
        with policy.active() as model:
            return sample(
                model, prompts, k=k, stop_ids=stop_ids, sampling=sampling, seed=seed, row_keys=row_keys
            )

    def check_room(self, longest: int) -> None:
        """The model's own positions are checked elsewhere."""

    def metrics(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


NOTHING: Mapping[str, Read] = MappingProxyType({})


class RolloutSource(Protocol):
    """Draws completions of a run's prompts."""

    @property
    def world(self) -> World:
        """The processes."""
        ...

    def drawn(self, batch: int) -> int:
        """Prompts of a batch, on all processes; the first batch is 1."""
        ...

    def draw(
        self,
        policy: Drawer,
        batch: int,
        *,
        k: int,
        version: int | None = None,
        first_key: int = 0,
        sampling: Sampling | None = None,
    ) -> Rollout:
        """k completions of this process's share of a batch. Collective: all processes call it.

        Args:
            policy: What draws; a source that keeps weights of its own takes these when it next renews them.
            batch: Number of the batch; the first is 1.
            k: Completions of each prompt.
            version: Of the policy's weights, the steps of learning behind them; `batch` - 1 where each step draws one batch. The rollout has
                the version that really drew it.
            first_key: Added to every prompt's key where more than one draw is made of a batch, so that no two have one name.
            sampling: Other than the run's.
        """
        ...


def staleness(rollout: Rollout, version: int, world: World) -> dict[str, float]:
    """The metric `staleness`: training steps between the weights that sampled and the current ones (`version`), mean over tokens.

    Empty if all are the same. Collective: all processes call it.
    """
    behind = [version - drawn for of_prompt in rollout.versions for tokens in of_prompt for drawn in tokens]
    total = world.sum_float(sum(behind))
    return {"staleness": total / world.sum_float(len(behind))} if total else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class StartCheck:
    """Checks what must hold before a step's first update; float noise between forward passes of different micro-batches is tolerated."""

    temperature: float
    noise: float
    of_mean: bool
    """Whether the mean over tokens must be within `noise`, not each token: rounding to bfloat16 leaves some far off (SmolLM2-135M's log-probabilities
    move by 0.04 on average where another kernel multiplies, by 0.4 at most)."""

    def ratio(self, seen: Mapping[str, float]) -> None:
        """The probability ratio of the first minibatch, by `Watch.metrics`. Raises `InputError` that says what to do."""
        self("ratio", 1 + seen["ratio_mean" if self.of_mean else "ratio"])

    def __call__(
        self, name: str, observed: float, expected: float | None = None, *, scale: float = 1.0
    ) -> None:
        """`expected` defaults to the table of starting values. `scale` is the size of the compared value, if noise grows with it.

        Raises `InputError` that says what to do.
        """
        check_start(
            name,
            observed,
            expected_at_start(name) if expected is None else expected,
            self.noise * scale,
            way_out=f"raise sampling.temperature (it is {self.temperature}, and logits are divided by it), or set "
            "compute.dtype float32 and compute.attention padded; if it stays, the model's own code is not deterministic (dropout, "
            "state kept between calls), or this is a bug in prefloop: please report it",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """This process's share of a batch of prompts."""

    records: list[Prompt]
    ids: list[list[int]]
    keys: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSource:
    """A run's prompts, and the sampler of this process, which uses the current weights."""

    prompts: Prompts
    heldout: Prompts
    read: Read
    batches: Batches
    sampling: Sampling
    seed: int
    reader: Reader
    stop_ids: tuple[int, ...]
    check: StartCheck
    sampler: TokenSampler
    staleness: int = 0
    """Batches that an engine draws ahead."""
    last_batch: int = sys.maxsize
    """None after it is drawn ahead."""
    ahead: dict[int, BatchUnderWay] = field(default_factory=dict)
    """Batches that an engine is drawing, by their numbers."""

    @property
    def world(self) -> World:
        """The processes."""
        return self.reader.world

    def check_room(self, *roles: Policy | Critic) -> None:
        """Raise `InputError` if a role has too few positions for a prompt with its completion."""
        for role in roles:
            check_prompt_room(role, self.prompts, new_tokens=self.sampling.max_new_tokens)
        self.sampler.check_room(max(map(len, self.prompts.ids)))
        if self.world.is_main:
            say_what_is_not_taken(roles[0].model, self.sampling)

    def metrics(self) -> dict[str, float]:
        """What to log of the draws since this was last called: of an engine, how far it is from the trainer and how fast."""
        return self.sampler.metrics()

    def drawn(self, batch: int) -> int:
        """See `RolloutSource`."""
        return len(self.batches.at(batch))

    def draw(
        self,
        policy: Drawer,
        batch: int,
        *,
        k: int,
        version: int | None = None,
        first_key: int = 0,
        sampling: Sampling | None = None,
    ) -> Rollout:
        """See `RolloutSource`."""
        now = batch - 1 if version is None else version
        if isinstance(self.sampler, EngineSampler) and self.staleness and not first_key and sampling is None:
            return self._draw_ahead(self.sampler, policy, batch, k=k, version=now)
        return self.draw_of(
            policy,
            self.batches.at(batch),
            k=k,
            version=now,
            first_key=first_key + (batch - 1) * self.batches.size,
            sampling=sampling or self.sampling,
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
        """k completions of this process's share of the prompts at these places. What is drawn depends on seed, key and place, not on the share.

        The prompt at place i of `chosen` has the key `first_key` + i, and belongs to the process i modulo the number of processes.
        """
        asked = self._asked(chosen, first_key)
        samples = self.sampler.sample(policy, asked.ids, **self._how(asked, k, sampling, version))
        return self._rollout(asked, samples, version)

    def _draw_ahead(
        self, engine: EngineSampler, policy: Drawer, batch: int, *, k: int, version: int
    ) -> Rollout:
        """As `draw`, if the batch was begun earlier with the weights of then; begins the next ones with those of now."""

        def asked_of(number: int) -> _Asked:
            return self._asked(self.batches.at(number), (number - 1) * self.batches.size)

        asked, begun = asked_of(batch), self.ahead.pop(batch, None)
        samples = engine.finish(begun) if begun is not None else None
        if samples is None:
            samples = engine.sample(policy, asked.ids, **self._how(asked, k, self.sampling, version))
        for later in range(batch + 1, min(batch + self.staleness, self.last_batch) + 1):
            if later not in self.ahead:
                of_later = asked_of(later)
                self.ahead[later] = engine.begin(
                    policy, of_later.ids, **self._how(of_later, k, self.sampling, version)
                )
        return self._rollout(asked, samples, [[one.versions for one in row] for row in samples])

    def _asked(self, chosen: Sequence[int], first_key: int) -> _Asked:
        places = self.world.share(range(len(chosen)))
        return _Asked(
            records=[self.prompts.records[chosen[place]] for place in places],
            ids=[self.prompts.ids[chosen[place]] for place in places],
            keys=[first_key + place for place in places],
        )

    def _how(self, asked: _Asked, k: int, sampling: Sampling, version: int) -> dict[str, Any]:
        """What a sampler is told beside the policy and the prompts."""
        return {
            "k": k,
            "stop_ids": self.stop_ids,
            "sampling": sampling,
            "seed": self.seed,
            "row_keys": asked.keys,
            "version": version,
        }

    def _rollout(
        self, asked: _Asked, samples: Sequence[Sequence[Sampled]], versions: int | list[list[list[int]]]
    ) -> Rollout:
        return make_rollout(
            asked.records,
            asked.ids,
            samples,
            lambda tokens: decode_completion(self.reader.tokenizer, tokens),
            versions=versions,
        )

    def sample(
        self,
        model: nn.Module,
        ids: Sequence[Sequence[int]],
        keys: Sequence[int],
        *,
        k: int,
        sampling: Sampling,
    ) -> list[list[Sampled]]:
        """k completions of each of these prompts, which have these keys."""
        return sample(
            model,
            ids,
            k=k,
            stop_ids=self.stop_ids,
            sampling=sampling,
            seed=self.seed,
            row_keys=keys,
        )


def read_prompts(config: OnlineConfig | DistillContextConfig) -> PromptSource:
    """The prompts that a stage learns from. Collective: all processes call it. Raises `InputError` if there is none."""
    reader = open_reader(config.run, config.compute, config.model)
    scorers = [config.reward_model] if isinstance(config, OnlineConfig) else []
    train, heldout, read = reader.world.on_main(
        lambda: prompts(config.data, reader.tokenizer, reader.store, scorers=scorers)
    )
    if not len(train):
        raise InputError(f"{config.data.source}: no prompt to train on; lower data.heldout, or give more")
    several = getattr(config, "dynamic_sampling", 0)  # batches, which a step may then take
    return PromptSource(
        prompts=train,
        heldout=heldout,
        read=read,
        batches=Batches(count=len(train), size=config.batch_prompts, seed=config.run.seed),
        sampling=config.sampling,
        seed=config.run.seed,
        reader=reader,
        stop_ids=stop_token_ids(reader.tokenizer),
        check=StartCheck(
            temperature=config.sampling.temperature,
            noise=NOISE[config.compute.dtype],
            of_mean=config.compute.dtype == "bfloat16",
        ),
        sampler=_sampler(config, reader),
        staleness=staleness_of(config.sampling),
        last_batch=sys.maxsize if several else config.steps,
    )


def _sampler(config: OnlineConfig | DistillContextConfig, reader: Reader) -> TokenSampler:
    """What draws a run's completions, by its settings."""
    engine = engine_of(config.sampling)
    if engine == PROCESS:
        return ProcessSampler()
    if is_function(engine):
        return FunctionSampler(engine, reader.world)
    sampling, out = config.sampling, Path(config.run.out)
    assert isinstance(sampling, OnlineSampling)
    stop = do_nothing
    if engine == COLOCATED:
        sampling, stop = start_engine(
            config.model,
            sampling,
            lora=getattr(config, "lora", LoRA()),  # TRPO trains all weights
            compute=config.compute,
            out=out,
            world=reader.world,
        )
    return EngineSampler(
        sampling,
        compute=config.compute,
        out=out,
        tokenizer=reader.tokenizer,
        world=reader.world,
        stop=stop,
    )


@contextmanager
def open_session(
    config: OnlineConfig,
    source: PromptSource,
    *,
    reference: str = "",
    headline: tuple[str, ...],
    more: Mapping[str, Read] = NOTHING,
) -> Iterator[Session]:
    """Open the run of a stage that learns from its own scored samples. Collective: all processes call it.

    `reference` is the name of another model that is read, `more` what has been read beside the prompts.
    """
    with open_run(
        config,
        source.reader,
        stage=config.STAGE,
        reads={"data": source.read, **more},
        models=models_of(
            source.world, model=config.model, reward_model=config.reward_model, reference=reference
        ),
        steps=config.steps,
        headline=headline,
    ) as session:
        session.run.draws_elsewhere = has_engine(config.sampling)
        try:
            yield session
        finally:
            source.sampler.close()
