"""Lines of a chart: broken where values are missing, thinned where there are too many, with their numbers on hover."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from prefloop.evaluation.svg import Axis, element, marker, tooltip
from prefloop.evaluation.wording import number, percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A line: y over x, with an optional band from `low` to `high`."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    slot: int = 1
    """Which colour and shape."""
    dashed: bool = False


def curve(series: Series, x: Axis, y: Axis, *, smooth: bool, end_mark: bool = True) -> list[str]:
    """A line broken where a value is missing, its band, and a mark where it ends."""
    cls = f"line s{series.slot % 8}" + (" dashed" if series.dashed else "")
    parts = []
    if len(series.low):
        parts.append(_band(series, x, y))
    values = np.asarray(series.y, dtype=np.float64)
    if smooth and np.isfinite(values).sum() > 20:
        parts.append(element("path", d=_path(series.x, values, x, y), cls=f"{cls} raw"))
        values = _running_mean(values)
    parts.append(element("path", d=_path(series.x, values, x, y), cls=cls))
    finite = np.flatnonzero(np.isfinite(values))
    if end_mark and len(finite):
        last = finite[-1]
        parts.append(marker(series.slot, x.at(series.x[last]), y.at(float(values[last])), 3.5))
    return parts


def strips(curves: Sequence[Series], x: Axis, y: Axis, x_label: str, percent_axis: bool) -> list[str]:
    """Upright strips that say every line's value at a step on hover; about 80 at most."""
    places = sorted({a for s in curves for a in s.x if math.isfinite(a)})
    places = places[:: max(1, math.ceil(len(places) / 80))]
    labels: dict[float, list[str]] = {a: [] for a in places}
    for s in curves:
        for a, b in zip(s.x, s.y, strict=True):
            if a in labels and math.isfinite(b):
                labels[a].append(f"{s.label} {percent(b) if percent_axis else number(b)}")
    edges = [x.start, *((x.at(a) + x.at(b)) / 2 for a, b in pairwise(places)), x.end]
    return [
        element(
            "rect",
            tooltip(f"{x_label} {number(a)}: " + ", ".join(labels[a])),
            x=edges[i],
            y=y.end,
            width=edges[i + 1] - edges[i],
            height=y.start - y.end,
            cls="target",
        )
        for i, a in enumerate(places)
        if labels[a]
    ]


def thinned(series: Series, most: int = 300) -> Series:
    """At most `most` points: means of equally many neighbours. Bands are averaged alike."""
    size = math.ceil(len(series.x) / most) if len(series.x) else 1
    if size <= 1:
        return series

    def grouped(values: Sequence[float]) -> list[float]:
        return [_mean(values[i : i + size]) for i in range(0, len(values), size)]

    return replace(
        series,
        x=grouped(series.x),
        y=grouped(series.y),
        low=grouped(series.low),
        high=grouped(series.high),
    )


def said_series(series: Series, percent_axis: bool) -> str:
    """Where a line starts and ends, in words for a screen reader."""
    finite = [v for v in series.y if math.isfinite(v)]
    write = percent if percent_axis else number
    return (
        f"{series.label} from {write(finite[0])} to {write(finite[-1])}"
        if finite
        else f"{series.label} empty"
    )


def _path(xs: Sequence[float], ys: Sequence[float] | np.ndarray, x: Axis, y: Axis) -> str:
    points, pen = [], "M"
    for a, b in zip(xs, ys, strict=True):
        if math.isfinite(a) and math.isfinite(b):
            # h0 makes a value with a gap on both sides a dot; without it nothing is drawn.
            points.append(f"{pen}{x.at(a):.1f} {y.at(float(b)):.1f}" + ("h0" if pen == "M" else ""))
            pen = "L"
        else:
            pen = "M"
    return "".join(points)


def _band(series: Series, x: Axis, y: Axis) -> str:
    kept = [
        (x.at(a), y.at(low), y.at(high))
        for a, low, high in zip(series.x, series.low, series.high, strict=True)
        if all(map(math.isfinite, (a, low, high)))
    ]
    outline = [(a, high) for a, _, high in kept] + [(a, low) for a, low, _ in reversed(kept)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in outline)
    return element("polygon", points=points, cls=f"band s{series.slot % 8}")


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of about a fifteenth of the points; missing values stay missing and count for nothing."""
    reach = max(1, len(values) // 30)
    return np.array(
        [
            _mean(values[max(0, i - reach) : i + reach + 1]) if math.isfinite(v) else math.nan
            for i, v in enumerate(values)
        ]
    )


def _mean(values: Sequence[float] | np.ndarray) -> float:
    finite = [float(v) for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan
