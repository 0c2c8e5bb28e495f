"""Reading `metrics.jsonl`: what a stage logged, as one column a metric."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsLog:
    """Columns of equal length; NaN if a step did not log a metric, or logged null."""

    steps: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]
    """In the order in which metrics first appear; the time of each line is not one."""
    unreadable: tuple[int, ...] = ()
    """Numbers of lines that were not JSON objects with a step, such as one that a killed run left half written."""

    def has(self, name: str) -> bool:
        """Whether the metric was ever logged with a finite value."""
        return any(map(math.isfinite, self.values.get(name, ())))


def read_metrics(path: Path) -> MetricsLog:
    """Read the log. A step that was logged twice, as after a resume, keeps the later values; entries that are not numbers are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    rows: dict[float, dict[str, float]] = {}
    unreadable = []
    for i, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line)
        if row is None:
            unreadable.append(i)
            continue
        rows.setdefault(row["step"], {}).update(row)
    steps = sorted(rows)
    names = dict.fromkeys(name for row in rows.values() for name in row if name not in ("step", "time"))
    return MetricsLog(
        steps=tuple(steps),
        values={name: tuple(rows[step].get(name, math.nan) for step in steps) for name in names},
        unreadable=tuple(unreadable),
    )


def _row(line: str) -> dict[str, float] | None:
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not _is_number(found.get("step")) or not math.isfinite(found["step"]):
        return None
    return {
        name: math.nan if value is None else float(value)
        for name, value in found.items()
        if value is None or _is_number(value)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
