"""Several labels of one item made into one: the majority's, or a probability; and which items to look at again."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from prefloop.feedback.agreement.annotator_models import fit_annotators
from prefloop.feedback.agreement.labels import Floats, Ints, Labels

Aggregation = Literal["majority", "dawid_skene", "one_coin"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aggregated:
    """One probability for each category of each item."""

    probability: Floats
    """`[items, categories]`; of `majority` the shares of the votes."""
    label: Ints
    """`[items]` the likeliest category; -1 where several are, or nobody said anything."""
    votes: Ints
    """`[items]` labels behind it."""
    agreement: Floats
    """`[items]` share of labels that are the likeliest category's."""


def aggregate(labels: Labels, how: Aggregation = "majority") -> Aggregated:
    """The majority, or the posterior of the true category under an annotator model (`annotator_models`)."""
    if how not in get_args(Aggregation):
        raise ValueError(f"how is {how!r}; it must be one of {', '.join(get_args(Aggregation))}")
    counts = labels.counts
    votes = counts.sum(1)
    shares = counts / np.maximum(votes, 1)[:, None]
    probability = shares if how == "majority" else fit_annotators(labels, how).posterior
    top = probability.max(1, keepdims=True)
    several = (probability >= top - 1e-12).sum(1) > 1
    label = np.where(several | (votes == 0), -1, probability.argmax(1))
    return Aggregated(
        probability=probability,
        label=label.astype(np.intp),
        votes=votes.astype(np.intp),
        agreement=np.where(
            label >= 0, np.take_along_axis(shares, np.maximum(label, 0)[:, None], 1)[:, 0], 0.0
        ),
    )


def preference(probability: Floats, *, first: int = 0, second: int = 1) -> Floats:
    """`[items]` P(first is better): its probability plus half of all that name no side, from `[items, categories]`.

    A soft label for training; ½ for a clear tie.
    """
    sides = probability[:, first] + probability[:, second]
    return probability[:, first] + 0.5 * (probability.sum(1) - sides)


def disagreements(labels: Labels) -> tuple[Ints, Floats]:
    """Items with two labels or more that are not all the same, the most disputed first, and the disagreement of each.

    Disagreement is the chance that two of its labels differ; of equals the item with more labels comes first.
    """
    counts = labels.counts
    n = counts.sum(1)
    pairs = n * (n - 1)
    differ = 1 - (counts * (counts - 1)).sum(1) / np.maximum(pairs, 1)
    at = np.flatnonzero((n > 1) & (differ > 0))
    order = at[np.lexsort((at, -n[at], -differ[at]))]
    return order, differ[order]
