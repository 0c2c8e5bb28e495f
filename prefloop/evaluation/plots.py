"""Charts as inline SVG: no script, no library, colours from CSS variables, so that one page reads well in light and in dark.

Every chart takes plain numbers and gives a string. NaN leaves a gap. Marks differ in shape as well as in colour, and each says its
numbers on hover. `STYLE` is the part of the style sheet that they need; the colours are Okabe and Ito's, told apart by every eye.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.evaluation.curves import Series, curve, said_series, strips, thinned
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.svg import (
    WIDTH,
    Axis,
    axis,
    chart,
    element,
    legend,
    marker,
    shorten,
    text,
    text_width,
    tick_labels,
    tooltip,
)
from prefloop.evaluation.wording import number, percent, with_interval

STYLE = """
.chart { display: block; width: 100%; height: auto; font-size: 12px; overflow: visible; }
.chart text { fill: var(--muted); }
.chart .label { fill: var(--ink); }
.chart .strong { fill: var(--ink); font-weight: 600; }
.chart .grid { stroke: var(--grid); stroke-width: 1; }
.chart .base { stroke: var(--rule); stroke-width: 1; }
.chart .reference { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 4 3; fill: none; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .dashed { stroke-dasharray: 6 5; }
.chart .raw { stroke-width: 1; opacity: 0.3; }
.chart .band { fill: var(--c); opacity: 0.16; stroke: none; }
.chart .interval { stroke: var(--c); stroke-width: 2; }
.chart .cap { stroke: var(--c); stroke-width: 2; }
.chart .mark { fill: var(--c); stroke: var(--paper); stroke-width: 1.2; }
.chart .bar { fill: var(--c); }
.chart .shade { fill: var(--grid); }
.chart .target { fill: transparent; }
.chart .target:hover { fill: var(--muted); fill-opacity: 0.14; }
.s0 { --c: var(--series-0); } .s1 { --c: var(--series-1); } .s2 { --c: var(--series-2); } .s3 { --c: var(--series-3); }
.s4 { --c: var(--series-4); } .s5 { --c: var(--series-5); } .s6 { --c: var(--series-6); } .s7 { --c: var(--series-7); }
"""

LIGHT = {
    "--series-0": "#5c6673",
    "--series-1": "#0072b2",
    "--series-2": "#d55e00",
    "--series-3": "#00825f",
    "--series-4": "#b0558b",
    "--series-5": "#a87400",
    "--series-6": "#2a8fc4",
    "--series-7": "#3d3d3d",
}
DARK = {
    "--series-0": "#a3adba",
    "--series-1": "#5cb3ec",
    "--series-2": "#ff8d4a",
    "--series-3": "#35c79c",
    "--series-4": "#e091be",
    "--series-5": "#e9b44c",
    "--series-6": "#8fd3f7",
    "--series-7": "#dddddd",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlotRow:
    """A labelled estimate or value."""

    label: str
    estimate: Estimate
    slot: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """An estimate in two directions. Points of one `label` are joined in the order given."""

    label: str
    x: Estimate
    y: Estimate
    slot: int = 1
    note: str = ""
    """Written beside the mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceLine:
    """A dashed line at a value that means something."""

    value: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """How large a chart is, in pixels, and which values its axes hold whatever is drawn."""

    height: float = 250
    include: Sequence[float] = ()
    include_x: Sequence[float] = (0.0,)


def standalone(drawing: str) -> str:
    """A chart as a file of its own, with the colours that a report's page otherwise gives it: light, or dark where the reader's screen is."""
    light = {
        "--ink": "#1b1f24",
        "--muted": "#57606a",
        "--grid": "#e3e7ec",
        "--rule": "#aab2bd",
        "--paper": "#fff",
        **LIGHT,
    }
    dark = {
        "--ink": "#e7e9ec",
        "--muted": "#9ba4ae",
        "--grid": "#2a3037",
        "--rule": "#414952",
        "--paper": "#15181c",
        **DARK,
    }
    root, at_night = (
        " ".join(f"{name}: {value};" for name, value in theme.items()) for theme in (light, dark)
    )
    style = (
        f"<style>svg {{ {root} background: var(--paper); font-family: sans-serif; }}"
        f"@media (prefers-color-scheme: dark) {{ svg {{ {at_night} }} }}{STYLE}</style>"
    )
    opening, rest = drawing.split(">", 1)
    namespace = "" if "xmlns=" in opening else ' xmlns="http://www.w3.org/2000/svg"'
    return f"{opening}{namespace}>{style}{rest}\n"


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    references: Sequence[ReferenceLine] = (),
    smooth: bool = False,
    percent_axis: bool = False,
    frame: Frame = Frame(),
) -> str:
    """Lines over a common axis. `smooth` draws the values faintly and their running mean boldly; many points are averaged in groups."""
    curves = [thinned(curve) for curve in series]
    keys, top = _head(y_label, [(s.label, s.slot) for s in series] if len(series) > 1 else [])
    flat = [v for s in curves for v in (*s.y, *s.low, *s.high)] + [r.value for r in references]
    y = axis(flat, frame.height - 38, top, include=frame.include)
    body = [*keys, *_horizontal_grid(y, percent_axis)]
    left = _left(y, percent_axis)
    x = axis([v for s in curves for v in s.x], left, WIDTH - 14, include=frame.include_x, round_ends=False)
    body += _x_axis(x, y.start, x_label)
    body += [_reference(r, x, y) for r in references]
    if not any(math.isfinite(v) for s in curves for v in s.y):
        body.append(
            text("no finite value was logged", (left + WIDTH) / 2, (top + y.start) / 2, anchor="middle")
        )
    for line in curves:
        body += curve(line, x, y, smooth=smooth)
    body += strips(curves, x, y, x_label, percent_axis)
    spoken = "; ".join(said_series(s, percent_axis) for s in series)
    return chart(frame.height, body, title=title, description=f"{y_label or title} over {x_label}. {spoken}.")


