"""Whether the probabilities of `label agreement`'s annotator models are right as often as they say, and their intervals hold.

    OMP_NUM_THREADS=1 python -m bench.annotators

Six simulated annotators, whose accuracies are drawn evenly from a range for each simulation, use two of four answers; every item has as many labels.
"too sure" is the mean probability of the likeliest answer minus how often that one is right, in percentage points.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefloop.feedback.agreement import MISSING, AnnotatorModel, Labels, fit_annotators, make_labels

PEOPLE = 6
CATEGORIES = ("a", "b", "tie", "both_bad")
USUAL, WEAK, STRONG = (0.6, 0.95), (0.5, 0.8), (0.8, 0.98)
DESIGNS = (
    *((USUAL, items, each) for items in (20, 60, 150) for each in (2, 3, 4)),
    *((people, items, each) for people in (WEAK, STRONG) for items, each in ((20, 2), (60, 3), (150, 4))),
)
"""Accuracies, items, and labels of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Over all simulations."""

    too_sure: float
    held: float
    """How often the 95 % interval of an annotator's share of right answers holds the true one."""
    error: float
    """Mean of that share minus the true one."""


def crowd(
    random: np.random.Generator, items: int, each: int, accuracies: tuple[float, float]
) -> tuple[Labels, NDArray[np.float64], NDArray[np.intp]]:
    """Labels of `items`, `each` from so many of the annotators; their accuracies, and the truth."""
    accuracy, truth = random.uniform(*accuracies, PEOPLE), random.integers(2, size=items)
    asked = random.permuted(np.tile(np.arange(PEOPLE) < each, (items, 1)), axis=1)
    right = random.random(asked.shape) < accuracy
    table = np.where(asked, np.where(right, truth[:, None], 1 - truth[:, None]), MISSING)
    return make_labels(table, CATEGORIES), accuracy, truth


def measure(
    model: AnnotatorModel,
    items: int,
    each: int,
    accuracies: tuple[float, float],
    *,
    times: int,
    sweeps: int = 600,
    seed: int = 0,
) -> Found:
    """So many simulations. Fewer sweeps than `fit_annotators` makes by default add noise and take less time."""
    random = np.random.default_rng(seed)
    said, right, held, errors = [], [], [], []
    for _ in range(times):
        labels, accuracy, truth = crowd(random, items, each, accuracies)
        found = fit_annotators(labels, model, sweeps=sweeps)
        said += found.posterior.max(1).tolist()
        right += (found.posterior.argmax(1) == truth).tolist()
        value, low, high = found.reliability
        held += ((low <= accuracy) & (accuracy <= high)).tolist()
        errors += (value - accuracy).tolist()
    return Found(
        too_sure=float(np.mean(said) - np.mean(right)),
        held=float(np.mean(held)),
        error=float(np.mean(errors)),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of docs/agreement.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=2400, help="items in each cell, over all simulations")
    given = parser.parse_args(arguments)
    print("| accuracies | items | labels each | `one_coin`: too sure | intervals hold | `dawid_skene`: too sure | intervals hold |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for accuracies, items, each in DESIGNS:
        cells = [f"{accuracies[0]} to {accuracies[1]}", str(items), str(each)]
        for model in ("one_coin", "dawid_skene"):
            found = measure(model, items, each, accuracies, times=max(40, given.items // items))
            cells += [f"{100 * found.too_sure:+.1f}", f"{100 * found.held:.0f} %"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
