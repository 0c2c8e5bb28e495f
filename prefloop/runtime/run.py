"""A run: its folder, its loop over steps, its checkpoints, and how it stops and resumes.

    run.out/
      config.yaml        the resolved settings; `prefloop STAGE --config` reads it back
      environment.json   versions and machine
      metrics.jsonl      a line a step
      tensorboard/       the same for TensorBoard, unless run.track names another tracker
      tracker.json       the run's name in that tracker
      log.txt            what happened, with the time
      samples/           step-N.jsonl
      checkpoints/       step-N/: what the algorithm saved, and resume/ to resume from
      nonfinite/         what a step with a loss or gradient that is not finite was made of
      final/             the finished model, as the algorithm saved it: what later stages load
      summary.json       what came of it

`tests/runtime/test_loop.py` is a whole training loop on this.
"""

import dataclasses
import json
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from prefloop.addresses import without_passwords
from prefloop.configs.common import RunSettings
from prefloop.configs.copies import here
from prefloop.errors import EngineLost, InputError, PeerLost
from prefloop.runtime.checkpoint import Checkpoints, Content, compare_fingerprints, replace_folder
from prefloop.runtime.environment import flatten
from prefloop.runtime.files import write_whole, writing
from prefloop.runtime.folder import RESUME_DIR, claim, contents, describe, publish, withdraw
from prefloop.runtime.heap import Heap, keeps_freed_memory
from prefloop.runtime.interrupt import Interrupted, StopSignal
from prefloop.runtime.journal import Journal
from prefloop.runtime.machines import check_settings, command, describe_machines
from prefloop.runtime.manifest import check_finite, check_folder
from prefloop.runtime.pace import changes, pace
from prefloop.runtime.progress import Progress
from prefloop.runtime.sending import bring, take_notes
from prefloop.runtime.state import (
    StateTree,
    load_state,
    random_state,
    restore_random_state,
    save_dealt,
    save_state,
    seed_everything,
)
from prefloop.runtime.trackers import check_tracker
from prefloop.runtime.tune import peak_rss_mb, tune
from prefloop.runtime.world import World

