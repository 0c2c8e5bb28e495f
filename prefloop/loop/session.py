"""A stage's run, from its first line to its last: processes, folder, record, optimisers, and what survives a restart."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import STORE, Compute, RunSettings
from prefloop.loop.batches import Batches
from prefloop.loop.inputs import Inputs
from prefloop.loop.provenance import Models, RunRecord
from prefloop.loop.reading import Read, Reader
from prefloop.runtime import ParameterGroup, Run, StateTree, Updater, World
from prefloop.runtime.pace import keeping_pace


class Kept(Protocol):
    """State that a step passes to the next one, besides weights."""

    def state(self) -> StateTree:
        """The state to save in a checkpoint, as a tree."""
        ...

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """An open run."""

    settings: RunSettings
    compute: Compute
    world: World
    run: Run
    record: RunRecord
    tokenizer: PreTrainedTokenizerBase
    models: Models
    reads: tuple[Read, ...]

    @property
    def learning(self) -> Compute:
        """How a model that learns is loaded: one that was dealt over processes from its checkpoint as it was saved, in float32."""
        dealt = self.compute.shard != "none" and self.run.start > 0
        return replace(self.compute, dtype="float32") if dealt else self.compute

    @property
    def tokens(self) -> int:
        """Maximum tokens of a micro-batch."""
        return self.compute.micro_batch_tokens

    def begin(self) -> None:
        """Record in the store that the run begins. Call it after all input has been checked."""
        self.record.begin(models=self.models, reads=self.reads)

    def updater(self, *groups: ParameterGroup, updates: int, name: str = "") -> Updater:
        """An optimiser of these parameters for so many updates. Its dumps go into the folder `name`, if a run has several optimisers."""
        return Updater(
            groups,
            total_steps=updates,
            world=self.world,
            dump_folder=self.run.nonfinite / name,
            max_nonfinite=self.settings.max_nonfinite,
        )

    def steps(self, *, save: Callable[[Path], None], **kept: Kept) -> Iterator[int]:
        """The numbers of the steps still to do. The `kept` objects are restored from the checkpoint and saved in the next one."""
        if self.run.resumed:
            for name, part in kept.items():
                part.load_state(self.run.resumed[name])
        return self.run.steps(save=save, state=lambda: {name: part.state() for name, part in kept.items()})

    def due(self, step: int, every: int) -> bool:
        """Whether something that is due every `every` steps (0: never) and after the last is due after this step."""
        return bool(every and step % every == 0) or step == self.run.total_steps

    def finish(self, kind: str = "policy") -> Path:
        """Record in the store that the run is done, and return the folder of the finished model."""
        run = self.run
        self.record.finish(run.final, kind=kind, step=run.total_steps, metrics=run.last_metrics)
        return run.final


@contextmanager
def open_run(
    config: Any,
    reader: Reader,
    *,
    stage: str,
    reads: Mapping[str, Read],
    models: Models,
    steps: int,
    headline: tuple[str, ...],
) -> Iterator[Session]:
    """Open the run of a stage with these settings (`run` and `compute` among them), from what it reads, by name. Collective: all processes call it."""
    config, world = _with_version(config, reads), reader.world
    shard = config.compute.shard
    alone = shard != "none" and world.size == 1
    compute = replace(config.compute, shard="none") if alone else config.compute
    with (
        keeping_pace(world) if compute.shard != "none" else nullcontext(),
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
        if alone:
            run.say(f"compute.shard is {shard}, but there is one process: it holds everything")
        elif compute.offload and world.device.type == "cpu":
            run.say(
                "compute.offload keeps weights in the machine's memory, where they are: the device is the CPU"
            )
        for read in reads.values():
            run.say(read.summary)
        yield Session(
            settings=config.run,
            compute=compute,
            world=world,
            run=run,
            record=record,
            tokenizer=reader.tokenizer,
            models=models,
            reads=tuple(reads.values()),
        )


def _with_version(config: Any, reads: Mapping[str, Read]) -> Any:
    """The settings to write down: where `data.source` means the newest version of a dataset, they name the one that was read."""
    version = reads["data"].version if "data" in reads else ""
    if not version:
        return config
    return replace(config, data=replace(config.data, source=f"{STORE}:{version}"))


@contextmanager
def open_training(
    config: Any, reader: Reader, inputs: Inputs[Any], *, stage: str, models: Models, headline: tuple[str, ...]
) -> Iterator[tuple[Session, Batches]]:
    """Open the run of a stage that goes over a data set, and its batches.

    Settings are those of `open_run`, and `batch_size`, `epochs` and `max_steps`. Collective: all processes call it.
    """
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    with open_run(
        config,
        reader,
        stage=stage,
        reads={"data": inputs.read},
        models=models,
        steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
        headline=headline,
    ) as session:
        yield session, batches
