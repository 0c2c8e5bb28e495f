"""Who can be believed: the true category of each item and each annotator's errors, estimated together without gold labels.

    P(annotator j says l | item is k) = π_jkl                                                       Dawid and Skene 1979
    one coin: π_jkk = p_j, and (1 - p_j) / (K - 1) for each wrong category                          Raykar et al. 2010, Zhang et al. 2014

Every row of π is drawn from a Dirichlet distribution of strength s, whose right answer has the share m and whose wrong ones share the rest;
m and s are the crowd's, have a flat prior on a grid, and are learned with everything else (Kim and Ghahramani 2012). All of it is drawn from
the posterior by Gibbs sampling. A single best fit (EM) takes annotators it knows little of for as good as the fit, and is too sure of the truth.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaln

from prefloop.feedback.agreement.labels import MISSING, Floats, Ints, Labels

AnnotatorModel = Literal["dawid_skene", "one_coin"]
STRENGTHS = np.array([2.0, 4.0, 8.0, 16.0, 32.0])
"""What s may be: how alike annotators are."""
SHARES = (np.arange(25) + 0.5) / 25
"""What m may be, from a guess among all answers (0) to always right (1)."""
BURN_IN = 100
"""Sweeps before the first that counts."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnnotatorFit:
    """Means of the posterior."""

    posterior: Floats
    """`[items, classes]` probability of each true class; the prior for an item without labels."""
    prior: Floats
    """`[classes]` how common each class is."""
    confusion: Floats
    """`[annotators, classes, answers]` how each annotator answers to each class."""
    labels: Floats
    """`[annotators]` how many each gave."""
    reliability: tuple[Floats, Floats, Floats]
    """`[annotators]` chance of a right answer, over the classes as common as they are, with its 95 % interval."""

    @property
    def accuracy(self) -> Floats:
        """`[annotators]` chance of a right answer."""
        return self.reliability[0]


def fit_annotators(
    labels: Labels, model: AnnotatorModel = "dawid_skene", *, sweeps: int = 2000, seed: int = 0
) -> AnnotatorFit:
    """`sweeps` of Gibbs sampling from the majority's answers, the first 100 of which do not count.

    The same labels give the same fit; in another order of items or annotators it differs by the sampling's noise. Raises `ValueError` without a
    label or with fewer than two categories.
    """
    every = len(labels.categories)
    there = labels.table != MISSING
    if not there.any():
        raise ValueError("there are no labels to fit annotator models to")
    if every < 2:
        raise ValueError(f"there is {every} category; two or more are needed")
    # Answers that nobody gave are none: a wrong answer is one of those that people use.
    given = np.unique(labels.table[there])
    given = given if len(given) > 1 else np.union1d(given, [0, 1])
    item, who = np.nonzero(there)
    labels_given = np.searchsorted(given, labels.table[there])
    items, people, size = len(there), there.shape[1], len(given)
    random = np.random.default_rng(seed)
    # Ties of the majority are broken at random.
    votes = np.bincount(item * size + labels_given, minlength=items * size).reshape(items, size)
    truth = (votes + random.random(votes.shape) / 2).argmax(1)
    share, strength = 0.75, 8.0
    posterior, prior = np.zeros((items, size)), np.zeros(size)
    confusion, right = np.zeros((people, size, size)), []
    for sweep in range(sweeps):
        common = random.dirichlet(np.bincount(truth, minlength=size) + 1.0)
        answers = np.bincount(
            (who * size + truth[item]) * size + labels_given, minlength=people * size**2
        ).reshape(people, size, size)
        drawn = _draw_confusion(random, answers, _pseudo_counts(share, strength, size), model)
        share, strength = _draw_crowd(random, drawn, model)
        log = np.log(drawn)
        joint = np.log(common) + np.stack(
            [np.bincount(item, log[who, k, labels_given], items) for k in range(size)], 1
        )
        chance = np.exp(joint - joint.max(1, keepdims=True))
        chance /= chance.sum(1, keepdims=True)
        truth = (chance.cumsum(1) > random.random((items, 1))).argmax(1)
        if sweep >= BURN_IN:
            posterior += chance
            prior += common
            confusion += drawn
            right.append(np.einsum("jkk,k->j", drawn, common))
    kept = len(right)
    low, high = np.quantile(right, [0.025, 0.975], axis=0)
    return AnnotatorFit(
        posterior=_spread_out(posterior / kept, given, every),
        prior=_spread_out(prior / kept, given, every),
        confusion=_spread_out(
            _spread_out(confusion / kept, given, every).swapaxes(1, 2), given, every
        ).swapaxes(1, 2),
        labels=there.sum(0).astype(np.float64),
        reliability=(np.mean(right, 0), low, high),
    )


def _pseudo_counts(share: float, strength: float, size: int) -> Floats:
    """`[classes, answers]` of the Dirichlet distributions that rows of π are drawn from."""
    at = 1 / size + (1 - 1 / size) * share
    return strength * np.where(np.eye(size, dtype=bool), at, (1 - at) / (size - 1))


def _draw_confusion(
    random: np.random.Generator, answers: Ints, pseudo: Floats, model: AnnotatorModel
) -> Floats:
    """`[annotators, classes, answers]` π given the truth."""
    size = len(pseudo)
    if model == "one_coin":
        right = np.einsum("jkk->j", answers)
        p = random.beta(right + pseudo[0, 0], answers.sum((1, 2)) - right + (size - 1) * pseudo[0, 1])
        drawn = np.where(np.eye(size, dtype=bool), p[:, None, None], ((1 - p) / (size - 1))[:, None, None])
    else:
        drawn = random.standard_gamma(answers + pseudo)
        drawn = drawn / drawn.sum(2, keepdims=True)
    return np.maximum(drawn, 1e-12)


def _draw_crowd(random: np.random.Generator, drawn: Floats, model: AnnotatorModel) -> tuple[float, float]:
    """m and s given π, from the grid."""
    size = drawn.shape[1]
    wrong = size - 1 if model == "dawid_skene" else 1  # a coin has one side for all wrong answers
    diagonal = np.eye(size, dtype=bool)
    if model == "one_coin":
        rows = len(drawn)
        right, others = np.log(drawn[:, 0, 0]).sum(), np.log1p(-np.minimum(drawn[:, 0, 0], 1 - 1e-12)).sum()
    else:
        rows = len(drawn) * size
        right, others = np.log(drawn[:, diagonal]).sum(), np.log(drawn[:, ~diagonal]).sum()
    at = 1 / size + (1 - 1 / size) * SHARES[:, None]
    a, b = STRENGTHS * at, STRENGTHS * (1 - at) / wrong  # [m, s]
    log = rows * (gammaln(STRENGTHS) - gammaln(a) - wrong * gammaln(b)) + a * right + b * others
    weights = np.exp(log - log.max()).ravel()
    share, strength = np.unravel_index(random.choice(log.size, p=weights / weights.sum()), log.shape)
    return float(SHARES[share]), float(STRENGTHS[strength])


def _spread_out(values: Floats, given: Ints, every: int) -> Floats:
    """The last axis over all categories, 0 for those that nobody named."""
    whole = np.zeros((*values.shape[:-1], every))
    whole[..., given] = values
    return whole
