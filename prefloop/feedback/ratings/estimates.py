"""Estimates of all parameters with their intervals: by the posterior, or by the sandwich or the bootstrap about the maximum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from prefloop.errors import InputError
from prefloop.feedback.ratings.fit import PRIOR, Connection, Likelihood, fit
from prefloop.feedback.ratings.posterior import effective_mass, given_prior, posterior, student_t
from prefloop.feedback.ratings.uncertainty import (
    Z95,
    Clustering,
    bootstrap,
    percentile_interval,
    sandwich,
    win_probabilities,
)
from prefloop.feedback.ratings.votes import Bools, Floats, Ints

Intervals = Literal["posterior", "sandwich", "bootstrap"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """How the bootstrap draws clusters of votes."""

    resamples: int = 200
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rated:
    """What is rated."""

    names: Sequence[str]
    likelihood: Likelihood
    connection: Connection
    prompt: Ints
    """`[observations]` the prompt of each."""
    annotator: Ints
    """`[observations]` who judged it."""

    def kept(self, clusters: Clustering) -> dict[str, Ints]:
        """What observations are kept together by."""
        labels = {"prompt": self.prompt, "annotator": self.annotator}
        return {name: label for name, label in labels.items() if clusters in (name, "both")}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Estimates:
    """On the scale of θ."""

    centre: Floats
    """`[parameters]`, strengths relative to the anchor or to their group's average."""
    low: Floats
    high: Floats
    strengths: Floats
    """`[models]`"""
    covariance: Floats
    """`[models, models]` of the strengths, for ranks."""
    probabilities: tuple[Floats, Floats, Floats]
    """`[models, models]` value, low and high."""
    left_out: int = 0
    """Resamples."""


def by_posterior(
    rated: Rated,
    *,
    prior: float | None,
    anchor: str,
    clusters: Clustering,
    tied: float,
    counted: Bools,
) -> Estimates:
    """The posterior, whose intervals hold with few votes too. `tied` is the share of ties, `counted` says which observations are counted."""
    likelihood, kept = rated.likelihood, list(rated.kept(clusters).values())
    m = likelihood.models
    # Residuals are those of strengths drawn together: strengths fitted to few votes leave none.
    fitted = fit(likelihood, prior=1.0 if prior is None else prior)
    mass, degrees = effective_mass(fitted, kept, ties=tied, counted=counted)
    drawn = (
        posterior(likelihood, mass, degrees=degrees)
        if prior is None
        else given_prior(fitted, mass, degrees=degrees)
    )
    relative = _relative(rated, anchor)
    ratings = drawn.contrasts(relative)
    first, second = np.triu_indices(m, 1)
    gaps = drawn.differences(first, second)
    value, low, high = (np.full((m, m), 0.5) for _ in range(3))
    value[first, second], low[first, second], high[first, second] = (
        gaps.chances(),
        expit(gaps.quantile(0.025)),
        expit(gaps.quantile(0.975)),
    )
    value[second, first], low[second, first], high[second, first] = (
        1 - bound[first, second] for bound in (value, high, low)
    )
    # The maximum itself where the caller asked for one; of a mixture, what the truth is as likely above as below.
    centre = ratings.quantile(0.5) if prior is None else relative @ fitted.parameters
    return Estimates(
        centre=centre,
        low=ratings.quantile(0.025),
        high=ratings.quantile(0.975),
        strengths=centre[:m],
        covariance=drawn.covariance[:m, :m],
        probabilities=(value, low, high),
    )


def _relative(rated: Rated, anchor: str) -> Floats:
    """`[parameters, parameters]` takes the anchor's strength from those of its group, and from those of other groups their average."""
    likelihood, connection = rated.likelihood, rated.connection
    m = likelihood.models
    same = (connection.group[:, None] == connection.group).astype(np.float64)
    taken = same / same.sum(1)
    if anchor:
        at = list(rated.names).index(anchor)
        its = connection.group == connection.group[at]
        taken[its] = 0.0
        taken[its, at] = 1.0
    relative = np.eye(likelihood.size)
    relative[:m, :m] -= taken
    return relative


def by_large_sample(
    rated: Rated,
    *,
    prior: float | None,
    anchor: str,
    clusters: Clustering,
    resampling: Resampling | None,
) -> Estimates:
    """Sandwich, or bootstrap by `resampling`, about the maximum: right for many votes, and blind to what votes that all agree leave open."""
    m = rated.likelihood.models
    fitted = fit(rated.likelihood, prior=PRIOR if prior is None else prior)
    relative = _relative(rated, anchor)
    centre, left_out = relative @ fitted.parameters, 0
    if resampling is None:
        covariance = sandwich(fitted, clusters, prompt=rated.prompt, annotator=rated.annotator)
        few = [len(np.unique(label)) - 1 for label in rated.kept(clusters).values()]
        covariance = covariance * (student_t(max(1, min(few, default=np.inf)), 0.975) / Z95) ** 2
        reach = Z95 * np.sqrt(np.maximum(np.diag(relative @ covariance @ relative.T), 0))
        low, high = centre - reach, centre + reach
    else:
        resamples = resampling.resamples
        drawn = bootstrap(
            fitted,
            clusters,
            resamples=resamples,
            seed=resampling.seed,
            prompt=rated.prompt,
            annotator=rated.annotator,
        )
        if len(drawn.draws) < 2:
            raise InputError(
                f"in {drawn.left_out} of {resamples} resamples the models fall apart, so there is no bootstrap interval; "
                "collect more votes, or use intervals posterior"
            )
        low, high = percentile_interval(drawn.draws @ relative.T)
        covariance, left_out = np.cov(drawn.draws.T), drawn.left_out
    return Estimates(
        centre=centre,
        low=low,
        high=high,
        strengths=fitted.strengths,
        covariance=covariance[:m, :m],
        probabilities=win_probabilities(fitted.strengths, covariance[:m, :m]),
        left_out=left_out,
    )
