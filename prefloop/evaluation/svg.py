"""Pieces of SVG charts: elements, axes with round ticks, legends, and an estimate of how wide a text will be."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from prefloop.evaluation.visible_text import shown
from prefloop.evaluation.wording import SPACE, minus, number

WIDTH = 440
"""Width of a chart in its own units; it is stretched to its column, so letters stay readable on a phone."""
FONT = 12


def element(name: str, *children: str, **attributes: str | float) -> str:
    """One element. `cls` is the class, underscores become hyphens; attribute values are escaped, children must be already."""
    attributes_text = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
    )
    return (
        f"<{name}{attributes_text}>{''.join(children)}</{name}>"
        if children
        else f"<{name}{attributes_text}/>"
    )


def text(content: str, x: float, y: float, *, cls: str = "", anchor: str = "start") -> str:
    """A text with its baseline at (x, y); content is escaped here."""
    return element("text", escape(shown(content)), x=x, y=y, cls=cls, text_anchor=anchor)


def tooltip(content: str) -> str:
    """What is shown on hover over the element that holds it."""
    return element("title", escape(shown(content)))


def chart(height: float, body: Sequence[str], *, title: str, description: str) -> str:
    """The whole drawing, with the title and description that a screen reader speaks."""
    return element(
        "svg",
        element("title", escape(shown(title))),
        element("desc", escape(shown(description))),
        *body,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {_value(height)}",
        role="img",
        cls="chart",
    )


def text_width(content: str, size: float = FONT) -> float:
    """About how wide a text is in a sans-serif font; a little generous, so that nothing is cut."""
    return size * sum(_letter_width(char) for char in content)


def shorten(content: str, width: float, size: float = FONT) -> str:
    """The text, cut with an ellipsis to fit."""
    content = shown(content)
    if text_width(content, size) <= width:
        return content
    while content and text_width(content + "…", size) > width:
        content = content[:-1]
    return content + "…"


@dataclass(frozen=True, slots=True)
class Axis:
    """A straight map from data to places, with its ticks."""

    low: float
    high: float
    start: float
    """Place of `low`."""
    end: float
    """Place of `high`."""
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Place of a value; values beyond the axis are put on its end."""
        share = (min(self.high, max(self.low, value)) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    count: int = 5,
    include: Sequence[float] = (),
    round_ends: bool = True,
) -> Axis:
    """An axis that holds all finite values; its ends are ticks if `round_ends`. NaN and infinities are passed over."""
    finite = [v for v in (*values, *include) if abs(v) < 1e300] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-200):  # one value, but for rounding
        reach = size / 2 if size > 1e-200 else 1.0
        low, high = low - reach, high + reach
    step = tick_step(low, high, count)
    if round_ends:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Axis(low, high, start, end, tuple(i * step for i in range(first, last + 1)))


def tick_step(low: float, high: float, count: int) -> float:
    """The roundest step, 1, 2 or 5 times a power of ten, that makes about `count` intervals, a third more at most."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.75)


def tick_labels(ticks: Sequence[float], *, as_percent: bool = False) -> list[str]:
    """Labels with as many decimals as the step needs, and no more."""
    scale = 100 if as_percent else 1
    step = min((abs(b - a) for a, b in itertools.pairwise(ticks)), default=1.0) * scale
    largest = max((abs(t) for t in ticks), default=0.0) * scale
    if largest >= 10_000:
        return [number(t * scale) for t in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 4 and largest < 1000 * step:
        digits = max(0, math.floor(math.log10(largest) + 1e-9) + decimals) if largest else 0
        return [f"{t * scale:.{digits}e}".replace("e-0", "e-") if t else "0" for t in ticks]
    return [
        minus(f"{round(t * scale, decimals) + 0.0:.{decimals}f}") + (SPACE + "%" if as_percent else "")
        for t in ticks
    ]


def marker(slot: int, x: float, y: float, size: float, *children: str) -> str:
    """A mark whose shape as well as colour tells its series: circle, square, diamond, triangle, in turn."""
    cls = f"mark s{slot % 8}"
    if slot % 4 == 0:
        return element("circle", *children, cx=x, cy=y, r=size, cls=cls)
    if slot % 4 == 1:
        side = size * 1.8
        return element(
            "rect", *children, x=x - side / 2, y=y - side / 2, width=side, height=side, rx=1, cls=cls
        )
    reach = size * 1.35
    corners = (
        [(0, -reach), (reach, 0), (0, reach), (-reach, 0)]
        if slot % 4 == 2
        else [(0, -reach), (reach, reach * 0.8), (-reach, reach * 0.8)]
    )
    points = " ".join(f"{_value(x + dx)},{_value(y + dy)}" for dx, dy in corners)
    return element("polygon", *children, points=points, cls=cls)


def legend(entries: Sequence[tuple[str, int]], x: float, y: float, width: float) -> tuple[list[str], float]:
    """Marks with their labels in rows that fit `width`, and the height they take. One entry needs no legend unless it is labelled."""
    parts, left, row = [], x, 0
    for label, slot in entries:
        label = shorten(label, width - 20)
        needed = 16 + text_width(label) + 14
        if left > x and left + needed > x + width:
            left, row = x, row + 1
        top = y + row * 18
        parts += [marker(slot, left + 5, top - 4, 4), text(label, left + 14, top, cls="label")]
        left += needed
    return parts, (row + 1) * 18 if entries else 0


def _letter_width(char: str) -> float:
    if char in "iljtfr.,:;'|!()[] \u00a0I":
        return 0.34
    if char in "mwMW%@…":
        return 0.92
    if ord(char) > 0x2E80:
        return 1.0
    return 0.7 if char.isupper() else 0.58


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(shown(value), quote=True)
    return f"{value:.2f}".rstrip("0").rstrip(".")
