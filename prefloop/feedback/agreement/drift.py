"""Whether somebody's answers grow better or worse in time: their right answers in order, in blocks, and the later half against the earlier."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from prefloop.feedback.agreement.people import Share

MOST_BLOCKS = 8
LEAST_IN_BLOCK = 5
"""Answers; a share of fewer says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Share of right answers in the later half, minus that in the earlier."""

    value: float
    low: float
    high: float
    """95 % interval, Newcombe's (1998, method 10) for the difference of two independent shares."""

    @property
    def direction(self) -> int:
        """-1 where it grew worse and +1 where it grew better, beyond chance; 0 otherwise."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def blocks(right: Sequence[bool]) -> tuple[Share, ...]:
    """Answers in order as shares of up to eight blocks of equal length, five answers each at least; none where there are fewer."""
    count = min(MOST_BLOCKS, len(right) // LEAST_IN_BLOCK)
    ends = [round(at * len(right) / count) for at in range(count + 1)] if count else []
    return tuple(Share.of(sum(right[start:end]), end - start) for start, end in pairwise(ends))


def drift(right: Sequence[bool]) -> Drift | None:
    """The later half of answers against the earlier; None where a half has fewer than five."""
    middle = len(right) // 2
    if middle < LEAST_IN_BLOCK:
        return None
    return difference(
        Share.of(sum(right[:middle]), middle), Share.of(sum(right[middle:]), len(right) - middle)
    )


def difference(before: Share, after: Share) -> Drift:
    """A share minus another, independent one."""
    value = after.value - before.value
    return Drift(
        value=value,
        low=value - math.hypot(after.value - after.low, before.high - before.value),
        high=value + math.hypot(after.high - after.value, before.value - before.low),
    )
