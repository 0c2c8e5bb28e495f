"""One annotator at a time: gold accuracy, position bias, pace, ties, agreement with the others."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.feedback.agreement.annotator_models import fit_annotators
from prefloop.feedback.agreement.chance import cohen_kappa
from prefloop.feedback.agreement.labels import MISSING, Floats, Ints, Labels
from prefloop.feedback.shares import wilson

Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """So many of n, with the 95 % Wilson interval (Wilson 1927); NaN of none."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, count: int, n: int) -> "Share":
        """`count` of `n`; `n` may be 0."""
        if n == 0:
            return cls(value=math.nan, low=0.0, high=1.0, n=0)
        low, high = wilson(count / n, n, Z95)
        return cls(value=count / n, low=low, high=high, n=n)

    def to_json(self) -> dict[str, float | int | None]:
        """`{value, low, high, n}`, NaN as null."""
        return {
            "value": None if math.isnan(self.value) else self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PairChoice:
    """One judgement of a pair, as the figures of an annotator need it."""

    annotator: str
    item: int
    choice: str
    """`a`, `b`, `tie` or `both_bad`, by slot."""
    left: str
    """Which slot was shown first: `a` or `b`."""
    seconds: float
    """0 if it was not timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorFigures:
    """What is known of one annotator."""

    name: str
    answers: int
    ties: Share
    both_bad: Share
    first_shown: Share
    """How often, where a side was named, the one shown first was chosen: half for who reads both."""
    seconds: float
    """Median; NaN if nothing was timed."""
    with_others: Share
    """Agreement with the majority of the others on items where they have one."""
    gold: Share
    """Right answers to items whose answer is known."""
    accuracy: Share
    """Right answers by the `one_coin` model with its interval, no gold needed; none if no item has two labels."""

    @property
    def position_bias(self) -> bool:
        """Whether the interval of `first_shown` leaves out one half."""
        return self.first_shown.n > 0 and not self.first_shown.low <= 0.5 <= self.first_shown.high


def figures(
    answers: Sequence[PairChoice], labels: Labels, *, gold: Mapping[int, str] | None = None
) -> tuple[AnnotatorFigures, ...]:
    """Every annotator of `labels`, in order. `answers` are those in `labels`; `gold` maps items to the right choice."""
    accuracy = [Share.of(0, 0)] * len(labels.annotators)
    if ((labels.table != MISSING).sum(1) > 1).any():
        fitted = fit_annotators(labels, "one_coin")
        accuracy = [
            Share(value=float(value), low=float(low), high=float(high), n=int(n))
            for value, low, high, n in zip(*fitted.reliability, fitted.labels, strict=True)
        ]
    agreeing, compared = leave_one_out(labels)
    rows = []
    for column, name in enumerate(labels.annotators):
        own = [answer for answer in answers if answer.annotator == name]
        sided = [answer for answer in own if answer.choice in ("a", "b")]
        timed = [answer.seconds for answer in own if answer.seconds > 0]
        known = [answer for answer in own if answer.item in (gold or {})]
        right = sum(answer.choice == (gold or {})[answer.item] for answer in known)
        rows.append(
            AnnotatorFigures(
                name=name,
                answers=len(own),
                ties=Share.of(sum(answer.choice == "tie" for answer in own), len(own)),
                both_bad=Share.of(sum(answer.choice == "both_bad" for answer in own), len(own)),
                first_shown=Share.of(sum(answer.choice == answer.left for answer in sided), len(sided)),
                seconds=statistics.median(timed) if timed else math.nan,
                with_others=Share.of(int(agreeing[column]), int(compared[column])),
                gold=Share.of(right, len(known)),
                accuracy=accuracy[column],
            )
        )
    return tuple(rows)


def leave_one_out(labels: Labels) -> tuple[Ints, Ints]:
    """`[annotators]` items where an annotator agrees with the majority of the others, and items where the others have one.

    The others have a majority where one category has more of their labels than any other; the annotator's own is not among them.
    """
    counts = labels.counts
    agreeing = np.zeros(labels.table.shape[1], np.intp)
    compared = np.zeros(labels.table.shape[1], np.intp)
    for column in range(labels.table.shape[1]):
        own = labels.table[:, column]
        rows = np.flatnonzero(own != MISSING)
        others = counts[rows].copy()
        others[np.arange(len(rows)), own[rows]] -= 1
        top = others.max(1, initial=0.0)
        clear = (top > 0) & ((others == top[:, None]).sum(1) == 1)
        compared[column] = clear.sum()
        agreeing[column] = (others.argmax(1)[clear] == own[rows][clear]).sum()
    return agreeing, compared


def agreement_matrix(labels: Labels) -> tuple[Floats, Floats, Ints]:
    """`[annotators, annotators]` share of common items with the same label, Cohen's kappa, and common items, for a heat map.

    NaN where two have no common item, and on the diagonal.
    """
    people = labels.table.shape[1]
    raw, kappa = np.full((people, people), math.nan), np.full((people, people), math.nan)
    common = np.zeros((people, people), np.intp)
    for i in range(people):
        for j in range(i + 1, people):
            a, b = labels.table[:, i], labels.table[:, j]
            both = (a != MISSING) & (b != MISSING)
            common[i, j] = common[j, i] = both.sum()
            if both.any():
                raw[i, j] = raw[j, i] = float((a[both] == b[both]).mean())
                kappa[i, j] = kappa[j, i] = cohen_kappa(a, b, len(labels.categories))
    return raw, kappa, common
