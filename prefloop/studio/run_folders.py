"""Training runs as their folders tell them: which there are, how far each is, and its curves. Read only, and only under one folder.

A run is named by its path below that folder. A name that a request gives is looked up among those that a walk found; no path is made from it.
"""

import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from prefloop.errors import InputError
from prefloop.studio.run_curves import CurveReader, MetricCurves, row_of
from prefloop.studio.values import NotFound

State = Literal["running", "quiet", "stopped", "finished"]
QUIET = timedelta(minutes=10)
"""After so long without a line a run is no longer called running: it has slow steps, or was killed."""
MOST_RUNS = 500
MOST_FOLDERS = 20_000
MOST_DEPTH = 6
_WRITTEN = ("metrics.jsonl", "log.txt", "summary.json")
"""One of them, beside `config.yaml`, makes a folder a run's."""
_TAIL = 64 * 1024
_SETTINGS = 256 * 1024
_READERS = 32
"""Runs whose curves are kept in memory."""
_STAGE = re.compile(r"\S+ \S+ ([\w+-]{1,40}): ")
_STOPPED = re.compile(r"\S+ \S+ stopped: (.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """How far a run is."""

    name: str
    """Path below the folder of runs; `.` for that folder itself."""
    stage: str
    """Empty if its log does not say."""
    state: State
    why: str
    """What stopped it; empty otherwise."""
    step: int | None
    steps: int | None
    """Steps in all, once it has finished."""
    metrics: Mapping[str, float]
    """The last value of each metric in the last lines; NaN for what was not finite."""
    written: datetime
    """When a file of it was last written."""


class RunFolders:
    """The runs below one folder. Threads may share one.

    Raises:
        InputError: There is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"runs: {root} is not a folder; name the folder that holds the run folders")
        self.root = root.resolve()
        self._readers: OrderedDict[str, CurveReader] = OrderedDict()
        self._lock = Lock()

    def states(self) -> tuple[list[RunState], bool]:
        """The runs, last written first, and whether there may be more than were looked at."""
        found, more = self._find()
        known = [self._state(name, folder) for name, folder in found.items()]
        return sorted(known, key=lambda run: run.written, reverse=True), more

    def state(self, name: str) -> RunState:
        """One run. Raises `NotFound` for a name that is none of them."""
        return self._state(name, self._folder(name))

    def curves(self, name: str) -> MetricCurves:
        """A run's metrics, read as far as they are written, or some MiB further than the last time."""
        path = self._folder(name) / "metrics.jsonl"
        if not self._is_ours(path):
            return MetricCurves(of={}, unreadable=0, left_out=0, complete=True)
        with self._lock:
            reader = self._readers.pop(name, None) or CurveReader(path)
            self._readers[name] = reader
            while len(self._readers) > _READERS:
                self._readers.popitem(last=False)
        return reader.read_on()

    def settings(self, name: str) -> str:
        """The text of a run's `config.yaml`."""
        return _head(self._folder(name) / "config.yaml", _SETTINGS)

    def log(self, name: str) -> str:
        """The end of a run's `log.txt`."""
        return self._tail(self._folder(name) / "log.txt")

    def folder(self, name: str) -> Path:
        """Where a run is. Raises `NotFound` for a name that is none of them."""
        return self._folder(name)

    def report(self, name: str) -> Path | None:
        """The report of a run or of the project that it is part of; None if there is none."""
        folder = self._folder(name)
        places = [folder, *folder.parents][: 1 + len(folder.relative_to(self.root).parts)]
        reports = (place / "report.html" for place in places)
        return next((report for report in reports if self._is_ours(report)), None)

    def _folder(self, name: str) -> Path:
        folder = self._find()[0].get(name)
        if folder is None:
            raise NotFound("there is no such run")
        return folder

    def _find(self) -> tuple[dict[str, Path], bool]:
        """Name -> folder, and whether a limit ended the walk. What is inside a run is not looked at; links are not followed."""
        found: dict[str, Path] = {}
        for seen, (place, folders, files) in enumerate(_walk(self.root)):
            if seen >= MOST_FOLDERS or len(found) >= MOST_RUNS:
                return found, True
            if "config.yaml" in files and any(name in files for name in _WRITTEN):
                if self._is_ours(place / "config.yaml"):
                    found[str(place.relative_to(self.root))] = place
                folders.clear()
        return found, False

    def _is_ours(self, path: Path) -> bool:
        """Whether this is a file below the folder of runs, and no link out of it."""
        return path.is_file() and path.resolve().is_relative_to(self.root)

    def _tail(self, path: Path) -> str:
        return _tail(path) if self._is_ours(path) else ""

    def _state(self, name: str, folder: Path) -> RunState:
        rows = [row for line in self._tail(folder / "metrics.jsonl").splitlines() if (row := row_of(line))]
        log, summary = self._tail(folder / "log.txt"), self._summary(folder)
        stopped = _STOPPED.match(log.rstrip("\n").rpartition("\n")[2])
        metrics: dict[str, float] = {}
        for row in rows:
            metrics |= {key: value for key, value in row.items() if key not in ("step", "time")}
        written = self._written(folder)
        first = _STAGE.match(_head(folder / "log.txt", 4096)) if self._is_ours(folder / "log.txt") else None
        state: State = "running" if datetime.now(UTC) - written < QUIET else "quiet"
        if stopped is not None:
            state = "stopped"
        elif summary.get("finished") is True:
            state = "finished"
        steps = summary.get("steps")
        return RunState(
            name=name,
            stage=str(summary.get("stage") or (first.group(1) if first else "")),
            state=state,
            why=stopped.group(1)[:1000] if stopped else "",
            step=int(rows[-1]["step"]) if rows else None,
            steps=steps if isinstance(steps, int) else None,
            metrics=metrics,
            written=written,
        )

    def _summary(self, folder: Path) -> dict[str, Any]:
        path = folder / "summary.json"
        try:
            given = json.loads(_head(path, 16 * _TAIL)) if self._is_ours(path) else None
        except ValueError:  # half written, or not a run's
            given = None
        return given if isinstance(given, dict) else {}

    def _written(self, folder: Path) -> datetime:
        paths = [folder / name for name in ("config.yaml", *_WRITTEN)]
        times = [path.stat().st_mtime for path in paths if self._is_ours(path)]
        return datetime.fromtimestamp(max(times, default=0.0), UTC)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders from the top; whoever clears the names of folders is not led into them."""
    for place, folders, files in os.walk(root):
        folder = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(folder.relative_to(root).parts) >= MOST_DEPTH:
            folders.clear()
        yield folder, folders, files


def _head(path: Path, most: int) -> str:
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", "replace")


def _tail(path: Path) -> str:
    """The last lines; the first of them may be cut."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        text = file.read(_TAIL).decode("utf-8", "replace")
    return text.partition("\n")[2] if size > _TAIL else text


def shown_number(value: float) -> str:
    """A metric, short."""
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
