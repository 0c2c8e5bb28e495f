"""How far annotators agree: raw, and beyond what chance would give. Two annotators who guess agree too, the more so the fewer answers there are.

`n_ic` is how many annotators gave item i category c, n_i all of its labels. Items with one label say nothing of agreement and are left out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prefloop.feedback.agreement.labels import MISSING, Floats, Ints, Labels
from prefloop.feedback.shares import share_interval, tail_of

Metric = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A coefficient of agreement with its 95 % interval (NaN if there is none) and the items with two labels or more behind it.

    The interval is of other items that the same annotators might judge.
    """

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


def raw_agreement(labels: Labels, *, ignoring: Sequence[int] = (), prompts: Ints | None = None) -> Agreement:
    """The chance that two annotators of one item say the same: agreeing pairs over pairs, with Wilson's interval.

    The interval is over items, or over `prompts` `[items]` where several items are of one prompt, which may be an easy or a hard one.
    """
    agreeing, pairs = pair_agreement(labels, ignoring=ignoring)
    return _share(agreeing, np.zeros_like(agreeing), pairs, prompts)


def half_credit_agreement(
    labels: Labels, *, first: int, second: int, prompts: Ints | None = None
) -> Agreement:
    """Agreement in which a tie (any category but `first` and `second`) against a side counts a half, and side against side nothing."""
    _, pairs = pair_agreement(labels)
    sides = labels.counts[:, [first, second]]
    ties = labels.counts.sum(1) - sides.sum(1)
    # Ties of different kinds (tie and both-bad) name no side either, so they agree.
    same = ties * (ties - 1) / 2 + (sides * (sides - 1)).sum(1) / 2
    return _share(same, ties * sides.sum(1), pairs, prompts)


def cohen_kappa(first: Ints, second: Ints, categories: int) -> float:
    """(p_o - p_e) / (1 - p_e) of two annotators, p_e the agreement of guesses with each one's own frequencies (Cohen 1960).

    Items that either left out are not counted. NaN if there is none, or both always said one and the same thing.
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

    Raises `ValueError` if items have different numbers of labels, or one: Krippendorff's alpha is for those. NaN if all labels are one
    category.
    """
    counts = labels.counts
    sizes = np.unique(counts.sum(1))
    if len(sizes) != 1 or sizes[0] < 2:
        raise ValueError(
            f"items have {', '.join(f'{size:g}' for size in sizes) or 'no'} labels; Fleiss' kappa needs the same number for each, 2 or more: "
            "use Krippendorff's alpha"
        )
    n = float(sizes[0])
    observed = float(((counts * (counts - 1)).sum(1) / (n * (n - 1))).mean())
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan


def krippendorff_alpha(
    labels: Labels,
    metric: Metric = "nominal",
    *,
    prompts: Ints | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """α = 1 - D_o / D_e for any annotators, any gaps (Krippendorff 2011), with an interval over items or `prompts`.

    With coincidences o_ck = Σ_i n_ic (n_ik - [c = k]) / (n_i - 1), margins n_c and n = Σ n_c, and a distance δ²_ck of categories,

        D_o = Σ_ck o_ck δ²_ck / n,          D_e = Σ_ck n_c (n_k - [c = k]) δ²_ck / (n (n - 1))

    `nominal`: δ² = [c ≠ k]; `ordinal`: (Σ_{g=c..k} n_g - (n_c + n_k)/2)²; `interval`: the squared difference of the numbers that the
    categories are. NaN if all labels are one category: nothing could disagree.

    The interval joins the expanded percentiles of a bootstrap over items with what α would be at the ends of Wilson's interval of the share of pairs that
    differ: D_o in proportion to that share, or D_e to that of labels drawn at random where no pair differs. The bootstrap alone has no width there.
    """
    if metric not in get_args(Metric):
        raise ValueError(f"metric is {metric!r}; it must be one of {', '.join(get_args(Metric))}")
    counts = labels.counts
    used = counts.sum(1) > 1
    counts = counts[used]
    size = len(labels.categories)
    if not len(counts):
        return Agreement(value=math.nan, low=math.nan, high=math.nan, items=0)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(size)
    pairs /= (counts.sum(1) - 1)[:, None, None]
    flat = pairs.reshape(len(counts), -1)
    distance = DISTANCES[metric](labels)
    value = _alpha(flat.sum(0)[None], size, distance)[0]
    members = _members(used, prompts)
    groups = int(members.max()) + 1
    if groups < 2 or math.isnan(value):
        return Agreement(value=float(value), low=math.nan, high=math.nan, items=len(counts))
    sums = np.zeros((groups, flat.shape[1]))
    np.add.at(sums, members, flat)
    drawn = _alpha(_weights(groups, resamples, seed) @ sums, size, distance)
    tail = tail_of(groups)
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    same = raw_agreement(labels, prompts=prompts)
    if same.value < 1:
        most, least = ((1 - bound) / (1 - same.value) * (1 - value) for bound in (same.low, same.high))
    else:
        margins = counts.sum(0)
        differ = 1 - float(margins @ (margins - 1)) / (margins.sum() * (margins.sum() - 1))
        most, least = (1 - same.low) / differ, 0.0
    return Agreement(
        value=float(value), low=float(min(low, 1 - most)), high=float(max(high, 1 - least)), items=len(counts)
    )


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


def _share(same: Floats, half: Floats, pairs: Floats, prompts: Ints | None) -> Agreement:
    """Of `[items]` pairs, so many that agree and so many that half agree: the share, with the pairs of one item or prompt kept together."""
    used = pairs > 0
    if not used.any():
        return Agreement(value=math.nan, low=math.nan, high=math.nan, items=0)
    numbers = np.stack([same, half, pairs - same - half])[:, used].astype(np.intp)  # [3, items]
    scores = np.repeat([1.0, 0.5, 0.0], numbers.sum(1))
    members = _members(used, prompts)
    low, high = share_interval(scores, np.concatenate([np.repeat(members, number) for number in numbers]))
    return Agreement(value=float(scores.mean()), low=low, high=high, items=int(used.sum()))


def _members(used: NDArray[np.bool_], prompts: Ints | None) -> Ints:
    """What each item in use is kept together with, numbered from 0."""
    return np.arange(used.sum()) if prompts is None else np.unique(prompts[used], return_inverse=True)[1]


def _weights(groups: int, resamples: int, seed: int) -> Floats:
    """`[resamples, groups]` how often each is drawn."""
    return (
        np.random.default_rng(seed)
        .multinomial(groups, np.full(groups, 1 / groups), resamples)
        .astype(np.float64)
    )
