"""What several annotators said of the same items, as one table of categories with gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = -1

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """`[items, annotators]` categories, `MISSING` where an annotator did not judge an item."""

    table: Ints
    categories: tuple[Any, ...]
    """What each category is called; of ordinal ones in their order, of interval ones the numbers themselves."""
    annotators: tuple[str, ...] = ()
    """Names, where they matter."""

    def __post_init__(self) -> None:
        if self.table.ndim != 2:
            raise ValueError(f"labels have shape {self.table.shape}; give [items, annotators]")
        if self.table.size and not (self.table.min() >= MISSING and self.table.max() < len(self.categories)):
            raise ValueError(
                f"a label is category {self.table.max()} (least {self.table.min()}) of {len(self.categories)}; "
                f"they count from 0, {MISSING} where there is none"
            )
        if self.annotators and len(self.annotators) != self.table.shape[1]:
            raise ValueError(
                f"{len(self.annotators)} annotators' names for {self.table.shape[1]} columns; give one for each"
            )

    @property
    def counts(self) -> Floats:
        """`[items, categories]` how many annotators said each."""
        return np.stack([(self.table == at).sum(1) for at in range(len(self.categories))], 1).astype(
            np.float64
        )


def make_labels(
    table: Sequence[Sequence[int]] | NDArray[Any], categories: Sequence[Any], annotators: Sequence[str] = ()
) -> Labels:
    """Labels from rows of category numbers. Raises `ValueError` for one that is out of range."""
    return Labels(
        table=np.asarray(table, np.intp), categories=tuple(categories), annotators=tuple(annotators)
    )