def interval_chart(
    rows: Sequence[PlotRow],
    *,
    title: str,
    x_label: str,
    references: Sequence[ReferenceLine] = (),
    percent_axis: bool = False,
    include: Sequence[float] = (),
) -> str:
    """One estimate a row: its mark, its interval and its numbers."""
    written = [with_interval(row.estimate, share=percent_axis) for row in rows]
    left, right = _row_margins([row.label for row in rows], written)
    top = 24 if references else 6  # room for what the references mean
    bottom = top + 8 + 34 * len(rows)
    values = [v for row in rows for v in (row.estimate.value, row.estimate.low, row.estimate.high)]
    x = axis(values, left, WIDTH - right, count=4, include=[*include, *(r.value for r in references)])
    body = [*_vertical_grid(x, top, bottom, percent_axis), text(x_label, x.end, bottom + 34, anchor="end")]
    for r in references:
        at = x.at(r.value)
        anchor = "end" if at > (x.start + x.end) / 2 else "start"
        body += [
            element("line", x1=at, x2=at, y1=top - 18, y2=bottom, cls="reference"),
            text(r.label, at - 5 if anchor == "end" else at + 5, top - 9, anchor=anchor),
        ]
    for i, (row, numbers) in enumerate(zip(rows, written, strict=True)):
        middle = top + 8 + 34 * i + 14
        body += [
            text(shorten(row.label, left - 12), left - 10, middle + 4, cls="label", anchor="end"),
            text(numbers, WIDTH - right + 10, middle + 4, cls="label"),
        ]
        hint = tooltip(f"{row.label}: {numbers}, n = {row.estimate.n}")
        body.append(element("g", hint, *_mark_with_interval(row, x, middle), cls=f"s{row.slot % 8}"))
    spoken = "; ".join(f"{row.label} {numbers}" for row, numbers in zip(rows, written, strict=True))
    return chart(bottom + 40, body, title=title, description=f"{x_label}. {spoken}.")


def bar_chart(rows: Sequence[tuple[str, float, str]], *, title: str, slot: int = 1) -> str:
    """A bar a row, from zero: label, value, and the value in words."""
    left, right = _row_margins([label for label, _, _ in rows], [words for _, _, words in rows])
    x = axis([value for _, value, _ in rows], left, WIDTH - right, count=4, include=[0.0], round_ends=False)
    body = []
    for i, (label, value, words) in enumerate(rows):
        middle = 18 + 28 * i
        hint = tooltip(f"{label}: {words}")
        wide = max(1.5, x.at(value) - x.start) if math.isfinite(value) else 0
        body += [
            text(shorten(label, left - 12), left - 10, middle + 4, cls="label", anchor="end"),
            element(
                "rect",
                hint,
                x=x.start,
                y=middle - 9,
                width=wide,
                height=18,
                rx=2,
                cls=f"bar s{slot % 8}",
            ),
            text(words, x.start + wide + 8, middle + 4, cls="label"),
        ]
    spoken = "; ".join(f"{label} {words}" for label, _, words in rows)
    return chart(10 + 28 * len(rows), body, title=title, description=spoken + ".")


