"""Maximum likelihood with a weak prior, by Newton's method, and what the comparisons cannot tell.

Strengths θ are log-odds; 400/ln 10 of them make the familiar scale on which 400 points are odds of ten to one.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefloop.errors import InputError
from prefloop.feedback.ratings.votes import Floats, Ints

POINTS = 400 / math.log(10)
"""Rating points of one unit of θ."""
PRIOR = 0.01
"""Precision of the Gaussian prior on every parameter: a standard deviation of 10, 4343 points. It keeps undefeated models finite and is
otherwise not felt: it pulls as a 25th of one vote between equals does."""
WITH_PRIOR = "let the votes choose the prior (the default), or set a precision above 0"
STEPS = 100
TOLERANCE = 1e-7


class Likelihood(Protocol):
    """A log-likelihood that is concave in its parameters, the strengths of the models first; a row stands for votes that are alike."""

    @property
    def models(self) -> int:
        """How many strengths there are."""
        ...

    @property
    def size(self) -> int:
        """How many parameters there are."""
        ...

    @property
    def count(self) -> Floats:
        """`[rows]` votes in each row."""
        ...

    @property
    def weight(self) -> Floats:
        """`[rows]` weight of each vote of the row."""
        ...

    @property
    def row(self) -> Ints:
        """`[votes]` the row that each vote is in."""
        ...

    def derivatives(self, parameters: Floats, mass: Floats) -> tuple[float, Floats, Floats]:
        """Value, gradient and negative Hessian of the sum over rows, each times its mass."""
        ...

    def scores(self, parameters: Floats) -> Floats:
        """`[rows, parameters]` gradient of one vote of each row."""
        ...

    def beaten(self, mass: Floats) -> tuple[Ints, Ints]:
        """Edges (winner, loser) of the rows with mass, ties both ways round."""
        ...

    def skew(self, parameters: Floats, covariance: Floats, mass: Floats) -> Floats:
        """`[parameters]` half the third derivatives, each contracted with the covariance of the other two parameters."""
        ...

    def ties_are_bounded(self, mass: Floats) -> bool:
        """Whether the tie parameter, if there is one, has a finite maximum."""
        ...

    def overlaps(self, label: Ints, clusters: int) -> Floats:
        """`[votes]` how many votes of the same cluster ask what this one asks, itself among them: parts where they share some models."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fit:
    """The parameters that maximise the penalised likelihood."""

    likelihood: Likelihood
    parameters: Floats
    """`[parameters]`; the strengths of each connected group have mean 0."""
    curvature: Floats
    """`[parameters, parameters]` negative Hessian there, the prior's precision included."""
    prior: float

    @property
    def strengths(self) -> Floats:
        """`[models]` θ."""
        return self.parameters[: self.likelihood.models]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Connection:
    """What the comparisons connect.

    Models of different `group` were never compared, not even through others: nothing is known of their difference. Within a group,
    models of different `core` were compared, but all votes went one way: their difference has no finite maximum of the likelihood
    (Ford 1957; Hunter 2004), and what is reported is held by the prior.
    """

    group: Ints
    """`[models]` connected part of the graph of comparisons; the largest is 0."""
    core: Ints
    """`[models]` strongly connected part of the graph of wins."""

    @property
    def groups(self) -> int:
        """How many parts there are; 1 if all models can be compared."""
        return int(self.group.max(initial=-1)) + 1

    @property
    def held_by_prior(self) -> bool:
        """Whether some difference within a group is finite only because of the prior."""
        return int(self.core.max(initial=-1)) + 1 > self.groups


