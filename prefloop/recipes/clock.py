"""Seconds and memory of a recipe's stages, over all processes that have worked on them."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prefloop.evaluation import StageTime
from prefloop.runtime import World
from prefloop.runtime.files import write_whole
from prefloop.runtime.tune import peak_rss_mb

log = logging.getLogger(__name__)

FILE = "stages.json"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTotal:
    """What a stage took so far."""

    seconds: float
    done: bool


class Clock:
    """Times stages and keeps the sums in `stages.json`, so that a project which was interrupted counts what it took before.

    A process that was killed could not write its part. For a trained stage the part up to the last checkpoint is known from there; what
    was lost with a killed process is done again, and counted then.
    """

    def __init__(self, project: Path, world: World) -> None:
        """Go on from what the project has counted already."""
        self._file = project / FILE
        self._world = world
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._spent = {name: RunningTotal(**spent) for name, spent in known.get("stages", {}).items()}
        self._peak = float(known.get("peak_rss_mb", 0.0))

    def stage(self, name: str, work: Callable[[], T], *, summary: Path | None = None) -> T:
        """Do a stage and count its time. `summary` is that of its training run, whose seconds include what checkpoints know."""
        began, before = time.monotonic(), self._spent.get(name, RunningTotal(seconds=0.0, done=False))
        done = False
        try:
            result = work()
            done = True
        finally:
            own = time.monotonic() - began
            # Done before, it found nothing left to do or did the same again; interrupted, it went on.
            seconds = max(before.seconds, own) if before.done else before.seconds + own
            if summary is not None and summary.exists():
                seconds = max(seconds, float(json.loads(summary.read_text())["seconds"]))
            self._spent[name] = RunningTotal(seconds=seconds, done=done or before.done)
            self._peak = max(self._peak, peak_rss_mb())
            if self._world.is_main:
                self._write()
        return result

    def train(self, name: str, folder: Path, work: Callable[[], object], *, resume: bool) -> None:
        """A stage with a run folder: where the project is gone on with, it is kept if it was finished before."""
        if resume and self._world.on_main((folder / "final").exists):
            log.info("%s: finished before", name)
            work = _nothing
        self.stage(name, work, summary=folder / "summary.json")

    @property
    def times(self) -> tuple[StageTime, ...]:
        """Every stage in the order they were begun."""
        return tuple(StageTime(stage=name, seconds=spent.seconds) for name, spent in self._spent.items())

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(spent.seconds for spent in self._spent.values())

    @property
    def peak_rss_mb(self) -> float:
        """Most memory that any of the processes which wrote the project held, in MB."""
        return max(self._peak, peak_rss_mb())

    def _write(self) -> None:
        stages = {name: {"seconds": spent.seconds, "done": spent.done} for name, spent in self._spent.items()}
        with suppress(OSError):  # a full disk: the stage says so itself
            write_whole(
                self._file, json.dumps({"stages": stages, "peak_rss_mb": self._peak}, indent=1) + "\n"
            )


def _nothing() -> None: ...
