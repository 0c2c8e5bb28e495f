"""How far fitted strengths can be trusted: the sandwich, the bootstrap, ranks and win probabilities.

Votes on one prompt, and votes of one annotator, are not independent. `clusters` says which are kept together: `vote` (none), `prompt`,
`annotator`, or `both`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from scipy.special import expit, ndtri

from prefloop.feedback.ratings.fit import Fit, connections, maximise
from prefloop.feedback.ratings.votes import Floats, Ints

Clustering = Literal["vote", "prompt", "annotator", "both"]
Z95 = float(ndtri(0.975))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bootstrap:
    """Parameters fitted to resampled votes."""

    draws: Floats
    """`[resamples kept, parameters]`"""
    left_out: int
    """Resamples in which models fell apart that the votes connect, so that they had no common scale."""


def sandwich(
    fit: Fit, clusters: Clustering = "vote", *, prompt: Ints | None = None, annotator: Ints | None = None
) -> Floats:
    """`[parameters, parameters]` covariance A⁻¹ G A⁻¹, right even where the model of votes is not (Huber 1967; White 1982).

    A is the negative Hessian, and G = Σ_c s_c s_cᵀ over clusters c of the weighted scores summed in each, times C/(C - 1). For `both`,
    G = G_prompt + G_annotator - G_of-both-together (Cameron, Gelbach and Miller 2011), made positive semi-definite by dropping negative
    eigenvalues. `prompt` and `annotator` are `[votes]`, needed for the clusters that name them.
    """
    likelihood = fit.likelihood
    scores = likelihood.scores(fit.parameters) * likelihood.weight[:, None]
    if clusters == "vote":
        n = likelihood.count.sum()
        middle = (scores * likelihood.count[:, None]).T @ scores * (n / max(1.0, n - 1))
    elif clusters == "both":
        p, a = _given(prompt, "prompt"), _given(annotator, "annotator")
        together = _numbered(p * (int(a.max(initial=0)) + 1) + a)
        middle = _middle(scores, likelihood.row, p) + _middle(scores, likelihood.row, a)
        middle -= _middle(scores, likelihood.row, together)
        values, vectors = np.linalg.eigh(middle)
        middle = (vectors * np.maximum(values, 0)) @ vectors.T
    else:
        named = _given(prompt, "prompt") if clusters == "prompt" else _given(annotator, "annotator")
        middle = _middle(scores, likelihood.row, named)
    factor = cho_factor(fit.curvature)
    half = cho_solve(factor, middle)
    return cho_solve(factor, half.T)


def bootstrap(
    fit: Fit,
    clusters: Clustering = "vote",
    *,
    resamples: int = 200,
    seed: int = 0,
    prompt: Ints | None = None,
    annotator: Ints | None = None,
) -> Bootstrap:
    """Fit again to votes, or whole clusters of votes, drawn with replacement (Efron 1979); same seed, same draws.

    `vote` draws votes, by one multinomial draw over rows of votes that are alike. `both` draws prompts and annotators independently and
    counts a vote as often as the product of the two (Owen 2007; Owen and Eckles 2012): never too narrow, if anything too wide.
    """
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}; it must be 2 or more")
    likelihood, generator = fit.likelihood, np.random.default_rng(seed)
    whole = connections(likelihood).groups
    draws, left_out = [], 0
    for count in _resampled(
        likelihood.count, likelihood.row, clusters, resamples, generator, prompt, annotator
    ):
        mass = count * likelihood.weight
        if connections(likelihood, mass).groups != whole:
            left_out += 1
            continue
        draws.append(maximise(likelihood, mass, prior=fit.prior, start=fit.parameters, tolerance=1e-4)[0])
    return Bootstrap(draws=np.array(draws).reshape(-1, likelihood.size), left_out=left_out)


def _resampled(
    count: Floats,
    row: Ints,
    clusters: Clustering,
    resamples: int,
    generator: np.random.Generator,
    prompt: Ints | None,
    annotator: Ints | None,
):
    """Yield `[rows]` how many votes of each row a resample has."""
    rows, n = len(count), len(row)
    if clusters == "vote":
        yield from generator.multinomial(n, count / count.sum(), size=resamples).astype(np.float64)
        return
    kept = [
        _numbered(_given(label, name))
        for name, label in (("prompt", prompt), ("annotator", annotator))
        if clusters in (name, "both")
    ]
    sizes = [int(label.max(initial=-1)) + 1 for label in kept]
    for _ in range(resamples):
        times = np.ones(n)
        for label, size in zip(kept, sizes, strict=True):
            times *= np.bincount(generator.integers(size, size=size), minlength=size)[label]
        yield np.bincount(row, times, rows)


def _middle(scores: Floats, row: Ints, cluster: Ints) -> Floats:
    """Σ_c s_c s_cᵀ C/(C - 1) for scores `[rows, parameters]`, the row and the cluster of each vote `[votes]`."""
    label = _numbered(cluster)
    groups = int(label.max(initial=-1)) + 1
    members = csr_array((np.ones(len(row)), (label, row)), shape=(groups, len(scores)))
    sums = members @ scores
    return sums.T @ sums * (groups / max(1, groups - 1))


def _numbered(labels: Ints) -> Ints:
    return np.unique(labels, return_inverse=True)[1]


def _given(labels: Ints | None, name: str) -> Ints:
    if labels is None:
        raise ValueError(f"clusters need {name}, one number for each vote; give it")
    return labels


def percentile_interval(draws: Floats, *, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """`[columns]` lower and upper percentiles of `[draws, columns]`; NaN without draws."""
    if not len(draws):
        nothing = np.full(draws.shape[1], np.nan)
        return nothing, nothing
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    return low, high


def difference_errors(covariance: Floats) -> Floats:
    """`[models, models]` standard error of θ_i - θ_j; 0 on the diagonal."""
    variances = np.diag(covariance)
    return np.sqrt(np.maximum(variances[:, None] + variances - 2 * covariance, 0.0))


def win_probabilities(strengths: Floats, covariance: Floats) -> tuple[Floats, Floats, Floats]:
    """`[models, models]` P(i beats j) = σ(θ_i - θ_j), and its 95 % interval, made on the scale of θ; ties as half wins."""
    gaps = strengths[:, None] - strengths
    reach = Z95 * difference_errors(covariance)
    return expit(gaps), expit(gaps - reach), expit(gaps + reach)


def rank_ranges(
    strengths: Floats, covariance: Floats, *, confidence: float = 0.95, draws: int = 4000, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`[models]` best and worst rank (from 1) that each model can have; the true rank is in between in 95 % of samples.

    For model i, simultaneous intervals of θ_j - θ_i over all j, whose width is the 95 % quantile of the largest standardised error among
    them, drawn from N(0, covariance); those surely better stand above it, those surely worse below (Mogstad, Romano, Shaikh and Wilhelm
    2024, marginal confidence sets for ranks). Overlap of the two models' own intervals would not answer this.
    """
    m = len(strengths)
    errors = difference_errors(covariance)
    known = errors > 1e-12
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    noise = np.random.default_rng(seed).standard_normal((draws, m)) @ root.T
    best, worst = np.ones(m, np.int64), np.full(m, m, np.int64)
    for i in range(m):
        others = known[i]
        gaps = strengths - strengths[i]
        reach = np.zeros(m)
        if others.any():
            largest = np.abs((noise[:, others] - noise[:, [i]]) / errors[i, others]).max(1)
            reach = np.quantile(largest, confidence) * errors[i]
        best[i] += int((gaps - reach > 0).sum())
        worst[i] -= int((gaps + reach < 0).sum())
    return best, worst
