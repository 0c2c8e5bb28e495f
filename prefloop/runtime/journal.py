"""What a run writes as it goes: `metrics.jsonl`, `samples/` and `log.txt`, and TensorBoard events or what another tracker shows."""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # protobuf makes these names at import
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import scalar

from prefloop.errors import InputError
from prefloop.runtime.files import fsync, write_whole, writing
from prefloop.runtime.trackers import Board, Tracked

_BOARD_SECONDS = 20.0
"""Between flushes of TensorBoard's file, which wait for the device."""


class EventFile:
    """Scalars for TensorBoard, written by the calling thread.

    Not tensorboardX's SummaryWriter: that hands events to a thread which dies on a full disk, and the run then waits for it for ever.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        """Open a new file in `folder`; after a restart TensorBoard hides what older files have of steps after `start`."""
        folder.mkdir(exist_ok=True)
        # The name has seconds only; a run resumed within the same second must not overwrite its own file.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{start}")
        self._flushed = 0.0
        if start:
            purge = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=start + 1, session_log=purge))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the finite ones of `values`."""
        for name, value in values.items():
            if math.isfinite(value):
                event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                self._writer.write_event(event)
        if time.monotonic() - self._flushed > _BOARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Wait until all of it is on the device."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Journal:
    """The growing files of a run folder. One process writes them."""

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        track: str = "tensorboard",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open for a run that has done `start` steps; anything of later steps, from before a restart, is dropped. `settings` are shown by `track`."""
        self._folder = folder
        self._metrics_path = folder / "metrics.jsonl"
        self.lost = _drop_after(self._metrics_path, start)
        """Steps after `start` that had been logged and will be done again."""
        for path in (folder / "samples").glob("step-*.jsonl"):
            if int(path.stem.removeprefix("step-")) > start:
                path.unlink()
        self._metrics = self._metrics_path.open("a", encoding="utf-8")
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
        self._board: Board = (
            EventFile(folder / "tensorboard", start=start)
            if track == "tensorboard"
            else Tracked(track, folder, settings or {}, logged=start + self.lost)
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line `{"step", "time", ...}`; NaN and infinities, which JSON does not have, are null."""
        if not {"step", "time"}.isdisjoint(values):
            raise ValueError(
                "a metric cannot be called step or time; these begin every line of metrics.jsonl"
            )
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self._writing(self._metrics_path):
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
            self._board.add(step, values)

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write the samples of a step to `samples/step-N.jsonl`, one JSON object a line."""
        path = self._folder / "samples" / f"step-{step}.jsonl"
        with self._writing(path):
            path.parent.mkdir(exist_ok=True)
            write_whole(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))
        return path

    def log(self, text: str) -> None:
        """Append to `log.txt`, with the time."""
        with self._writing(self._folder / "log.txt"):
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._log.flush()

    def flush(self) -> None:
        """Wait until all of it is on the device."""
        with self._writing(self._metrics_path):
            self._board.flush()
            fsync(self._metrics_path)

    def close(self) -> None:
        """Close the files. What matters was flushed before: a disk that is full still is not news."""
        for file in (self._board, self._metrics, self._log):
            with suppress(OSError):
                file.close()

    def _writing(self, path: Path) -> AbstractContextManager[None]:
        return writing(path, way_out="make room, then resume with --run.resume true")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without a last one that a killed process left unfinished; null becomes NaN.

    Raises:
        InputError: Another line is not JSON.
    """
    rows = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not a JSON line ({error}); remove it") from error
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
    return rows


def _whole_lines(path: Path) -> list[str]:
    """The lines that end in a newline."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _drop_after(path: Path, step: int) -> int:
    """Cut off the lines of steps after `step`, and an unfinished one; how many such steps there were."""
    if not path.exists():
        return 0
    steps = [row["step"] for row in read_metrics(path)]
    kept = [line for line, its in zip(_whole_lines(path), steps, strict=True) if its <= step]
    write_whole(path, "".join(f"{line}\n" for line in kept))
    return max(0, max(steps, default=step) - step)
