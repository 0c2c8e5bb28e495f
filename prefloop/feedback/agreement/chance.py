"""How far annotators agree: raw, and beyond what chance would give. Two annotators who guess agree too, the more so the fewer answers there are.

`n_ic` is how many annotators gave item i category c, n_i all of its labels. Items with one label say nothing of agreement and are left out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from prefloop.feedback.agreement.labels import MISSING, Floats, Ints, Labels

Metric = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A coefficient of agreement with its 95 % interval (NaN where there is none) and the items with two labels or more behind it."""

    value: float
    low: float
    high: float
    items: int

    def to_json(self) -> dict[str, float | int | None]:
        """`{value, low, high, items}`, NaN as null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: float(x) if math.isfinite(x) else None for name, x in numbers.items()} | {
            "items": self.items
        }


def pair_agreement(labels: Labels, *, ignoring: Sequence[int] = ()) -> tuple[Floats, Floats]:
    """`[items]` pairs of labels that agree, and pairs of labels, leaving out labels of the categories `ignoring`.

    Without ties (`ignoring` their categories) agreement is among those who both named a side.
    """
    counts = labels.counts
    counts[:, list(ignoring)] = 0.0
    n = counts.sum(1)
    return (counts * (counts - 1)).sum(1) / 2, n * (n - 1) / 2


def raw_agreement(
    labels: Labels, *, ignoring: Sequence[int] = (), resamples: int = 1000, seed: int = 0
) -> Agreement:
    """The chance that two annotators of one item say the same: agreeing pairs over pairs, with a bootstrap over items."""
    agreeing, pairs = pair_agreement(labels, ignoring=ignoring)
    used = pairs > 0
    return _ratio(agreeing[used], pairs[used], resamples, seed)


def half_credit_agreement(
    labels: Labels, *, first: int, second: int, resamples: int = 1000, seed: int = 0
) -> Agreement:
    """Agreement in which a tie (any category but `first` and `second`) against a side counts a half, and side against side nothing."""
    _, pairs = pair_agreement(labels)
    sides = labels.counts[:, [first, second]]
    ties = labels.counts.sum(1) - sides.sum(1)
    # Ties of different kinds (tie and both-bad) name no side either, so they agree.
    same = ties * (ties - 1) / 2 + (sides * (sides - 1)).sum(1) / 2
    agreeing = same + 0.5 * ties * sides.sum(1)
    used = pairs > 0
    return _ratio(agreeing[used], pairs[used], resamples, seed)


def cohen_kappa(first: Ints, second: Ints, categories: int) -> float:
    """(p_o - p_e) / (1 - p_e) of two annotators, p_e the agreement of guesses with each one's own frequencies (Cohen 1960).

    Items that either left out are not counted. NaN where there is none, or both always said one and the same thing.
    """
    both = (first != MISSING) & (second != MISSING)
    if not both.any():
        return math.nan
    table = np.bincount(first[both] * categories + second[both], minlength=categories**2)
    joint = table.reshape(categories, categories) / both.sum()
    observed, expected = float(np.trace(joint)), float(joint.sum(1) @ joint.sum(0))
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan


def fleiss_kappa(labels: Labels) -> float:
    """(P̄ - P̄_e) / (1 - P̄_e) for any annotators, as many for each item; P̄_e from the frequencies of all labels (Fleiss 1971).

    Raises `ValueError` where items have different numbers of labels, or one: Krippendorff's alpha is for those. NaN if all labels are one
    category.
    """
    counts = labels.counts
    sizes = np.unique(counts.sum(1))
    if len(sizes) != 1 or sizes[0] < 2:
        raise ValueError(
            f"items have {', '.join(f'{size:g}' for size in sizes) or 'no'} labels; Fleiss' kappa needs the same number for each, 2 or more: "
            "take Krippendorff's alpha"
        )
    n = float(sizes[0])
    observed = float(((counts * (counts - 1)).sum(1) / (n * (n - 1))).mean())
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan


def krippendorff_alpha(
    labels: Labels, metric: Metric = "nominal", *, resamples: int = 1000, seed: int = 0
) -> Agreement:
    """α = 1 - D_o / D_e for any annotators, any gaps (Krippendorff 2011), with a percentile bootstrap over items.

    With coincidences o_ck = Σ_i n_ic (n_ik - [c = k]) / (n_i - 1), margins n_c and n = Σ n_c, and a distance δ²_ck of categories,

        D_o = Σ_ck o_ck δ²_ck / n,          D_e = Σ_ck n_c (n_k - [c = k]) δ²_ck / (n (n - 1))

    `nominal`: δ² = [c ≠ k]; `ordinal`: (Σ_{g=c..k} n_g - (n_c + n_k)/2)²; `interval`: the squared difference of the numbers that the
    categories are. NaN where all labels are one category: nothing could disagree.
    """
    if metric not in get_args(Metric):
        raise ValueError(f"metric is {metric!r}; it must be one of {', '.join(get_args(Metric))}")
    counts = labels.counts
    counts = counts[counts.sum(1) > 1]
    size = len(labels.categories)
    if not len(counts):
        return Agreement(value=math.nan, low=math.nan, high=math.nan, items=0)
    each = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(size)
    each /= (counts.sum(1) - 1)[:, None, None]
    flat = each.reshape(len(counts), -1)
    distance = DISTANCES[metric](labels)
    value = _alpha(flat.sum(0)[None], size, distance)[0]
    if len(counts) < 2:
        return Agreement(value=float(value), low=math.nan, high=math.nan, items=len(counts))
    drawn = _alpha(_item_weights(len(counts), resamples, seed) @ flat, size, distance)
    low, high = _percentiles(drawn)
    return Agreement(value=float(value), low=low, high=high, items=len(counts))


def _alpha(coincidences: Floats, size: int, distance: Callable[[Floats], Floats]) -> Floats:
    """`[many]` α of `[many, categories²]` coincidences; NaN where D_e is 0."""
    o = coincidences.reshape(-1, size, size)
    margins = o.sum(2)
    n = margins.sum(1)
    d = distance(margins)
    expected = margins[:, :, None] * (margins[:, None, :] - np.eye(size))
    observed_disagreement = (o * d).sum((1, 2)) / n
    expected_disagreement = (expected * d).sum((1, 2)) / (n * (n - 1))
    possible = expected_disagreement > 0
    return np.where(
        possible, 1 - observed_disagreement / np.where(possible, expected_disagreement, 1.0), np.nan
    )


def _nominal(labels: Labels) -> Callable[[Floats], Floats]:
    return lambda margins: 1 - np.eye(margins.shape[1])


def _ordinal(labels: Labels) -> Callable[[Floats], Floats]:
    def distance(margins: Floats) -> Floats:
        # Σ_{g=c..k} n_g - (n_c + n_k)/2 is the distance of the middles of c and k, when all labels lie in a row.
        middle = np.cumsum(margins, 1) - margins / 2
        return (middle[:, :, None] - middle[:, None, :]) ** 2

    return distance


def _interval(labels: Labels) -> Callable[[Floats], Floats]:
    values = np.array(labels.categories, np.float64)
    return lambda margins: (values[:, None] - values) ** 2


DISTANCES: dict[str, Callable[[Labels], Callable[[Floats], Floats]]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
}


def _ratio(above: Floats, below: Floats, resamples: int, seed: int) -> Agreement:
    """Σ above / Σ below over items, with a percentile bootstrap over items."""
    if not len(below):
        return Agreement(value=math.nan, low=math.nan, high=math.nan, items=0)
    value = float(above.sum() / below.sum())
    if len(below) < 2:
        return Agreement(value=value, low=math.nan, high=math.nan, items=len(below))
    weights = _item_weights(len(below), resamples, seed)
    low, high = _percentiles((weights @ above) / (weights @ below))
    return Agreement(value=value, low=low, high=high, items=len(below))


def _item_weights(items: int, resamples: int, seed: int) -> Floats:
    """`[resamples, items]` how often each item is drawn."""
    return (
        np.random.default_rng(seed)
        .multinomial(items, np.full(items, 1 / items), resamples)
        .astype(np.float64)
    )


def _percentiles(drawn: Floats) -> tuple[float, float]:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
