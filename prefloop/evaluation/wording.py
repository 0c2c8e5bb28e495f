"""Numbers as people write them: as many digits as the interval allows, a real minus sign, no break before a unit."""

import math

from prefloop.evaluation.intervals import Estimate

NO_SPREAD = "no spread, no interval"
"""In place of the interval of an estimate whose observations show no spread."""
SPACE = "\u00a0"
"""Between a number and its unit; lines do not break there."""

_NOISE = 1e-12
"""Half-widths below this share of the value are float noise about what is so by definition, such as an anchor's rating."""


def number(value: float) -> str:
    """Three significant digits, k and M for thousands and millions; a dash for what is not finite."""
    if not math.isfinite(value):
        return "–"
    size = float(f"{abs(value):.3g}")  # as it is shown: 999.6 is a thousand
    for limit, unit, name in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return minus(f"{value / unit:.3g}") + SPACE + name
    if size >= 1000:
        return minus(f"{value:.0f}")
    if size and size < 1e-3:
        return minus(f"{value:.1e}".replace("e-0", "e-"))
    return minus(f"{value:.3g}")


def percent(value: float) -> str:
    """A share as whole per cent, with a decimal near 0 and 100 where whole numbers would hide the difference."""
    if not math.isfinite(value):
        return "–"
    digits = 1 if 0.0005 <= value < 0.095 or 0.985 < value < 0.9995 else 0
    return minus(f"{100 * value + 0.0:.{digits}f}") + SPACE + "%"


def value_of(estimate: Estimate, *, share: bool = False) -> str:
    """The value alone, with the decimals that its interval makes meaningful."""
    return percent(estimate.value) if share else _rounded(estimate.value, estimate)


def interval_of(estimate: Estimate, *, share: bool = False, joint: str = " to ") -> str:
    """The interval alone; nothing if there is none, or the value is so by definition; words where all observations agree."""
    if estimate.no_spread:
        return NO_SPREAD
    half = _half_width(estimate)
    if half == 0:
        return ""
    if share:
        digits = 1 if estimate.high < 0.095 or estimate.low > 0.985 else 0
        low, high = (minus(f"{100 * edge + 0.0:.{digits}f}") for edge in (estimate.low, estimate.high))
        return f"{low}{joint}{high}{SPACE}%"
    return f"{_rounded(estimate.low, estimate)}{joint}{_rounded(estimate.high, estimate)}"


def with_interval(estimate: Estimate, *, share: bool = False) -> str:
    """Value and interval: `1.21 [1.07, 1.35]`, `78 % [72, 83]`, `16 [no spread, no interval]`."""
    interval = interval_of(estimate, share=share, joint=", ").removesuffix(f"{SPACE}%")
    return f"{value_of(estimate, share=share)} [{interval}]" if interval else value_of(estimate, share=share)


def minus(text: str) -> str:
    """A hyphen before a number becomes a minus sign, and minus zero becomes zero."""
    if not text.startswith("-"):
        return text
    return text[1:] if set(text[1:]) <= set("0.") else "−" + text[1:]


def _half_width(estimate: Estimate) -> float:
    """Half the interval's width; 0 if it has none."""
    half = (estimate.high - estimate.low) / 2
    return half if math.isfinite(half) and half > _NOISE * abs(estimate.value) else 0.0


def _rounded(value: float, estimate: Estimate) -> str:
    """Three significant digits of the largest number, but one or two of the interval's width: further ones mean nothing."""
    width = 2 * _half_width(estimate)
    if width < 1e-4 or not math.isfinite(value) or abs(value) >= 1e4:
        return number(value)
    largest = max(abs(estimate.value), abs(estimate.low), abs(estimate.high))
    meant = -math.floor(math.log10(width))
    decimals = max(0, min(max(2 - math.floor(math.log10(largest)), meant), meant + 1))
    return minus(f"{value:.{decimals}f}")
