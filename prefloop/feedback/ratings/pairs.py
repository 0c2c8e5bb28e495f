"""The log-likelihood of pairwise votes under three models of ties, with derivatives, summed over votes that are alike.

With d = θ_first - θ_second + features · γ, and one number κ for ties:

    bradley_terry   P(first) = σ(d); a tie is half a win for each              Bradley and Terry 1952; ties as arenas count them
    davidson        P(first), P(second), P(tie) ∝ e^{d/2}, e^{-d/2}, e^κ       Davidson 1970, ν = e^κ
    rao_kupper      P(first) = σ(d - η), P(second) = σ(-d - η), else a tie     Rao and Kupper 1967, η = ½ log(1 + e^κ)

All are concave in (θ, γ, κ) together: Davidson's is an exponential family; for Rao-Kupper, P(tie) = (e^{2η} - 1) σ(d - η) σ(-d - η)
with e^{2η} - 1 = e^κ, and log σ, concave and rising, of ±d - η(κ), concave, is concave. So Newton's method finds the one maximum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, log_expit

from prefloop.feedback.ratings.votes import BOTH_BAD, FIRST, SECOND, TIE, Floats, Ints, Votes

TieModel = Literal["bradley_terry", "davidson", "rao_kupper"]


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Log-likelihood of each row and its derivatives by d and κ; `[rows]` each."""

    value: Floats
    d: Floats
    dd: Floats
    k: Floats
    dk: Floats
    kk: Floats


def bradley_terry(d: Floats, kappa: float, outcome: Ints) -> Terms:
    """s log σ(d) + (1 - s) log σ(-d), where s is 1, 0 or, for a tie, ½. κ plays no part."""
    score = np.array([1.0, 0.0, 0.5])[outcome]
    p, nothing = expit(d), np.zeros_like(d)
    return Terms(score * d + log_expit(-d), score - p, -p * (1 - p), nothing, nothing, nothing)


def davidson(d: Floats, kappa: float, outcome: Ints) -> Terms:
    """log softmax of (d/2, -d/2, κ) at the outcome. Ties are likeliest between equals."""
    logits = np.stack([d / 2, -d / 2, np.full_like(d, kappa)])
    total = np.logaddexp(np.logaddexp(logits[0], logits[1]), logits[2])
    first, second, tie = np.exp(logits - total)
    slope = np.array([0.5, -0.5, 0.0])
    mean = (first - second) / 2
    return Terms(
        np.take_along_axis(logits, outcome[None], 0)[0] - total,
        slope[outcome] - mean,
        -((first + second) / 4 - mean**2),
        (outcome == TIE) - tie,
        mean * tie,
        -tie * (1 - tie),
    )


def rao_kupper(d: Floats, kappa: float, outcome: Ints) -> Terms:
    """log σ(d - η), log σ(-d - η), or for a tie κ plus both. A tie is said of differences too small to see."""
    eta, rate = 0.5 * float(np.logaddexp(0, kappa)), 0.5 * float(expit(kappa))
    bend = rate * float(expit(-kappa))  # η' and η''
    zero = np.zeros_like(d)
    value, d1, d2, k1, dk, k2 = zero.copy(), zero.copy(), zero.copy(), zero.copy(), zero.copy(), zero.copy()
    for sign, other in ((1.0, SECOND), (-1.0, FIRST)):
        counts = (outcome != other).astype(np.float64)  # this side's factor is in its win and in the tie
        x = sign * d - eta
        lost, spread = expit(-x), expit(x) * expit(-x)
        value += counts * log_expit(x)
        d1 += counts * sign * lost
        d2 -= counts * spread
        k1 -= counts * rate * lost
        dk += counts * sign * rate * spread
        k2 -= counts * (bend * lost + rate**2 * spread)
    tied = (outcome == TIE).astype(np.float64)
    return Terms(value + tied * kappa, d1, d2, k1 + tied, dk, k2)


