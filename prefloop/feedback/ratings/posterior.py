"""Ratings with a prior whose width the votes choose, and intervals that hold with few votes.

Strengths of one league are taken as drawn from N(0, τ²), with a half-Cauchy prior on τ. For each τ of a grid the posterior of the
parameters is taken as Gaussian (Laplace, its mean corrected for skewness); the marginal likelihoods weigh the grid (integrated nested Laplace
approximation, Rue, Martino and Chopin 2009). So a model that won its only vote is not certain to be the best one, two models with no other evidence are
not far apart, and with many votes the likelihood alone speaks.

Votes that are not independent say less than they seem to. A vote in a cluster (a prompt, an annotator) with k votes' worth of the same question
counts 1 / (1 + ρ (k - 1)), Kish's design effect, with ρ estimated from how far the clusters' residuals add up instead of cancelling.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from scipy.special import expit, ndtr, ndtri, stdtr, stdtrit

from prefloop.feedback.ratings.fit import Fit, Likelihood, maximise, mean_zero
from prefloop.feedback.ratings.votes import Bools, Floats, Ints

SPREADS = np.geomspace(0.1, 6.4, 13)
"""Standard deviations of strengths that are tried; 0.1 is 17 points, 6.4 is 1112."""
SCALE = 3.0
"""Of the half-Cauchy prior on the spread: the prior's median."""
NUISANCE = 0.25
"""Precision of the prior on the tie parameter and on each coefficient of style: a standard deviation of 2."""
CORRELATION, PAIRS = 0.5, 3.0
"""Correlation of votes of one cluster before any is seen, and how many pairs of votes that counts for."""
Z2 = 3.84
BISECTIONS = 40


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posterior:
    """A mixture over τ. Each component is a normal distribution in two pieces: its maximum, its standard deviations below and above.

    With few votes a posterior is skewed: the likelihood of a model that never lost falls slowly upwards and fast downwards. With clusters few,
    the pieces are Student's t instead of normal.
    """

    modes: Floats
    """`[components, parameters]`"""
    shifts: Floats
    """`[components, parameters]` mean minus mode."""
    covariances: Floats
    """`[components, parameters, parameters]` inverse curvatures at the modes."""
    weights: Floats
    """`[components]`"""
    degrees: float
    """Of freedom; infinity for normal distributions."""

    @property
    def covariance(self) -> Floats:
        """`[parameters, parameters]` of the mixture, widened so that 1.96 standard deviations reach as far as Student's t does."""
        means = self.modes + self.shifts
        apart = means - self.weights @ means
        wide = (student_t(self.degrees, 0.975) / float(ndtri(0.975))) ** 2
        inside = np.einsum("s,sij->ij", self.weights * wide, self.covariances)
        # A two-piece distribution is wider along its shift by about twice the shift's square.
        inside += 2 * np.einsum("s,si,sj->ij", self.weights, self.shifts, self.shifts)
        return inside + np.einsum("s,si,sj->ij", self.weights, apart, apart)

    def contrasts(self, rows: Floats) -> "Contrasts":
        """Linear functions `[many, parameters]` of the parameters."""
        variance = np.einsum("ki,sij,kj->sk", rows, self.covariances, rows, optimize=True)
        return self._contrasts(self.modes @ rows.T, self.shifts @ rows.T, variance)

    def differences(self, first: Ints, second: Ints) -> "Contrasts":
        """θ of `first` minus θ of `second`, `[many]` each."""
        block = self.covariances
        variance = block[:, first, first] + block[:, second, second] - 2 * block[:, first, second]
        return self._contrasts(
            self.modes[:, first] - self.modes[:, second],
            self.shifts[:, first] - self.shifts[:, second],
            variance,
        )

    def _contrasts(self, mode: Floats, shift: Floats, variance: Floats) -> "Contrasts":
        narrow = np.sqrt(np.maximum(variance, 1e-24))
        wide = narrow + math.sqrt(math.pi / 2) * np.abs(shift)  # so that the mean is the mode plus the shift
        return Contrasts(
            mode=mode,
            below=np.where(shift > 0, narrow, wide),
            above=np.where(shift > 0, wide, narrow),
            weights=self.weights,
            degrees=self.degrees,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contrasts:
    """Quantities with a posterior, `[components, many]` each: modes, and standard deviations below and above them."""

    mode: Floats
    below: Floats
    above: Floats
    weights: Floats
    """`[components]`"""
    degrees: float

    def quantile(self, share: float) -> Floats:
        """`[many]`, by bisection."""
        reach = abs(student_t(self.degrees, min(share, 1 - share) / 2))
        low, high = (self.mode - reach * self.below).min(0), (self.mode + reach * self.above).max(0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            under = self._share_below(middle) < share
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return (low + high) / 2

    def chances(self) -> Floats:
        """`[many]` mean of σ of the quantity (MacKay's approximation, 1992); of a single component, which is a maximum, σ itself."""
        if len(self.weights) == 1:
            return expit(self.mode[0])
        apart = self.above - self.below
        mean = self.mode + math.sqrt(2 / math.pi) * apart
        variance = (1 - 2 / math.pi) * apart**2 + self.above * self.below
        return self.weights @ expit(mean / np.sqrt(1 + math.pi / 8 * variance))

    def _share_below(self, x: Floats) -> Floats:
        lower = x < self.mode
        side = np.where(lower, self.below, self.above)
        tail = self._cumulative(-np.abs(x - self.mode) / side) * 2 * side / (self.below + self.above)
        return self.weights @ np.where(lower, tail, 1 - tail)

    def _cumulative(self, z: Floats) -> Floats:
        return stdtr(self.degrees, z) if math.isfinite(self.degrees) else ndtr(z)


def student_t(degrees: float, share: float) -> float:
    """A quantile; of the normal distribution for infinitely many degrees."""
    return float(stdtrit(degrees, share) if math.isfinite(degrees) else ndtri(share))


def posterior(likelihood: Likelihood, mass: Floats, *, degrees: float = np.inf) -> Posterior:
    """Of all parameters, given rows with these masses (votes' weights after the design effect)."""
    m, size = likelihood.models, likelihood.size
    modes, shifts, covariances, heights = [], [], [], []
    start = np.zeros(size)
    for spread in SPREADS:
        prior = np.full(size, NUISANCE)
        prior[:m] = 1 / spread**2
        start, curvature = maximise(likelihood, mass, prior=prior, start=start)
        value = likelihood.derivatives(start, mass)[0] - 0.5 * float(prior @ start**2)
        factor = np.linalg.cholesky(curvature)
        # Half-Cauchy in τ, times τ for a grid that is even in log τ.
        density = np.log(spread / (SCALE**2 + spread**2)) + 0.5 * float(np.log(prior).sum())
        heights.append(value + density - float(np.log(np.diag(factor)).sum()))
        covariance = cho_solve((factor, True), np.eye(size))
        modes.append(start)
        shifts.append(covariance @ likelihood.skew(start, covariance, mass))
        covariances.append(covariance)
    weights = np.exp(np.array(heights) - max(heights))
    kept = weights > 1e-5 * weights.sum()
    return Posterior(
        modes=np.array(modes)[kept],
        shifts=np.array(shifts)[kept],
        covariances=np.array(covariances)[kept],
        weights=weights[kept] / weights[kept].sum(),
        degrees=degrees,
    )


def given_prior(fit: Fit, mass: Floats, *, degrees: float = np.inf) -> Posterior:
    """One Gaussian at a fit with a prior that the caller chose (0 for none), with the curvature of rows with these masses."""
    size = fit.likelihood.size
    _, _, curvature = fit.likelihood.derivatives(fit.parameters, mass)
    curvature = curvature + fit.prior * np.eye(size)
    if fit.prior == 0:
        curvature += mean_zero(fit.likelihood)
    covariance = cho_solve(cho_factor(curvature), np.eye(size))
    return Posterior(
        modes=fit.parameters[None],
        shifts=(covariance @ fit.likelihood.skew(fit.parameters, covariance, mass))[None],
        covariances=covariance[None],
        weights=np.ones(1),
        degrees=degrees,
    )


def effective_mass(
    fit: Fit, labels: list[Ints], *, ties: float, counted: Bools | None = None
) -> tuple[Floats, float]:
    """`[rows]` what the votes count after the design effect of their clusters, and the degrees of freedom.

    `labels` number the cluster of each vote, one array for each way of keeping votes together. `ties` is the share of comparisons that are
    ties, where a tie counts as half a win: half a win each varies less than a coin does, so such votes count for more, shrunk so that
    nothing but ties is not certainty. Unequal weights count as Kish's number of votes, of which the two sides of a soft preference, one of them
    `counted`, are one.
    """
    likelihood = fit.likelihood
    weight = likelihood.weight[likelihood.row]
    votes = len(weight)
    one = weight if counted is None else weight[counted]
    # A soft preference's two weights belong to one vote, whose weight is their sum.
    squares = (one**2).sum() * (weight.sum() / one.sum()) ** 2
    factor = np.full(votes, weight.sum() / squares)
    factor /= 1 - ties * votes / (votes + Z2)
    degrees, inflation = np.inf, np.ones(votes)
    for label in labels:
        number = np.unique(label, return_inverse=True)[1]
        clusters = int(number.max(initial=-1)) + 1
        if clusters == votes:
            continue
        inflation += _inflation(fit, number, clusters)
        degrees = min(degrees, max(1.0, clusters - 1.0))
    mass: Floats = np.bincount(likelihood.row, weight * factor / inflation, len(likelihood.count)).astype(
        np.float64
    )
    return mass, degrees


def _inflation(fit: Fit, label: Ints, clusters: int) -> Floats:
    """`[votes]` ρ (k - 1): by how much a vote's variance grows because its cluster's votes are alike."""
    likelihood = fit.likelihood
    same = np.maximum(likelihood.overlaps(label, clusters) - 1, 0.0)
    pairs = float(same.sum()) / 2
    if pairs <= 0:
        return same
    scores = likelihood.scores(fit.parameters) * likelihood.weight[:, None]
    factor = cho_factor(fit.curvature)
    squares = (scores * cho_solve(factor, scores.T).T).sum(1)[likelihood.row]
    members = csr_array((np.ones(len(label)), (label, likelihood.row)), shape=(clusters, len(scores)))
    sums = members @ scores
    together = float((sums * cho_solve(factor, sums.T).T).sum()) * clusters / max(1, clusters - 1)
    alone, weighed = float(squares.sum()), float(squares @ same)
    found = (together - alone) / weighed if weighed > 0 else 1.0
    found = float(np.clip(found, 0.0, 1.0)) if clusters > 1 else 1.0
    return same * (found * pairs + CORRELATION * PAIRS) / (pairs + PAIRS)
