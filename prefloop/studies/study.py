"""What a study is made of: cells that are run over seeds, and what is said of their numbers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.evaluation.intervals import Estimate, mean_interval, without_interval

Numbers = Mapping[str, Any]
"""What a cell measured, in JSON's types."""
Measure = str | Callable[[Numbers], float]
"""A number of a cell: its name, or how it is made from the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySettings:
    """What every study has; its own settings are fields of a subclass."""

    seeds: int = 3
    """Seeds 0, 1, ... that every cell is run with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCell:
    """One setting of a study."""

    name: str
    given: Mapping[str, Any] = field(default_factory=dict)
    """What tells it from the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a cell works."""

    seed: int
    folder: Path
    """Its own; removed when the cell is finished."""
    prepared: Path
    """What the study's `prepare` left for this seed."""
    data: str
    model: str = ""
    """What the study starts from; empty for one that starts from no given model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResults:
    """The numbers of all cells."""

    numbers: Mapping[str, Mapping[int, Numbers]]
    """Cell -> seed -> numbers."""

    def each(self, cell: str, measure: Measure) -> list[float]:
        """One number a seed; NaN where it was not finite."""
        found = [measure(one) if callable(measure) else one[measure] for one in self.numbers[cell].values()]
        return [math.nan if value is None else float(value) for value in found]

    def mean(self, cell: str, measure: Measure) -> Estimate:
        """Over seeds, with Student's t interval."""
        return over_seeds(self.each(cell, measure))

    def difference(self, cell: str, other: str, measure: Measure) -> Estimate:
        """Mean of `cell` less `other`, seed by seed."""
        return self.difference_of((cell, measure), (other, measure))

    def difference_of(self, one: tuple[str, Measure], other: tuple[str, Measure]) -> Estimate:
        """Mean of one cell's measure less another's, seed by seed."""
        pairs = zip(self.each(*one), self.each(*other), strict=True)
        return over_seeds([a - b for a, b in pairs])


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval; values that are not finite are left out, as `n` then shows."""
    finite = [value for value in values if math.isfinite(value)]
    return mean_interval(finite) if finite else without_interval(math.nan, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFinding:
    """A published claim, and what the numbers say of it."""

    expected: str
    source: str
    found: str
    holds: bool | None
    """None where the intervals cannot say."""


Entry = Estimate | float | int | str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTable:
    """Rows of numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFigure:
    """A drawing, made by `evaluation.plots`."""

    drawing: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyReport:
    """What came of a study."""

    findings: tuple[StudyFinding, ...]
    table: StudyTable
    figure: StudyFigure
    further: tuple[StudyTable, ...] = ()
    """Tables beside the main one."""
    further_figures: tuple[StudyFigure, ...] = ()
    """Figures beside the main one, shown before the further tables."""
    remarks: tuple[str, ...] = ()
    """What a reader must know to read the numbers rightly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A question, how it is run, and what is said of it."""

    title: str
    question: str
    settings: type[Any]
    """A subclass of `StudySettings`."""
    cells: Callable[[Any], Sequence[StudyCell]]
    work: Callable[[Any, StudyCell, Place], Numbers]
    report: Callable[[Any, StudyResults], StudyReport]
    prepare: Callable[[Any, Place], None] | None = None
    """What a seed's cells share, made before them."""


def all_sure(found: Iterable[bool | None]) -> bool | None:
    """Of several answers: False if one is, True if all are, else None."""
    known = list(found)
    return False if False in known else (all(known) or None)


def sure(estimate: Estimate, *, above: float) -> bool | None:
    """Whether the whole interval is above (True) or below (False) a number; None where it holds it."""
    if estimate.low > above:
        return True
    return False if estimate.high < above else None