TIE_MODELS: dict[str, Callable[[Floats, float, Ints], Terms]] = {
    "bradley_terry": bradley_terry,
    "davidson": davidson,
    "rao_kupper": rao_kupper,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairLikelihood:
    """Rows of votes that are alike, and their log-likelihood in parameters (θ of each model, γ of each feature, κ unless Bradley-Terry)."""

    models: int
    first: Ints
    second: Ints
    outcome: Ints
    """0, 1 or 2; both-bad is a tie here. `first`, `second` and `outcome` are `[rows]`."""
    features: Floats
    """`[rows, features]`"""
    ties: TieModel
    count: Floats
    """`[rows]` votes in each row."""
    weight: Floats
    """`[rows]` of one vote."""
    row: Ints
    """`[votes]` the row that each vote is in."""

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.models + self.features.shape[1] + (self.ties != "bradley_terry")

    def terms(self, parameters: Floats) -> Terms:
        """Of one vote of each row."""
        theta, gamma = (
            parameters[: self.models],
            parameters[self.models : self.models + self.features.shape[1]],
        )
        d = theta[self.first] - theta[self.second] + self.features @ gamma
        return TIE_MODELS[self.ties](d, float(parameters[-1]), self.outcome)

    def derivatives(self, parameters: Floats, mass: Floats) -> tuple[float, Floats, Floats]:
        """Value, gradient `[parameters]` and negative Hessian `[parameters, parameters]` of the sum of rows, each times its `mass`."""
        m, k = self.models, self.features.shape[1]
        terms = self.terms(parameters)
        gradient, curvature = np.zeros(self.size), np.zeros((self.size, self.size))
        push = mass * terms.d
        gradient[:m] = np.bincount(self.first, push, m) - np.bincount(self.second, push, m)
        bend = -mass * terms.dd
        off = np.bincount(self.first * m + self.second, bend, m * m).reshape(m, m)
        off += off.T
        curvature[:m, :m] = np.diag(off.sum(0)) - off
        if k:
            gradient[m : m + k] = push @ self.features
            curvature[m : m + k, m : m + k] = self.features.T @ (bend[:, None] * self.features)
            for at in range(k):
                self._border(curvature, m + at, bend * self.features[:, at])
        if self.ties != "bradley_terry":
            gradient[-1] = mass @ terms.k
            curvature[-1, -1] = -(mass @ terms.kk)
            cross = -mass * terms.dk
            self._border(curvature, self.size - 1, cross)
            curvature[-1, m : m + k] = curvature[m : m + k, -1] = cross @ self.features
        return float(mass @ terms.value), gradient, curvature

    def _border(self, curvature: Floats, at: int, cross: Floats) -> None:
        """Write the curvature between the models and parameter `at`."""
        m = self.models
        edge = np.bincount(self.first, cross, m) - np.bincount(self.second, cross, m)
        curvature[:m, at] = curvature[at, :m] = edge

    def scores(self, parameters: Floats) -> Floats:
        """`[rows, parameters]` gradient of the log-likelihood of one vote of each row, its weight not counted."""
        m, k = self.models, self.features.shape[1]
        terms = self.terms(parameters)
        scores = np.zeros((len(self.first), self.size))
        rows = np.arange(len(self.first))
        scores[rows, self.first] = terms.d
        scores[rows, self.second] = -terms.d
        scores[:, m : m + k] = terms.d[:, None] * self.features
        if self.ties != "bradley_terry":
            scores[:, -1] = terms.k
        return scores

    def beaten(self, mass: Floats) -> tuple[Ints, Ints]:
        """Who beat whom in rows with mass, a tie both ways round, as edges (winner, loser)."""
        there = mass > 0
        won = there & (self.outcome != SECOND)
        lost = there & (self.outcome != FIRST)
        return (
            np.concatenate([self.first[won], self.second[lost]]),
            np.concatenate([self.second[won], self.first[lost]]),
        )

    def skew(self, parameters: Floats, covariance: Floats, mass: Floats) -> Floats:
        """`[parameters]` half the third derivatives of the sum, each contracted with the covariance of the other two parameters."""
        m, k = self.models, self.features.shape[1]
        c, x, f, g = covariance, self.features, self.first, self.second
        mixed = x @ c[m : m + k]  # [rows, parameters]
        rows = np.arange(len(f))
        dd = c[f, f] + c[g, g] - 2 * c[f, g] + 2 * (mixed[rows, f] - mixed[rows, g])
        dd = dd + (mixed[:, m : m + k] * x).sum(1)
        d = parameters[f] - parameters[g] + x @ parameters[m : m + k]
        by_d = self._bent(d, parameters, 1.0, 0.0)
        push = by_d.dd * dd
        found = np.zeros(self.size)
        if self.ties != "bradley_terry":
            kk, dk = float(c[-1, -1]), c[f, -1] - c[g, -1] + mixed[:, -1]
            push = push + 2 * by_d.dk * dk + by_d.kk * kk
            by_k = self._bent(d, parameters, 0.0, 1.0)
            found[-1] = float(mass @ (by_d.dk * dd + 2 * by_k.dk * dk + by_k.kk * kk)) / 2
        push = mass * push / 2
        found[:m] = np.bincount(f, push, m) - np.bincount(g, push, m)
        found[m : m + k] = push @ x
        return found

    def _bent(self, d: Floats, parameters: Floats, by_d: float, by_kappa: float, step: float = 1e-4) -> Terms:
        """Central differences of the second derivatives, by d or by κ; the rest of the terms is 0."""
        kappa = float(parameters[-1])
        up, down = (
            TIE_MODELS[self.ties](d + sign * step * by_d, kappa + sign * step * by_kappa, self.outcome)
            for sign in (1, -1)
        )
        dd, dk, kk = ((getattr(up, at) - getattr(down, at)) / (2 * step) for at in ("dd", "dk", "kk"))
        nothing = np.zeros_like(d)
        return Terms(nothing, nothing, dd, nothing, dk, kk)

    def ties_are_bounded(self, mass: Floats) -> bool:
        """Whether κ has a finite maximum: there are ties, and votes for a side."""
        tied = (self.outcome == TIE)[mass > 0]
        return self.ties == "bradley_terry" or bool(tied.any() and not tied.all())

    def overlaps(self, label: Ints, clusters: int) -> Floats:
        """`[votes]` votes of the same cluster, those between the same two models as one, those that share one model as a quarter."""
        m = self.models
        first, second = self.first[self.row], self.second[self.row]

        def alike(key: Ints) -> tuple[Ints, Floats]:
            _, number = np.unique(key, return_inverse=True)
            return number, np.bincount(number).astype(np.float64)

        pair, pairs = alike((label * m + first) * m + second)
        end, ends = alike(np.concatenate([label * m + first, label * m + second]))
        at = ends[end]
        shared = at[: len(label)] + at[len(label) :] - 2 * pairs[pair]
        return pairs[pair] + shared / 4


def pair_likelihood(votes: Votes, ties: TieModel = "bradley_terry") -> PairLikelihood:
    """Votes that are alike in one row, whichever way round they were cast. Votes with features each have their own row."""
    if ties not in TIE_MODELS:
        raise ValueError(f"ties is {ties!r}; it must be one of {', '.join(TIE_MODELS)}")
    m = len(votes.names)
    turned = votes.first > votes.second
    first, second = np.where(turned, votes.second, votes.first), np.where(turned, votes.first, votes.second)
    outcome = np.where(votes.outcome == BOTH_BAD, TIE, votes.outcome)
    outcome = np.where(turned & (outcome != TIE), 1 - outcome, outcome)
    features = np.where(turned[:, None], -votes.features, votes.features)
    _, level = np.unique(votes.weight, return_inverse=True)
    key = ((level * m + first) * m + second) * 3 + outcome
    if votes.features.shape[1]:
        key = np.arange(len(votes))
    _, at, row, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    return PairLikelihood(
        models=m,
        first=first[at],
        second=second[at],
        outcome=outcome[at],
        features=features[at],
        ties=ties,
        count=count.astype(np.float64),
        weight=votes.weight[at],
        row=row,
    )
