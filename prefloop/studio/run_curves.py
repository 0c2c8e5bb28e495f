"""The curves of a run, from a `metrics.jsonl` that grows: read once, a piece at a time, and thinned so that a long one takes no more memory."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

MOST_POINTS = 400
MOST_METRICS = 120
PIECE = 4 * 2**20
"""Bytes read for one request at most."""
LONGEST_LINE = 2**20
WIDTH, HEIGHT, EDGE = 320.0, 120.0, 6.0
"""Of a drawing, in its own units."""


@dataclass(slots=True)
class MetricCurve:
    """Every `every`-th value of a metric."""

    every: int = 1
    seen: int = 0
    points: list[tuple[float, float]] = field(default_factory=list)
    """Steps and values, at most `MOST_POINTS`; a value may be NaN."""
    last: tuple[float, float] = (0.0, math.nan)

    def add(self, step: float, value: float) -> None:
        """Take the next value; half of the points are dropped when there are too many."""
        if self.seen % self.every == 0:
            self.points.append((step, value))
        self.seen += 1
        self.last = (step, value)
        if len(self.points) > MOST_POINTS:
            self.points = self.points[::2]
            self.every *= 2

    @property
    def drawn(self) -> list[tuple[float, float]]:
        """The points, the last value among them."""
        return self.points if self.points[-1:] == [self.last] else [*self.points, self.last]

    @property
    def low(self) -> float:
        """The least finite value drawn; NaN if there is none."""
        return min((value for _, value in self.drawn if math.isfinite(value)), default=math.nan)

    @property
    def high(self) -> float:
        """The greatest finite value drawn; NaN if there is none."""
        return max((value for _, value in self.drawn if math.isfinite(value)), default=math.nan)

    def path(self) -> str:
        """The line as the `d` of an SVG path in a box of `WIDTH` by `HEIGHT`; a value that is not finite breaks it."""
        points, low, high = self.drawn, self.low, self.high
        first, last = points[0][0], points[-1][0]
        parts, move = [], True
        for step, value in points:
            if not math.isfinite(value):
                move = True
                continue
            x = EDGE + (WIDTH - 2 * EDGE) * ((step - first) / (last - first) if last > first else 0.5)
            y = EDGE + (HEIGHT - 2 * EDGE) * (1 - (value - low) / (high - low) if high > low else 0.5)
            parts.append(f"{'M' if move else 'L'}{x:.1f} {y:.1f}")
            move = False
        # A line of no length is drawn as a dot by its round ends.
        return f"{parts[0]}h0" if len(parts) == 1 else "".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricCurves:
    """What a reader has of a file."""

    of: Mapping[str, MetricCurve]
    """By metric, in the order in which they first appear."""
    unreadable: int
    """Lines that were no metrics of a step."""
    left_out: int
    """Metrics beyond `MOST_METRICS`."""
    complete: bool
    """Whether all that was written has been read."""


class CurveReader:
    """Reads on where it stopped. A file that was replaced, as by a resumed run, is read anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._begin(0)

    def _begin(self, file: int) -> None:
        self._file, self._offset, self._rest = file, 0, b""
        self._skipping = False
        self._curves: dict[str, MetricCurve] = {}
        self._unreadable = 0
        self._left_out: set[str] = set()

    def read_on(self) -> MetricCurves:
        """Read what was written since, `PIECE` bytes at most."""
        with self._lock, self.path.open("rb") as file:
            size, inode = file.seek(0, 2), self.path.stat().st_ino
            if inode != self._file or size < self._offset:
                self._begin(inode)
            file.seek(self._offset)
            piece = file.read(PIECE)
            self._offset += len(piece)
            for line in self._lines(piece):
                self._add(line)
            return MetricCurves(
                of={name: replace(curve, points=[*curve.points]) for name, curve in self._curves.items()},
                unreadable=self._unreadable,
                left_out=len(self._left_out),
                complete=self._offset >= size,
            )

    def _lines(self, piece: bytes) -> Iterator[str]:
        """Whole lines; what follows the last one waits for its end, unless it grows too long."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if self._skipping or len(line) > LONGEST_LINE:
                self._unreadable += 1
                self._skipping = False
            else:
                yield line.decode("utf-8", "replace")
        if len(self._rest) > LONGEST_LINE:
            self._rest, self._skipping = b"", True

    def _add(self, line: str) -> None:
        row = row_of(line)
        if row is None:
            self._unreadable += bool(line.strip())
            return
        for name, value in row.items():
            if name in ("step", "time"):
                continue
            if name not in self._curves and len(self._curves) >= MOST_METRICS:
                if len(self._left_out) < MOST_METRICS:
                    self._left_out.add(name)
                continue
            self._curves.setdefault(name, MetricCurve()).add(row["step"], value)


def row_of(line: str) -> dict[str, float] | None:
    """A line of `metrics.jsonl`, null as NaN, without what is no number; None if it is no step's."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    numbers = {name[:200]: number for name, value in row.items() if (number := _number(value)) is not None}
    return numbers if math.isfinite(numbers.get("step", math.nan)) else None


def _number(value: object) -> float | None:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