def scatter_chart(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    curves: Sequence[Series] = (),
    include_x: Sequence[float] = (),
    height: float = 300,
) -> str:
    """Points with an interval in both directions, for the frontier of score against KL; curves are drawn behind them.

    A point with a value that is missing is left out.
    """
    points = [p for p in points if math.isfinite(p.x.value) and math.isfinite(p.y.value)]
    labels = list(dict.fromkeys([*((p.label, p.slot) for p in points), *((c.label, c.slot) for c in curves)]))
    keys, top = _head(y_label, labels)
    xs = [v for p in points for v in (p.x.value, p.x.low, p.x.high)] + [v for c in curves for v in c.x]
    ys = [v for p in points for v in (p.y.value, p.y.low, p.y.high)]
    ys += [v for c in curves for v in (*c.y, *c.low, *c.high)]
    y = axis(ys, height - 38, top)
    x = axis(xs, _left(y), WIDTH - 20, include=include_x)
    body = [*keys, *_horizontal_grid(y), *_x_axis(x, y.start, x_label)]
    for behind in curves:
        body += curve(behind, x, y, smooth=False, end_mark=False)
        body += [
            marker(behind.slot, x.at(a), y.at(b), 2.5, tooltip(f"{behind.label}: {number(a)}, {number(b)}"))
            for a, b in zip(behind.x, behind.y, strict=True)
            if math.isfinite(a) and math.isfinite(b)
        ]
    for label, slot in dict.fromkeys((p.label, p.slot) for p in points):
        joined = [p for p in points if (p.label, p.slot) == (label, slot)]
        line = Series(label=label, x=[p.x.value for p in joined], y=[p.y.value for p in joined], slot=slot)
        body += curve(line, x, y, smooth=False, end_mark=False) if len(joined) > 1 else []
    for p in points:
        body.append(_cross(p, x, y, x_label, y_label))
    spoken = "; ".join(
        f"{p.label} {p.note}: {y_label} {number(p.y.value)} at {x_label} {number(p.x.value)}" for p in points
    )
    return chart(height, body, title=title, description=spoken + ".")


def category_chart(
    rows: Sequence[PlotRow],
    *,
    title: str,
    x_label: str,
    y_label: str,
    references: Sequence[ReferenceLine] = (),
    percent_axis: bool = True,
    height: float = 260,
) -> str:
    """Estimates over ordered categories, with how many observations each has."""
    _, top = _head(y_label, [])
    values = [v for row in rows for v in (row.estimate.value, row.estimate.low, row.estimate.high)]
    y = axis([*values, *(r.value for r in references)], height - 54, top)
    left = _left(y, percent_axis)
    x = Axis(-0.5, len(rows) - 0.5, left, WIDTH - 14, ())
    body = [text(y_label, 0, 12), *_horizontal_grid(y, percent_axis)]
    body += [_reference(r, x, y) for r in references]
    column = (x.end - x.start) / max(1, len(rows))
    for i, row in enumerate(rows):
        middle = x.at(i)
        hint = tooltip(
            f"{row.label}: {with_interval(row.estimate, share=percent_axis)}, n = {row.estimate.n}"
        )
        body += [
            element("g", hint, *_upright(row.estimate, row.slot, middle, y), cls=f"s{row.slot % 8}"),
            text(shorten(row.label, column), middle, y.start + 17, cls="label", anchor="middle"),
            text(f"n = {row.estimate.n}", middle, y.start + 32, anchor="middle"),
        ]
    body.append(text(x_label, x.end, y.start + 49, anchor="end"))
    spoken = "; ".join(f"{row.label}: {with_interval(row.estimate, share=percent_axis)}" for row in rows)
    return chart(height, body, title=title, description=f"{y_label} by {x_label}. {spoken}.")


def reliability_diagram(
    predicted: Sequence[float], observed: Sequence[Estimate], *, title: str, x_label: str, y_label: str
) -> str:
    """Observed against predicted probability, with the diagonal of perfect calibration and the share of cases in each bin below."""
    height = 300
    _, top = _head(y_label, [])
    y = axis([0.0, 1.0], height - 38, top, include=[v for o in observed for v in (o.low, o.high)])
    x = axis([0.5, 1.0], _left(y, True), WIDTH - 20)
    body = [text(y_label, 0, 12), *_horizontal_grid(y, True), *_x_axis(x, y.start, x_label, True)]
    total = sum(o.n for o in observed)
    for p, o in zip(predicted, observed, strict=True):
        tall = 0.3 * (y.start - y.end) * o.n / max(1, *(rate.n for rate in observed))
        hint = tooltip(f"{percent(o.n / total)} of comparisons (n = {o.n})")
        body.append(
            element("rect", hint, x=x.at(p) - 9, y=y.start - tall, width=18, height=tall, rx=1, cls="shade")
        )
    body.append(element("line", x1=x.at(0.5), y1=y.at(0.5), x2=x.at(1), y2=y.at(1), cls="reference"))
    for p, o in zip(predicted, observed, strict=True):
        hint = tooltip(f"predicted {percent(p)}, observed {with_interval(o, share=True)}, n = {o.n}")
        body.append(element("g", hint, *_upright(o, 1, x.at(p), y), cls="s1"))
    spoken = "; ".join(
        f"predicted {percent(p)}, observed {percent(o.value)}"
        for p, o in zip(predicted, observed, strict=True)
    )
    return chart(height, body, title=title, description=f"{spoken}. Grey bars: share of comparisons.")