def fit(likelihood: Likelihood, *, prior: float = PRIOR) -> Fit:
    """The maximum of the log-likelihood minus prior/2 times the sum of squared parameters.

    Raises `ValueError` for a negative prior, and for a prior of 0 if the maximum is not finite or not unique.
    """
    if not (math.isfinite(prior) and prior >= 0):
        raise ValueError(f"prior is {prior}; it must be a precision, 0 or more")
    mass = likelihood.count * likelihood.weight
    if prior == 0:
        if connections(likelihood, mass).held_by_prior:
            raise InputError(
                "without a prior these votes have no finite strengths: some models won or lost every comparison with the rest; "
                f"{WITH_PRIOR}"
            )
        if not likelihood.ties_are_bounded(mass):
            raise InputError(
                "without a prior the tie parameter of these votes is not finite: it needs both ties and votes for a side; "
                f"{WITH_PRIOR}, or use bradley_terry"
            )
    try:
        parameters, curvature = maximise(likelihood, mass, prior=prior, start=np.zeros(likelihood.size))
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        if prior > 0:
            raise
        raise InputError(
            f"without a prior these votes have no finite maximum: a feature of style tells every winner, or says the same as the models do; {WITH_PRIOR}"
        ) from error
    return Fit(likelihood=likelihood, parameters=parameters, curvature=curvature, prior=prior)


def maximise(
    likelihood: Likelihood,
    mass: Floats,
    *,
    prior: float | Floats,
    start: Floats,
    tolerance: float = TOLERANCE,
) -> tuple[Floats, Floats]:
    """Newton's method with steps halved until the value rises; parameters and negative Hessian at the maximum.

    `prior` is the precision of a Gaussian prior on every parameter, or `[parameters]` one for each.

    Converged when a step changes no parameter by more than `tolerance`: Newton's error is then of the order of its square.
    """
    # The likelihood does not change when all strengths rise together. The prior decides that; without one, this does.
    ridge = np.diag(np.broadcast_to(np.asarray(prior, np.float64), likelihood.size))
    if isinstance(prior, float | int) and prior == 0:
        ridge = mean_zero(likelihood)

    def penalised(parameters: Floats) -> tuple[float, Floats, Floats]:
        value, gradient, curvature = likelihood.derivatives(parameters, mass)
        pulled = ridge @ parameters
        return value - 0.5 * float(parameters @ pulled), gradient - pulled, curvature + ridge

    parameters = start
    value, gradient, curvature = penalised(parameters)
    for _ in range(STEPS):
        step = cho_solve(cho_factor(curvature, check_finite=False), gradient, check_finite=False)
        size = float(np.abs(step).max(initial=0.0))
        scale = 1.0
        while True:
            candidate = parameters + scale * step
            new = penalised(candidate)
            # Rounding may lower the value by a hair at the maximum itself.
            if new[0] >= value - 1e-12 * (1 + abs(value)) or scale * size < tolerance:
                break
            scale /= 2
        parameters, (value, gradient, curvature) = candidate, new
        if scale * size < tolerance:
            return parameters, curvature
    raise ArithmeticError(f"Newton's method did not converge in {STEPS} steps; please report the votes")


def mean_zero(likelihood: Likelihood) -> Floats:
    """`[parameters, parameters]` a penalty that makes the strengths of each group sum to 0 and changes nothing else."""
    group = connections(likelihood).group
    same = group[:, None] == group
    level = np.zeros((likelihood.size, likelihood.size))
    level[: likelihood.models, : likelihood.models] = same / same.sum(1)
    return level


def connections(likelihood: Likelihood, mass: Floats | None = None) -> Connection:
    """What the comparisons with mass (all, if not given) connect."""
    m = likelihood.models
    winner, loser = likelihood.beaten(likelihood.count * likelihood.weight if mass is None else mass)
    graph = coo_array((np.ones(len(winner)), (winner, loser)), shape=(m, m)).tocsr()
    _, group = connected_components(graph, directed=True, connection="weak")
    _, core = connected_components(graph, directed=True, connection="strong")
    return Connection(group=_largest_first(group), core=_largest_first(core))


def _largest_first(labels: Ints) -> Ints:
    """The labels renumbered by size, and among equals by first appearance, so that they do not depend on the library."""
    _, first, count = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -count))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[labels]