_MAY_DIFFER = (
    # How long a run is and how often it reports may change on the way; so may where and how fast it computes.
    *("total_steps", "epochs", "max_steps", "steps", "eval_every", "sampling.batch_size"),
    *("environment.seconds", "environment.parallel", "environment.on_error"),
    *(
        f"sampling.{key}"
        for key in (
            "engine",
            "sync",
            "engine_minutes",
            "engine_tolerance",
            "staleness",
            "partial",
            "engine_memory",
        )
    ),
    *(
        f"compute.{key}"
        for key in (
            "device",
            "dtype",
            "attention",
            "shard",
            "offload",
            "micro_batch_tokens",
            "gradient_checkpointing",
            "trust_remote_code",
            "wait_minutes",
        )
    ),
    *(
        f"run.{key}"
        for key in (
            "out",
            "store",
            "resume",
            "save_every",
            "keep",
            "log_every",
            "max_nonfinite",
            "tune",
            "track",
        )
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """A run folder that is open."""

    source: tuple[Path, StateTree] | None
    """The checkpoint to resume from: its folder and state."""
    journal: Journal | None
    """Writes the run's files; rank 0's."""
    before: frozenset[str] | None
    """What the folder held."""
    resources: ExitStack
    """What is closed with the run."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """A step that is done, as long as weights have not changed since."""

    tree: StateTree
    save: Callable[[Path], None]
    changes: int


class Run:
    """A stage's run folder and loop. Made by `Run.open` on every process, used in a `with` statement; only rank 0 writes."""

    def __init__(
        self,
        settings: RunSettings,
        *,
        stage: str,
        fingerprint: dict[str, Any],
        total_steps: int,
        world: World,
        headline: Sequence[str],
        opened: _Opened,
    ) -> None:
        """Use `Run.open`, which makes the parts."""
        self.folder = Path(settings.out)
        self.settings = settings
        self.stage = stage
        self.total_steps = total_steps
        self.world = world
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep=settings.keep)
        self._fingerprint = fingerprint
        self._source = opened.source
        self._journal = opened.journal
        self._before = opened.before
        self._resources = opened.resources
        self._stop = StopSignal(shown=world.is_main)
        self._progress = Progress(
            stage=stage, start=self.start, total=total_steps, headline=headline, shown=world.is_main
        )
        self._began = time.monotonic()
        self._finished = False
        self._last_metrics: dict[str, float] = {}
        self._summary: dict[str, Any] = {}
        self.draws_elsewhere = False
        """Whether an engine draws the completions. It may be lost, so every step keeps what it began with, to be saved then."""
        self._begun: Callable[[], None] | None = None
        self._kept: _Kept | None = None

    @classmethod
    def open(
        cls,
        settings: RunSettings,
        *,
        stage: str,
        config: Any,
        total_steps: int,
        world: World,
        headline: Sequence[str],
        reads: Mapping[str, Content] | None = None,
    ) -> "Run":
        """Make the run folder, or resume in it; set up the machine and seed every random generator. Build models after this.

        Args:
            settings: `config.run`.
            stage: The command's name, for example `sft`.
            config: The stage's dataclass.
            total_steps: Steps of the whole run, those before a restart included.
            world: The processes of this run.
            headline: The metrics for the progress bar, which shows the first two of them that are known.
            reads: What the run reads that must be the same when it goes on: data, weights of models. By key, which is no setting's.

        Raises:
            InputError: The folder holds a run and `run.resume` is off, another process writes there, it cannot be written,
                or its checkpoint is of another stage, other settings, data or weights. Nothing is changed then.
        """
        if total_steps < 1:
            raise InputError(f"{stage} has no steps to do; give it more data, epochs or steps")
        check_tracker(settings.track)
        folder = Path(settings.out)
        own = {
            "stage": stage,
            "total_steps": total_steps,
            **flatten(without_passwords(dataclasses.asdict(config))),
        }
        check_settings(world, own)
        hashes = {key: content.sha256 for key, content in (reads or {}).items()}
        before = contents(folder)
        with ExitStack() as stack:
            lock = world.together(lambda: claim(folder, resume=settings.resume) if world.is_main else None)
            if lock is not None:
                stack.callback(lock.close)
            described = describe_machines(world, folder)
            source, changes = _find_checkpoint(settings, own, reads or {}, world)
            start = source[1]["step"] if source else 0
            journal = world.together(lambda: _begin(settings, config, start) if world.is_main else None)
            if journal is not None:
                stack.callback(journal.close)
            run = cls(
                settings,
                stage=stage,
                fingerprint=own | hashes,
                total_steps=total_steps,
                world=world,
                headline=headline,
                opened=_Opened(source=source, journal=journal, before=before, resources=stack.pop_all()),
            )
        run.say(f"{stage}: {tune(settings.tune)}")
        for line in (*described, *take_notes(), *changes):
            run.say(line)
        run._say_where_it_starts()
        seed_everything(settings.seed)
        return run

    @property
    def start(self) -> int:
        """Steps done before this process began."""
        return self._source[1]["step"] if self._source else 0

    @property
    def resumed(self) -> StateTree:
        """What the algorithm's `state` gave at the checkpoint that this run resumes from; an empty dict for a new run."""
        return self._source[1]["algorithm"] if self._source else {}

    def source(self, fallback: str, part: str = "") -> str:
        """Where to load a model from: what `save` put under `part` of the checkpoint that this run resumes from, or `fallback` for a new run."""
        return str(self._source[0] / part) if self._source else fallback

    @property
    def last_metrics(self) -> dict[str, float]:
        """The latest value of every metric logged by this process's run."""
        return dict(self._last_metrics)

    @property
    def final(self) -> Path:
        """The finished model's folder. It is there, whole, once `steps` has ended."""
        return self.folder / "final"

    @property
    def nonfinite(self) -> Path:
        """Where an `Updater` of this run dumps steps that are not finite."""
        return self.folder / "nonfinite"

    def steps(self, *, save: Callable[[Path], None], state: Callable[[], StateTree]) -> Iterator[int]:
        """The numbers of the steps still to do, from `start + 1` to `total_steps`; checkpoints are written between them.

        Args:
            save: Writes the model into the empty folder it is given. Called on rank 0; on every process where models are sharded over them.
            state: Everything else that must survive a restart, as a tree for `save_state`. Called on every process.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the step was finished and a checkpoint written.
            InputError: A checkpoint could not be written. The one before is intact.
        """
        self._restore_random_state()
        self._stop.install()
        self._progress.begin()
        heap = Heap() if self.settings.tune and keeps_freed_memory() else None
        for step in range(self.start + 1, self.total_steps + 1):
            if self.draws_elsewhere and step > self.start + 1:
                self._begun = partial(self._write, self._tree(step - 1, state), save)
            yield step
            self._keep(step, state, save)
            self._progress.advance()
            if heap is not None:
                heap.settle()
            stop = self.world.max_float(float(self._stop.requested)) > 0
            every = self.settings.save_every
            if stop or step == self.total_steps or (every and step % every == 0):
                self._write(self._tree(step, state), save)
            if stop:
                self._interrupt(step)
        self._publish()
        self._progress.close()
        self._stop.remove()
        self._finished = True

    def log(self, step: int, metrics: Mapping[str, float], *, always: bool = False) -> None:
        """Show a step's metrics, and write them if it is every `run.log_every`-th step, the last one, or `always` is set."""
        self._progress.numbers(metrics)
        self._last_metrics |= metrics
        due = always or step % self.settings.log_every == 0 or step == self.total_steps
        if due and self._journal is not None:
            self._journal.metrics(step, metrics)

    def say(self, text: str) -> None:
        """Print a line and keep it in `log.txt`."""
        if self._journal is not None:
            self._journal.log(text)
            self._progress.write(text)

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a step's samples to `samples/step-N.jsonl`, one JSON object a line."""
        if self._journal is not None:
            self._journal.samples(step, rows)

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Add results, as JSON types, to `summary.json`."""
        self._summary |= values

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._resources:
            self._stop.remove()
            self._progress.close()
            if error is None:
                self._write_summary()
            elif self._journal is not None:
                with suppress(InputError):  # a full disk, most likely what `error` says already
                    self._journal.log(f"stopped: {kind.__name__ if kind else ''}: {error}")
            if isinstance(error, EngineLost) and self._begun is not None:
                self._begun()
            saved = self._save_without_peers() if isinstance(error, PeerLost) else ""
        if isinstance(error, EngineLost) and (self.start or self._begun is not None):
            raise EngineLost(f"{error}; resume with: {self.resume_command()}") from error
        if isinstance(error, PeerLost):
            raise PeerLost(
                f"{error}; {saved}resume with: {self.resume_command()}", speaks=error.speaks
            ) from error
        refused = isinstance(error, InputError) and not self._last_metrics and not self.nonfinite.exists()
        if refused and not self.settings.resume and self._journal is not None:
            with suppress(OSError):  # what is wrong is said by `error`
                withdraw(self.folder, self._before)

    def _restore_random_state(self) -> None:
        if self._source:
            states = self._source[1]["random"]
            # More processes than before have no state of their own to go back to; they share.
            restore_random_state(states[self.world.rank % len(states)], self.world.device)

    def _tree(self, step: int, state: Callable[[], StateTree]) -> StateTree:
        """What a checkpoint after this step holds beside the model."""
        own = self._own_tree(step, state)
        return {**own, "random": self.world.gather_objects(own["random"][0])}

    def _own_tree(self, step: int, state: Callable[[], StateTree]) -> StateTree:
        """The same as this process knows it, without the others' random states."""
        return {
            "step": step,
            "seconds": self._seconds(),
            "fingerprint": self._fingerprint,
            "random": [random_state(self.world.device)],
            "algorithm": state(),
        }

    def _keep(self, step: int, state: Callable[[], StateTree], save: Callable[[Path], None]) -> None:
        """Keep what a checkpoint after this step needs, in case another process is lost. A sharded model is lost with any of its parts."""
        if self.world.size > 1 and self.world.is_main and pace() is None:
            self._kept = _Kept(tree=self._own_tree(step, state), save=save, changes=changes())

    def _save_without_peers(self) -> str:
        """Write a checkpoint of the last step, if this process has all of it, and no weight has changed since; says so."""
        kept = self._kept
        if kept is None or kept.changes != changes():
            return ""
        step = kept.tree["step"]

        def write(folder: Path) -> None:
            kept.save(folder)
            save_state(kept.tree, folder / RESUME_DIR)

        try:
            self.checkpoints.save(step, write)
        except InputError as error:
            return f"{error}; "
        return f"the checkpoint of step {step} is in {self.checkpoints.path(step)}; "

    def _write(self, tree: StateTree, save: Callable[[Path], None]) -> None:
        """Write a checkpoint, unless it is there."""
        step = tree["step"]

        def write(folder: Path) -> None:
            save(folder)
            save_state(tree, folder / RESUME_DIR)
            if pace() is not None:
                save_dealt(tree, folder / RESUME_DIR, self.world)

        if self._journal is not None:
            self._journal.flush()
        if pace() is None:
            self.world.on_main(lambda: self.checkpoints.save(step, write))
        elif not self.world.on_main(lambda: self.checkpoints.path(step).is_dir()):
            self.world.together(lambda: self._save_together(step, write))

    def _save_together(self, step: int, write: Callable[[Path], None]) -> None:
        """A checkpoint to which every process adds its part of what is sharded. The rest is the first one's; what the others write of it is thrown away."""
        if self.world.is_main:
            self.checkpoints.save(step, write)
            return
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch))

    def _publish(self) -> None:
        """Put the finished model in place."""

        def work() -> None:
            trained = self.start < self.total_steps
            if trained or not self.final.is_dir():
                checkpoint = self.checkpoints.path(self.total_steps)
                check_finite(
                    checkpoint,
                    skip=frozenset({RESUME_DIR}),
                    way_out=f"nothing is published: remove {checkpoint} to resume from an earlier checkpoint, or train again with a lower lr",
                )
                with writing(
                    self.final,
                    way_out=f"make room, then resume with --run.resume true ({checkpoint} is intact)",
                ):
                    replace_folder(
                        self.final, self.folder / ".new-final", lambda new: publish(checkpoint, new)
                    )

        self.world.on_main(work)

    def _interrupt(self, step: int) -> None:
        self._progress.close()
        raise Interrupted(
            f"stopped after step {step} of {self.total_steps}; the checkpoint is in {self.checkpoints.path(step)}; "
            f"resume with: {self.resume_command()}"
        )

    def resume_command(self) -> str:
        """The command that resumes this run."""
        settings = shlex.quote(str(self.folder / "config.yaml"))
        return command(self.world, f"{self.stage} --config {settings} --run.resume true")

    def _seconds(self) -> float:
        before = self._source[1]["seconds"] if self._source else 0.0
        return before + time.monotonic() - self._began

    def _say_where_it_starts(self) -> None:
        if self._journal is None:
            return
        lost = self._journal.lost
        again = f"; the {lost} steps after it were not saved and are repeated" if lost else ""
        if self._source:
            done = " Nothing is left to do." if self.start == self.total_steps else ""
            self.say(
                f"resuming from {self._source[0]}, step {self.start} of {self.total_steps}{again}.{done}"
            )
            if len(self._source[1]["random"]) != self.world.size:
                self.say(
                    "the number of processes has changed: anything drawn per process differs from an uninterrupted run"
                )
        elif self.settings.resume:
            again = f"; {lost} steps were not saved and are repeated" if lost else ""
            self.say(f"no checkpoint in {self.folder}, starting from the beginning{again}")

    def _write_summary(self) -> None:
        peak = self.world.max_float(peak_rss_mb())
        if self._journal is None:
            return
        summary = {
            "stage": self.stage,
            "finished": self._finished,
            "steps": self.total_steps,
            "seconds": round(self._seconds(), 3),
            "peak_rss_mb": round(peak, 1),
            "final": str(self.final),
            "metrics": self._last_metrics,
            **self._summary,
        }
        self._journal.flush()
        with writing(self.folder, way_out="make room, then resume with --run.resume true"):
            write_whole(self.folder / "summary.json", json.dumps(null_for_nan(summary), indent=1) + "\n")


