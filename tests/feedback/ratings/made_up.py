"""Votes and rankings for the tests, and their likelihoods written out vote by vote."""

import math
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from prefloop.feedback.ratings import BOTH_BAD, FIRST, SECOND, TIE, Rankings, Votes, make_votes


def votes_of(
    seed: int, *, n: int = 60, models: int = 5, features: int = 0, ties: float = 0.3, prompts: int = 20
) -> Votes:
    """Random votes between models of random strength; some are ties, some both bad."""
    random = np.random.default_rng(seed)
    strength = random.normal(0, 0.7, models)
    first = random.integers(models, size=n)
    second = (first + random.integers(1, models, size=n)) % models
    style = random.normal(0, 1, (n, features))
    gap = strength[first] - strength[second] + 0.8 * style.sum(1)
    outcome = np.where(random.random(n) < 1 / (1 + np.exp(-gap)), FIRST, SECOND)
    outcome = np.where(random.random(n) < ties, random.choice([TIE, BOTH_BAD], n), outcome)
    votes = make_votes(
        [f"m{at}" for at in range(models)],
        first,
        second,
        outcome,
        prompt=random.integers(prompts, size=n),
        annotator=random.integers(4, size=n),
        weight=random.choice([0.5, 1.0, 2.0], n),
    )
    return replace(votes, features=style, feature_names=tuple(f"f{at}" for at in range(features)))


def rankings_of(seed: int, *, n: int = 30, models: int = 5) -> Rankings:
    """Random rankings of 2 to all models with random ties."""
    random = np.random.default_rng(seed)
    groups = []
    for _ in range(n):
        order = random.permutation(models)[: random.integers(2, models + 1)]
        ranking = [[int(order[0])]]
        for model in order[1:]:
            if random.random() < 0.3:
                ranking[-1].append(int(model))
            else:
                ranking.append([int(model)])
        groups.append(tuple(map(tuple, ranking)))
    return Rankings(
        names=tuple(f"m{at}" for at in range(models)),
        groups=tuple(groups),
        prompt=random.integers(10, size=n),
        annotator=random.integers(3, size=n),
        weight=random.choice([1.0, 2.0], n),
    )


def log_probability(ties: str, outcome: int, d: float, kappa: float) -> float:
    """Of one vote, written as the papers do, with π = e^θ."""
    a, b = math.exp(d / 2), math.exp(-d / 2)
    if ties == "davidson":
        nu = math.exp(kappa)
        total = a + b + nu * math.sqrt(a * b)
        return math.log({FIRST: a, SECOND: b}.get(outcome, nu * math.sqrt(a * b)) / total)
    if ties == "rao_kupper":
        wide = math.exp(0.5 * math.log1p(math.exp(kappa)))
        if outcome == FIRST:
            return math.log(a / (a + wide * b))
        if outcome == SECOND:
            return math.log(b / (wide * a + b))
        return math.log((wide**2 - 1) * a * b / ((a + wide * b) * (wide * a + b)))
    win, loss = math.log(a / (a + b)), math.log(b / (a + b))
    return {FIRST: win, SECOND: loss}.get(outcome, (win + loss) / 2)


def log_likelihood(votes: Votes, ties: str, parameters: np.ndarray) -> float:
    """Sum over votes, one after the other."""
    m, k = len(votes.names), len(votes.feature_names)
    total = 0.0
    for at in range(len(votes)):
        d = parameters[votes.first[at]] - parameters[votes.second[at]]
        d += sum(votes.features[at, f] * parameters[m + f] for f in range(k))
        total += votes.weight[at] * log_probability(
            ties, int(votes.outcome[at]), float(d), float(parameters[-1])
        )
    return total


def best_parameters(value, size: int, prior: float) -> np.ndarray:
    """Maximum of a log-likelihood with a Gaussian prior, by a method that knows no derivative of ours."""
    found = minimize(
        lambda x: -value(x) + prior / 2 * float(x @ x), np.zeros(size), method="BFGS", options={"gtol": 1e-7}
    )
    return found.x


def slope(function, at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of a function of a vector, along the last axis."""
    columns = []
    for i in range(len(at)):
        e = np.zeros(len(at))
        e[i] = step
        columns.append((np.asarray(function(at + e)) - np.asarray(function(at - e))) / (2 * step))
    return np.stack(columns, -1)
