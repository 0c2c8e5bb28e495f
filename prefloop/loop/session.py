"""A stage's run, from its first line to its last: processes, folder, record, optimisers, what survives a restart, and where completions come from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import STORE, RunSettings, Sampling
from prefloop.configs.distill_context import DistillContextConfig
from prefloop.configs.online import OnlineConfig
from prefloop.loop.batches import Batches
from prefloop.loop.inputs import Prompts, Read, prompts, store_of
from prefloop.loop.online import draw_rollout, models_of, require_prompts
from prefloop.loop.provenance import Models, RunRecord
from prefloop.loop.roles import check_prompt_room
from prefloop.models.generation import say_what_is_not_taken
from prefloop.models.roles import Critic, Policy
from prefloop.rollout import Rollout
from prefloop.rollout.steered import Drawer
from prefloop.runtime import ParameterGroup, Run, StateTree, Updater, World, start_world
from prefloop.text import decode_completion, load_tokenizer, stop_token_ids

NOTHING: Mapping[str, Read] = MappingProxyType({})


class Kept(Protocol):
    """What a step leaves to the next one, beside weights."""

    def state(self) -> StateTree:
        """As a tree for a checkpoint."""
        ...

    def load_state(self, state: StateTree) -> None:
        """Go on from what `state` gave."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """An open run."""

    settings: RunSettings
    world: World
    run: Run
    record: RunRecord
    tokenizer: PreTrainedTokenizerBase
    models: Models
    reads: tuple[Read, ...]

    def begin(self) -> None:
        """Write down that the run begins: everything that could be wrong with its input has been looked at."""
        self.record.begin(models=self.models, reads=self.reads)

    def updater(self, *groups: ParameterGroup, updates: int, name: str = "") -> Updater:
        """An optimiser of these parameters for so many updates; what it dumps goes into the folder `name` where a run has several."""
        return Updater(
            groups,
            total_steps=updates,
            world=self.world,
            dump_folder=self.run.nonfinite / name,
            max_nonfinite=self.settings.max_nonfinite,
        )

    def steps(self, *, save: Callable[[Path], None], **kept: Kept) -> Iterator[int]:
        """The numbers of the steps still to do. What is `kept` goes on from the checkpoint, and is in the next one."""
        if self.run.resumed:
            for name, part in kept.items():
                part.load_state(self.run.resumed[name])
        return self.run.steps(save=save, state=lambda: {name: part.state() for name, part in kept.items()})

    def due(self, step: int, every: int) -> bool:
        """Whether something is done after this step that is done every so many (0: never) and after the last."""
        return bool(every and step % every == 0) or step == self.run.total_steps

    def finish(self, kind: str = "policy") -> Path:
        """Write down that the run is done; the folder of the finished model."""
        run = self.run
        self.record.finish(run.final, kind=kind, step=run.total_steps, metrics=run.last_metrics)
        return run.final


@contextmanager
def open_run(
    config: Any,
    *,
    stage: str,
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    reads: Mapping[str, Read],
    models: Models,
    steps: int,
    headline: tuple[str, ...],
) -> Iterator[Session]:
    """Open the run of a stage with these settings (`config.run` among them), from what it reads, by name. All processes together."""
    config = _with_version(config, reads)
    with (
        Run.open(
            config.run,
            stage=stage,
            config=config,
            total_steps=steps,
            world=world,
            headline=headline,
            reads={**{name: read.content for name, read in reads.items()}, **models.contents},
        ) as run,
        RunRecord(stage=stage, config=config, settings=config.run, world=world) as record,
    ):
        for read in reads.values():
            run.say(read.summary)
        yield Session(
            settings=config.run,
            world=world,
            run=run,
            record=record,
            tokenizer=tokenizer,
            models=models,
            reads=tuple(reads.values()),
        )


def _with_version(config: Any, reads: Mapping[str, Read]) -> Any:
    """The settings to write down: where `data.source` means the newest version of a dataset, they name the one that was read."""
    version = reads["data"].version if "data" in reads else ""
    if not version:
        return config
    return replace(config, data=replace(config.data, source=f"{STORE}:{version}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSource:
    """A run's prompts, and how completions of them are drawn: where rollouts come from."""

    prompts: Prompts
    heldout: Prompts
    read: Read
    batches: Batches
    sampling: Sampling
    seed: int
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    world: World

    def check_room(self, *roles: Policy | Critic) -> None:
        """Raise `InputError` where a role has too few positions for a prompt with its completion."""
        for role in roles:
            check_prompt_room(role, self.prompts, new_tokens=self.sampling.max_new_tokens)
        if self.world.is_main:
            say_what_is_not_taken(roles[0].model, self.sampling)

    def drawn(self, batch: int) -> int:
        """Prompts of a batch, on all processes."""
        return len(self.batches.at(batch))

    def draw(
        self, policy: Drawer, batch: int, *, k: int, first_key: int = 0, sampling: Sampling | None = None
    ) -> Rollout:
        """k completions of this process's share of a batch of prompts, the first batch being 1.

        `first_key` is added to every prompt's key where more than one draw is made of a batch, so that no two have one name. By other than the
        run's `sampling` if given.
        """
        return self.draw_of(
            policy, self.batches.at(batch), k=k, first_key=first_key + self._key(batch), sampling=sampling
        )

    def draw_of(
        self,
        policy: Drawer,
        chosen: Sequence[int],
        *,
        k: int,
        first_key: int,
        sampling: Sampling | None = None,
    ) -> Rollout:
        """The same for the prompts at these places, see `draw_rollout`."""
        return draw_rollout(
            policy,
            self.prompts,
            chosen,
            k=k,
            first_key=first_key,
            sampling=sampling or self.sampling,
            seed=self.seed,
            stop_ids=self.stop_ids,
            decode=lambda ids: decode_completion(self.tokenizer, ids),
            world=self.world,
        )

    def _key(self, batch: int) -> int:
        return (batch - 1) * self.batches.size


def read_prompts(config: OnlineConfig | DistillContextConfig) -> PromptSource:
    """The prompts that a stage learns from. All processes together. Raises `InputError` where there is none."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    store = store_of(config.run.out, config.run.store)
    train, heldout, read = world.on_main(lambda: prompts(config.data, tokenizer, store))
    require_prompts(train, config.data.source)
    return PromptSource(
        prompts=train,
        heldout=heldout,
        read=read,
        batches=Batches(count=len(train), size=config.batch_prompts, seed=config.run.seed),
        sampling=config.sampling,
        seed=config.run.seed,
        tokenizer=tokenizer,
        stop_ids=stop_token_ids(tokenizer),
        world=world,
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
    """Open the run of a stage that learns from its own scored samples. All processes together.

    `reference` is the name of another model that is read, `more` what has been read beside the prompts.
    """
    with open_run(
        config,
        stage=config.STAGE,
        world=source.world,
        tokenizer=source.tokenizer,
        reads={"data": source.read, **more},
        models=models_of(config, source.world, reference=reference),
        steps=config.steps,
        headline=headline,
    ) as session:
        yield session