def _head(y_label: str, entries: Sequence[tuple[str, int]]) -> tuple[list[str], float]:
    """The y label above the axis, then the legend; and where the plot may begin."""
    parts, tall = legend(entries, 0, 32, WIDTH)
    head = [text(y_label, 0, 12)] if y_label else []
    return [*head, *parts], (30 if y_label else 12) + (tall if entries else 0)


def _left(y: Axis, percent_axis: bool = False) -> float:
    labels = tick_labels(y.ticks, as_percent=percent_axis)
    return 10 + max((text_width(label) for label in labels), default=0)


def _horizontal_grid(y: Axis, percent_axis: bool = False) -> list[str]:
    left = _left(y, percent_axis)
    parts = []
    for value, label in zip(y.ticks, tick_labels(y.ticks, as_percent=percent_axis), strict=True):
        at = y.at(value)
        parts += [
            element("line", x1=left, x2=WIDTH - 14, y1=at, y2=at, cls="grid"),
            text(label, left - 8, at + 4, anchor="end"),
        ]
    return parts


def _vertical_grid(x: Axis, top: float, bottom: float, percent_axis: bool) -> list[str]:
    parts = []
    for value, label in zip(x.ticks, tick_labels(x.ticks, as_percent=percent_axis), strict=True):
        at = x.at(value)
        parts += [
            element("line", x1=at, x2=at, y1=top, y2=bottom, cls="grid"),
            text(label, at, bottom + 16, anchor="middle"),
        ]
    return parts


def _x_axis(x: Axis, bottom: float, label: str, percent_axis: bool = False) -> list[str]:
    parts = [element("line", x1=x.start, x2=x.end, y1=bottom, y2=bottom, cls="base")]
    for value, label_of_tick in zip(x.ticks, tick_labels(x.ticks, as_percent=percent_axis), strict=True):
        parts.append(text(label_of_tick, x.at(value), bottom + 16, anchor="middle"))
    return [*parts, text(label, x.end, bottom + 33, anchor="end")]


def _reference(reference: ReferenceLine, x: Axis, y: Axis) -> str:
    at = y.at(reference.value)
    line = element("line", x1=x.start, x2=x.end, y1=at, y2=at, cls="reference")
    return line + text(reference.label, x.end, at - 5, anchor="end")


def _mark_with_interval(row: PlotRow, x: Axis, middle: float) -> list[str]:
    e = row.estimate
    parts = []
    if math.isfinite(e.low) and math.isfinite(e.high):
        a, b = x.at(e.low), x.at(e.high)
        parts.append(element("line", x1=a, x2=b, y1=middle, y2=middle, cls="interval"))
        parts += [element("line", x1=c, x2=c, y1=middle - 5, y2=middle + 5, cls="cap") for c in (a, b)]
    if math.isfinite(e.value):
        parts.append(marker(row.slot, x.at(e.value), middle, 5))
    return parts


def _upright(e: Estimate, slot: int, at: float, y: Axis) -> list[str]:
    parts = []
    if math.isfinite(e.low) and math.isfinite(e.high):
        a, b = y.at(e.low), y.at(e.high)
        parts.append(element("line", x1=at, x2=at, y1=a, y2=b, cls="interval"))
        parts += [element("line", x1=at - 4, x2=at + 4, y1=c, y2=c, cls="cap") for c in (a, b)]
    if math.isfinite(e.value):
        parts.append(marker(slot, at, y.at(e.value), 4.5))
    return parts


def _cross(p: Point, x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    at = x.at(p.x.value)
    parts = [tooltip(f"{p.label} {p.note}\n{y_label}: {with_interval(p.y)}\n{x_label}: {with_interval(p.x)}")]
    if math.isfinite(p.x.low) and math.isfinite(p.x.high) and p.x.high > p.x.low:
        level = y.at(p.y.value)
        parts.append(element("line", x1=x.at(p.x.low), x2=x.at(p.x.high), y1=level, y2=level, cls="interval"))
    parts += _upright(p.y, p.slot, at, y)
    if p.note:
        beyond = at + 8 + text_width(p.note) > WIDTH
        parts.append(
            text(
                p.note,
                at - 8 if beyond else at + 8,
                y.at(p.y.value) + 16,
                anchor="end" if beyond else "start",
            )
        )
    return element("g", *parts, cls=f"s{p.slot % 8}")


def _row_margins(labels: Sequence[str], values: Sequence[str]) -> tuple[float, float]:
    left = min(170.0, 14 + max((text_width(label) for label in labels), default=0))
    return left, 14 + max((text_width(value) for value in values), default=0)
