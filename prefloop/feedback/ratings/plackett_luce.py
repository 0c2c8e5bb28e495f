"""Plackett-Luce: the log-likelihood of rankings of any number of models, ties and models left out allowed.

    P(1 ≻ 2 ≻ ... ≻ K) = Π_k e^{θ_k} / Σ_{j ≥ k} e^{θ_j}                       Plackett 1975; Luce 1959; of pairs it is Bradley-Terry

A tie counts as every order of the tied models equally: the mean log-likelihood over the g! orders of a group of g. In those orders each
set S of the group is equally often what is left of it, so the mean is a sum over sets, not over orders:

    Σ_{i in group} θ_i - Σ_{S of the group, not empty} log(Σ_{j in S or worse} e^{θ_j}) / binomial(g, |S|)

Of two tied models alone that is half a win for each, as in `pairs`. It is concave, as a mean of concave functions.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from prefloop.feedback.ratings.votes import Floats, Ints, Rankings

MOST_TIED = 10
"""Models in one tied group; its sets are 2 to that power."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RankingLikelihood:
    """Rankings as choices from sets, and their log-likelihood in the models' θ. Rankings that are alike are one row."""

    models: int
    placed: Floats
    """`[rows, models]` what is linear in θ: 1 for each model placed where there was a choice."""
    members: Ints
    """`[choices, K]` models to choose from, padded with `models`."""
    share: Floats
    """`[choices]` how much the choice counts."""
    ranking: Ints
    """`[choices]` the row it is of."""
    count: Floats
    """`[rows]` rankings in each row."""
    weight: Floats
    """`[rows]` of one ranking."""
    row: Ints
    """`[rankings]` the row that each ranking is in."""
    better: tuple[Ints, Ints, Ints]
    """Edges (row, better model, worse model), tied ones both ways round."""

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.models

    def _chances(self, parameters: Floats) -> tuple[Floats, Floats]:
        """`[choices]` log of the sum over each set, and `[choices, K]` each member's share of it."""
        theta = np.append(parameters, -np.inf)[self.members]
        top = theta.max(1)
        weights = np.exp(theta - top[:, None])
        total = weights.sum(1)
        return top + np.log(total), weights / total[:, None]

    def derivatives(self, parameters: Floats, mass: Floats) -> tuple[float, Floats, Floats]:
        """Value, gradient `[models]` and negative Hessian `[models, models]` of the sum of rows, each times its `mass`."""
        m, width = self.models, self.members.shape[1]
        totals, chances = self._chances(parameters)
        share = self.share * mass[self.ranking]
        linear = mass @ self.placed
        expected = share[:, None] * chances
        mean = np.bincount(self.members.ravel(), expected.ravel(), m + 1)[:m]
        curvature: Floats = np.diag(mean).astype(np.float64)
        for a in range(width):
            for b in range(width):
                at = self.members[:, a] * (m + 1) + self.members[:, b]
                both = np.bincount(at, expected[:, a] * chances[:, b], (m + 1) ** 2)
                curvature -= both.reshape(m + 1, m + 1)[:m, :m]
        return float(linear @ parameters - share @ totals), linear - mean, curvature

    def scores(self, parameters: Floats) -> Floats:
        """`[rows, models]` gradient of the log-likelihood of one ranking of each row, its weight not counted."""
        m = self.models
        _, chances = self._chances(parameters)
        at = self.ranking[:, None] * (m + 1) + self.members
        expected = np.bincount(
            at.ravel(), (self.share[:, None] * chances).ravel(), len(self.placed) * (m + 1)
        )
        return self.placed - expected.reshape(-1, m + 1)[:, :m]

    def beaten(self, mass: Floats) -> tuple[Ints, Ints]:
        """Who stood above whom in rankings with mass, tied ones both ways round, as edges (better, worse)."""
        ranking, better, worse = self.better
        there = mass[ranking] > 0
        return better[there], worse[there]

    def skew(self, parameters: Floats, covariance: Floats, mass: Floats) -> Floats:
        """`[models]` half the third derivatives of the sum, each contracted with the covariance of the other two strengths.

        A choice's third derivatives are the third cumulants of its chances p, with the sign turned: in direction i they contract to
        p_i (v_i - Σ_j p_j v_j), where v_i = (e_i - p)' Σ (e_i - p).
        """
        m = self.models
        _, p = self._chances(parameters)
        wide = np.zeros((m + 1, m + 1))
        wide[:m, :m] = covariance
        block = wide[self.members[:, :, None], self.members[:, None, :]]
        mean = np.einsum("cij,cj->ci", block, p)
        v = np.einsum("cii->ci", block) - 2 * mean + (mean * p).sum(1, keepdims=True)
        pulled = p * (v - (p * v).sum(1, keepdims=True))
        share = self.share * mass[self.ranking]
        found = np.bincount(self.members.ravel(), (share[:, None] * pulled).ravel(), m + 1)[:m]
        return -found.astype(np.float64) / 2

    def ties_are_bounded(self, mass: Floats) -> bool:
        """There is no tie parameter."""
        return True

    def overlaps(self, label: Ints, clusters: int) -> Floats:
        """`[rankings]` tr(C_v Σ_w C_w) / (K_v - 1) over the rankings w of the cluster, C = I - 11'/K on a ranking's K models.

        For votes between two models this is 1 for the same two and a quarter for one in common.
        """
        there = np.zeros((len(self.placed), self.models + 1))
        np.add.at(there, (self.ranking[:, None], self.members), 1.0)
        models = (there[:, : self.models] > 0).astype(np.float64)
        size = models.sum(1)
        found = np.empty(len(label))
        ends = np.cumsum(np.bincount(label, minlength=clusters))
        for votes in np.split(np.argsort(label, kind="stable"), ends[:-1]):
            rows = self.row[votes]
            shared = models[rows] @ models[rows].T
            k = size[rows]
            trace = shared * (1 - 1 / k[:, None] - 1 / k) + shared**2 / (k[:, None] * k)
            found[votes] = trace.sum(1) / (k - 1)
        return found


