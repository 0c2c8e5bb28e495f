"""Curves of reward against the square root of KL: their points, what is read from them, and how they are drawn."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from prefloop.evaluation.curves import Series
from prefloop.studies.letters import Letters, expected, kl
from prefloop.studies.study import Numbers, StudyResults

CurvePoint = Mapping[str, float]
"""`d`, the square root of KL to where a policy started; `gold`, the true reward; `proxy`, the reward model's score."""


def point_of(
    world: Letters,
    scores: Float[Tensor, "P S"],
    p: Float[Tensor, "P S"],
    start: Float[Tensor, "P S"] | None = None,
) -> CurvePoint:
    """A policy's point. From a `start` that is not the reference, rewards are gains over that of the start."""
    at = world.probabilities if start is None else start
    gold, proxy = (0.0, 0.0) if start is None else (expected(start, world.gold), expected(start, scores))
    return {
        "d": max(0.0, kl(p, at)) ** 0.5,
        "gold": expected(p, world.gold) - gold,
        "proxy": expected(p, scores) - proxy,
    }


def reward_at(curve: str, name: str, d: float) -> Callable[[Numbers], float]:
    """A measure: `gold`, `proxy` or their `gap` at a √KL, on straight lines from the start on; NaN beyond the furthest point.

    A policy in training may come back to a KL. It is read where it first got there: only points further than all before them count.
    """

    def measure(numbers: Numbers) -> float:
        x, y = [0.0], [0.0]
        for point in numbers[curve]:
            if point["d"] > x[-1]:
                x.append(point["d"])
                y.append(point["proxy"] - point["gold"] if name == "gap" else point[name])
        return float(np.interp(d, x, y)) if d <= x[-1] else float("nan")

    return measure


def peak(curve: str, name: str) -> Callable[[Numbers], float]:
    """A measure: a number of the curve's highest point."""
    return lambda numbers: max(numbers[curve], key=lambda point: point["gold"])[name]


def last(name: str) -> Callable[[Numbers], float]:
    """A measure: a number of RL's last point."""
    return lambda numbers: numbers["rl"][-1][name]


def line(
    results: StudyResults, cell: str, curve: str, name: str, *, grid: Sequence[float], label: str, slot: int
) -> Series:
    """The mean over seeds of a reward at each √KL of a grid that begins at 0, with its interval; it ends where the first seed does."""
    found = [results.mean(cell, reward_at(curve, name, d)) for d in grid]
    whole = [one for one in found if one.n == len(results.numbers[cell])]  # else it is of other seeds
    return Series(
        label=label,
        x=grid[: len(whole)],
        y=[one.value for one in whole],
        low=[one.low for one in whole],
        high=[one.high for one in whole],
        slot=slot,
    )
