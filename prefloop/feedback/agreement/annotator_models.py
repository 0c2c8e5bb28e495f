"""Who can be believed: the true category of each item and each annotator's errors, estimated together without gold labels.

    P(annotator j says l | item is k) = π_jkl                                                       Dawid and Skene 1979
    one coin: π_jkk = p_j, and (1 - p_j) / (K - 1) for each wrong category                          Raykar et al. 2010, Zhang et al. 2014

EM: from class probabilities T_ik, the priors and confusions are their weighted frequencies plus pseudo-counts; from those, by Bayes'
rule, T_ik ∝ prior_k Π_j π_jk,l(i,j). The pseudo-counts (a Dirichlet prior that expects people to be right more often than not) keep an
annotator with three labels from being taken for perfect, and the classes from changing places.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betaincinv

from prefloop.feedback.agreement.labels import MISSING, Floats, Ints, Labels

AnnotatorModel = Literal["dawid_skene", "one_coin"]
RIGHT, WRONG = 2.0, 1.0
"""Pseudo-counts of a right and of each wrong answer, for each true class; the class's own prior has one of each."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnnotatorFit:
    """What EM found."""

    posterior: Floats
    """`[items, classes]` probability of each true class; the prior for an item without labels."""
    prior: Floats
    """`[classes]` how common each class is."""
    confusion: Floats
    """`[annotators, classes, answers]` how each annotator answers to each class."""
    objective: tuple[float, ...]
    """Log posterior density (up to a constant) after each step; it never falls."""

    labels: Floats
    """`[annotators]` how many each gave."""
    right: Floats
    """`[annotators]` how many of them are right, as the posterior expects."""
    doubt: Floats
    """`[annotators]` variance of that."""

    @property
    def accuracy(self) -> Floats:
        """`[annotators]` chance of a right answer, over the classes as common as they are."""
        return np.einsum("jkk,k->j", self.confusion, self.prior)

    @property
    def reliability(self) -> tuple[Floats, Floats, Floats]:
        """`[annotators]` share of right answers with its 95 % interval: a Beta posterior of the right and wrong answers, with
        pseudo-counts of three right answers and a wrong one, widened by the doubt about which are right."""
        a, b = self.right + 3.0, self.labels - self.right + 1.0
        mean = a / (a + b)
        variance = mean * (1 - mean) / (a + b + 1) + self.doubt / (a + b) ** 2
        total = mean * (1 - mean) / variance - 1
        low, high = (betaincinv(mean * total, (1 - mean) * total, tail) for tail in (0.025, 0.975))
        return mean, low, high


def fit_annotators(
    labels: Labels, model: AnnotatorModel = "dawid_skene", *, steps: int = 500, tolerance: float = 1e-9
) -> AnnotatorFit:
    """EM from the majority's shares until the objective rises by less than `tolerance` a label.

    Deterministic: the same labels give the same fit in any order of items and annotators. Raises `ValueError` without a label or with
    fewer than two categories.
    """
    every = len(labels.categories)
    there = labels.table != MISSING
    if not there.any():
        raise ValueError("there is no label to fit annotators to")
    if every < 2:
        raise ValueError(f"there is {every} category; two or more are needed")
    # Answers that nobody gave are none: a wrong answer is one of those that people use.
    given = np.unique(labels.table[there])
    given = given if len(given) > 1 else np.union1d(given, [0, 1])
    size = len(given)
    said = np.stack([labels.table == at for at in given], 2).astype(
        np.float64
    )  # [items, annotators, answers]
    counts = said.sum(1)
    totals = counts.sum(1, keepdims=True)
    posterior = np.where(totals > 0, (counts + 1 / size) / (totals + 1), 1 / size)
    objective: list[float] = []
    pseudo = np.full((size, size), WRONG) + (RIGHT - WRONG) * np.eye(size)
    while True:
        prior = posterior.sum(0) + 1.0
        prior /= prior.sum()
        confusion = np.einsum("ik,ijl->jkl", posterior, said) + pseudo
        if model == "one_coin":
            right = np.einsum("jkk->j", confusion)
            p = right / confusion.sum((1, 2))
            confusion = np.where(
                np.eye(size, dtype=bool), p[:, None, None], ((1 - p) / (size - 1))[:, None, None]
            )
        else:
            confusion = confusion / confusion.sum(2, keepdims=True)
        joint = np.log(prior) + np.einsum("ijl,jkl->ik", said, np.log(confusion))
        top = joint.max(1, keepdims=True)
        weights = np.exp(joint - top)
        total = weights.sum(1, keepdims=True)
        posterior = weights / total
        # The pseudo-counts are those of answers given; Dirichlet densities have them as exponents.
        density = float((pseudo * np.log(confusion)).sum() + np.log(prior).sum())
        objective.append(float((top + np.log(total)).sum()) + density)
        done = len(objective) > 1 and objective[-1] - objective[-2] < tolerance * there.sum()
        if done or len(objective) >= steps:
            own = np.einsum("ijk,ik->ij", said, posterior)  # how likely each label is right
            return AnnotatorFit(
                posterior=_spread_out(posterior, given, every),
                prior=_spread_out(prior, given, every),
                confusion=_spread_out(
                    _spread_out(confusion, given, every).swapaxes(1, 2), given, every
                ).swapaxes(1, 2),
                objective=tuple(objective),
                labels=there.sum(0).astype(np.float64),
                right=own.sum(0),
                doubt=(own * (1 - own) * there).sum(0),
            )


def _spread_out(values: Floats, given: Ints, every: int) -> Floats:
    """The last axis over all categories, 0 for those that nobody named."""
    whole = np.zeros((*values.shape[:-1], every))
    whole[..., given] = values
    return whole