def ranking_likelihood(rankings: Rankings) -> RankingLikelihood:
    """Rankings as choices. Raises `ValueError` for more than `MOST_TIED` models tied in one group."""
    m, choices, edges = len(rankings.names), [], []
    rows: dict[tuple[tuple[tuple[int, ...], ...], float], int] = {}
    row = np.array(
        [
            rows.setdefault((tuple(map(_in_order, groups)), weight), len(rows))
            for groups, weight in zip(rankings.groups, rankings.weight.tolist(), strict=True)
        ],
        np.intp,
    )
    placed = np.zeros((len(rows), m))
    for (groups, _), at in rows.items():
        left = tuple(model for group in groups for model in group)
        for group in groups:
            left = left[len(group) :]
            if len(group) > MOST_TIED:
                raise ValueError(
                    f"a ranking ties {len(group)} models; at most {MOST_TIED} can be tied: split the group or leave it out"
                )
            if len(group) + len(left) == 1:
                continue  # the last one is no choice
            placed[at, list(group)] = 1.0
            for size in range(1, len(group) + 1):
                if size + len(left) == 1:
                    # Whoever is last of the last group is no choice either: log Σ is θ itself.
                    placed[at, list(group)] -= 1 / len(group)
                    continue
                share = 1 / comb(len(group), size)
                choices += [(at, (*some, *left), share) for some in combinations(group, size)]
            edges += [(at, a, b) for a in group for b in (*left, *(other for other in group if other != a))]
    width = max((len(members) for _, members, _ in choices), default=1)
    members = np.full((len(choices), width), m, np.intp)
    for at, (_, some, _) in enumerate(choices):
        members[at, : len(some)] = some
    sides = np.array(edges, np.intp).reshape(-1, 3)
    return RankingLikelihood(
        models=m,
        placed=placed,
        members=members,
        share=np.array([share for _, _, share in choices]),
        ranking=np.array([at for at, _, _ in choices], np.intp),
        count=np.bincount(row, minlength=len(rows)).astype(np.float64),
        weight=np.array([weight for _, weight in rows]),
        row=row,
        better=(sides[:, 0], sides[:, 1], sides[:, 2]),
    )


def _in_order(group: tuple[int, ...]) -> tuple[int, ...]:
    return group if len(group) == 1 else tuple(sorted(group))