def null_for_nan(value: Any) -> Any:
    """JSON types with NaN and infinities, which JSON does not have, as None."""
    if isinstance(value, Mapping):
        return {key: null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def _find_checkpoint(
    settings: RunSettings, own: dict[str, Any], reads: Mapping[str, Content], world: World
) -> tuple[tuple[Path, StateTree] | None, list[str]]:
    """The checkpoint to resume from, its folder and state, and which settings have changed since in a way that is allowed."""
    checkpoints = Checkpoints(Path(settings.out) / "checkpoints", keep=settings.keep)
    # An unreadable folder of checkpoints must not pass for an empty one, so only rank 0 looks and all hear of it.
    latest = world.on_main(checkpoints.latest) if settings.resume else None
    if latest is None:
        return None, []
    step, folder = latest
    # Before anything of it is read: a checkpoint whose bytes have changed is not what the run left.
    way_out = f"restore it, or remove {folder} to resume from an earlier checkpoint"
    checked = world.on_main(lambda: check_folder(folder, way_out=way_out))
    bring(world, str(folder))
    copy = Path(here(str(folder)))
    saved: StateTree = world.together(lambda: load_state(copy / RESUME_DIR))
    changes = compare_fingerprints(saved["fingerprint"], own, may_differ=_MAY_DIFFER, reads=reads)
    if step > own["total_steps"]:
        raise InputError(
            f"{folder} has done {step} steps, more than the {own['total_steps']} asked for; "
            "ask for more, or start a new run in another folder"
        )
    changed = [
        f"changed since the checkpoint: {change}"
        for change in changes
        if not change.startswith("run.resume:")
    ]
    if not checked:
        changed.append(
            f"{folder} was written before checkpoints had a manifest, so its files could not be checked"
        )
    return (copy, saved), changed


def _begin(settings: RunSettings, config: Any, start: int) -> Journal:
    """The files of a run that begins, or resumes after `start` steps."""
    folder = Path(settings.out)
    Checkpoints(folder / "checkpoints", keep=settings.keep).clean()
    describe(folder, config)
    with writing(folder, way_out="make room, then start again"):
        shown = without_passwords(dataclasses.asdict(config))
        return Journal(folder, start=start, track=settings.track, settings=shown)
