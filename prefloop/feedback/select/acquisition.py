"""What a label of a pair would be worth, from numbers alone: of an ensemble's scores, a Bradley-Terry fit, a margin, or two judgements.

Each function gives one number a pair; more is worth more. σ(s_a - s_b) is the probability that a is preferred, for scores s in Bradley-Terry's unit
(a reward model's, or DPO's implicit rewards β log π/π_ref).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]


def disagreement(first: Floats, second: Floats) -> Floats:
    """`[pairs]` variance over an ensemble's members of P(first is preferred), from scores `[members, pairs]` (arXiv:1706.03741, section 2.2.4).

    Of probabilities, not of scores: members that are all sure agree, however large their scores are. Raises `ValueError` for one member.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"scores are {first.shape} and {second.shape}; both must be [members, pairs], with two members or more"
        )
    return expit(first - second).var(axis=0)


def uncertainty(margin: Floats) -> Floats:
    """`[pairs]` p(1 - p), the variance of a label with p = σ(margin): largest, ¼, where the margin is 0.

    With the margin of DPO's implicit rewards the pairs that a policy is least decided on are asked (arXiv:2402.09401). It cannot tell what the model
    does not know from what people do not agree on: both have p near ½.
    """
    p = expit(margin)
    return p * (1 - p)


def information_gain(differences: Floats, precision: Floats, parameters: Floats) -> Floats:
    """`[pairs]` what a label would tell of θ, in nats: ½ log(1 + p(1 - p) xᵀ Λ⁻¹ x), x of `differences` `[pairs, F]`.

    The gain in log-determinant of the posterior precision Λ `[F, F]` of a logistic model P = σ(x·θ) by one more row (Laplace's approximation, at
    the θ given; D-optimal design). For ratings of models x = e_i - e_j, and Λ is the curvature of the fit.
    """
    p = expit(differences @ parameters)
    spread = np.einsum("nf,nf->n", differences, np.linalg.solve(precision, differences.T).T)
    return 0.5 * np.log1p(p * (1 - p) * spread)


def most_informative(differences: Floats, precision: Floats, parameters: Floats, count: int) -> list[int]:
    """Pairs chosen one after the other for the most information, each with the earlier ones taken as labelled; of equals the first.

    Λ grows by p(1 - p) x xᵀ with every pair chosen, which does not depend on what the label will be, so pairs that tell the same are not all taken.
    """
    p = expit(differences @ parameters)
    weight = p * (1 - p)
    covariance = np.linalg.inv(precision)
    spread = np.einsum("nf,fg,ng->n", differences, covariance, differences)
    chosen: list[int] = []
    left = np.ones(len(differences), dtype=bool)
    for _ in range(min(count, len(differences))):
        at = int(np.argmax(np.where(left, weight * spread, -np.inf)))
        chosen.append(at)
        left[at] = False
        # Sherman and Morrison's formula, for the covariance and for every pair's spread at once.
        along = covariance @ differences[at]
        scale = weight[at] / (1 + weight[at] * spread[at])
        covariance -= scale * np.outer(along, along)
        spread = np.maximum(spread - scale * (differences @ along) ** 2, 0.0)
    return chosen


def conflict(people: Floats, judge: Floats) -> Floats:
    """`[pairs]` distance between how likely people and a judge find the first one better, 0 (the same) to 1 (the opposite)."""
    return np.abs(people - judge)


def ranked(worth: Floats, keys: Sequence[str]) -> list[int]:
    """Places from the highest worth to the lowest; of equals by key, so that the order they came in decides nothing. NaN comes last."""
    value = np.where(np.isnan(worth), -np.inf, worth)
    return sorted(range(len(value)), key=lambda at: (-value[at], keys[at]))
