"""Fits of votes and rankings against hand values, brute force, evalica and choix, and what a fit must not depend on."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import choix
import evalica
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.feedback.ratings import (
    BOTH_BAD,
    FIRST,
    PRIOR,
    SECOND,
    TIE,
    Rankings,
    Votes,
    as_rankings,
    connections,
    elo,
    fit,
    make_votes,
    pair_likelihood,
    pair_weights,
    ranking_likelihood,
)
from prefloop.feedback.ratings.pairs import TieModel
from tests.feedback.ratings.made_up import best_parameters, log_likelihood, rankings_of, slope, votes_of

TIES: tuple[TieModel, ...] = ("bradley_terry", "davidson", "rao_kupper")
WINNERS = {
    FIRST: evalica.Winner.X,
    SECOND: evalica.Winner.Y,
    TIE: evalica.Winner.Draw,
    BOTH_BAD: evalica.Winner.Draw,
}


def strengths(votes: Votes, ties: TieModel = "bradley_terry", prior: float = PRIOR) -> np.ndarray:
    return fit(pair_likelihood(votes, ties), prior=prior).strengths


def test_two_models_by_hand():
    # 3 wins to 1: odds of 3, so θ = ± ln(3)/2
    votes = make_votes(["a", "b"], [0, 0, 1, 0], [1, 1, 0, 1], [FIRST, FIRST, FIRST, FIRST])
    assert strengths(votes, prior=0.0) == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-9)
    # a tie is half a win for each: 1.5 to 0.5 is the same odds
    tied = make_votes(["a", "b"], [0, 0], [1, 1], [FIRST, TIE])
    assert strengths(tied, prior=0.0) == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-9)


def test_davidson_and_rao_kupper_by_hand():
    # Two models, 4 wins, 1 loss, 3 ties: as many parameters as frequencies, so the fit gives the frequencies back.
    votes = make_votes(["a", "b"], [0] * 8, [1] * 8, [FIRST] * 4 + [SECOND] + [TIE, TIE, BOTH_BAD])
    davidson = fit(pair_likelihood(votes, "davidson"), prior=0.0).parameters
    # π_a/π_b = 4/1, ν = 3 / sqrt(4 · 1)
    assert davidson[0] - davidson[1] == pytest.approx(math.log(4), abs=1e-8)
    assert math.exp(davidson[2]) == pytest.approx(1.5, abs=1e-8)
    rao_kupper = fit(pair_likelihood(votes, "rao_kupper"), prior=0.0).parameters
    # σ(d - η) = 4/8 and σ(-d - η) = 1/8: d - η = 0 and d + η = ln 7
    eta = 0.5 * math.log1p(math.exp(rao_kupper[2]))
    assert rao_kupper[0] - rao_kupper[1] == pytest.approx(math.log(7) / 2, abs=1e-8)
    assert eta == pytest.approx(math.log(7) / 2, abs=1e-8)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("features", [0, 2])
def test_the_maximum_of_the_likelihood_written_out(ties, features: int):
    votes = votes_of(3, features=features)
    fitted = fit(pair_likelihood(votes, ties), prior=0.1)
    expected = best_parameters(lambda x: log_likelihood(votes, ties, x), len(fitted.parameters), 0.1)
    assert fitted.parameters == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("ties", TIES)
def test_derivatives_are_those_of_the_value(ties):
    votes = votes_of(5, features=2)
    likelihood = pair_likelihood(votes, ties)
    mass = likelihood.count * likelihood.weight
    at = np.random.default_rng(0).normal(0, 0.5, likelihood.size)
    value, gradient, curvature = likelihood.derivatives(at, mass)
    assert value == pytest.approx(log_likelihood(votes, ties, at), abs=1e-9)
    assert gradient == pytest.approx(slope(lambda x: likelihood.derivatives(x, mass)[0], at), abs=1e-6)
    assert curvature == pytest.approx(-slope(lambda x: likelihood.derivatives(x, mass)[1], at), abs=1e-6)
    assert mass @ likelihood.scores(at) == pytest.approx(gradient, abs=1e-9)


def test_ranking_derivatives_are_those_of_the_value():
    likelihood = ranking_likelihood(rankings_of(1))
    mass = likelihood.count * likelihood.weight
    at = np.random.default_rng(1).normal(0, 0.5, likelihood.size)
    _, gradient, curvature = likelihood.derivatives(at, mass)
    assert gradient == pytest.approx(slope(lambda x: likelihood.derivatives(x, mass)[0], at), abs=1e-6)
    assert curvature == pytest.approx(-slope(lambda x: likelihood.derivatives(x, mass)[1], at), abs=1e-6)
    assert mass @ likelihood.scores(at) == pytest.approx(gradient, abs=1e-9)


def ranking_log_likelihood(rankings: Rankings, theta: np.ndarray) -> float:
    """A tie as the mean over every order of the tied models, written out."""
    total = 0.0
    for groups, weight in zip(rankings.groups, rankings.weight, strict=True):
        orders: list[tuple[int, ...]] = [()]
        for group in groups:
            orders = [(*before, *order) for before in orders for order in permutations(group)]
        each = [
            sum(
                theta[order[k]] - math.log(sum(math.exp(theta[j]) for j in order[k:]))
                for k in range(len(order))
            )
            for order in orders
        ]
        total += weight * sum(each) / len(each)
    return total


def test_rankings_with_ties_are_the_mean_over_orders():
    rankings = rankings_of(7)
    likelihood = ranking_likelihood(rankings)
    at = np.random.default_rng(2).normal(0, 1, 5)
    mass = likelihood.count * likelihood.weight
    assert likelihood.derivatives(at, mass)[0] == pytest.approx(
        ranking_log_likelihood(rankings, at), abs=1e-9
    )
    fitted = fit(likelihood, prior=0.1)
    expected = best_parameters(lambda x: ranking_log_likelihood(rankings, x), 5, 0.1)
    assert fitted.parameters == pytest.approx(expected, abs=2e-5)


def test_evalica_agrees_on_bradley_terry():
    votes = votes_of(11, n=400, models=8)
    scores = evalica.bradley_terry(
        votes.first.tolist(),
        votes.second.tolist(),
        [WINNERS[each] for each in votes.outcome.tolist()],
        weights=votes.weight.tolist(),
        tolerance=1e-12,
        limit=100_000,
    ).scores
    expected = np.log(scores.sort_index().to_numpy())
    assert strengths(votes, prior=0.0) == pytest.approx(expected - expected.mean(), abs=1e-5)


def test_evalica_agrees_on_davidson():
    # Newman's method is another way to Davidson's model (JMLR 24, 2023).
    votes = votes_of(12, n=400, models=6)
    found = evalica.newman(
        votes.first.tolist(),
        votes.second.tolist(),
        [WINNERS[each] for each in votes.outcome.tolist()],
        weights=votes.weight.tolist(),
        tolerance=1e-12,
        limit=100_000,
    )
    expected = np.log(found.scores.sort_index().to_numpy())
    fitted = fit(pair_likelihood(votes, "davidson"), prior=0.0)
    assert fitted.strengths == pytest.approx(expected - expected.mean(), abs=1e-5)


def test_evalica_agrees_on_elo():
    votes = make_votes(
        ["a", "b", "c"], [0, 1, 2, 0, 1], [1, 2, 0, 2, 0], [FIRST, TIE, SECOND, FIRST, BOTH_BAD]
    )
    found = evalica.elo(
        votes.first.tolist(), votes.second.tolist(), [WINNERS[each] for each in votes.outcome.tolist()], k=4.0
    )
    assert elo(votes) == pytest.approx(found.scores.sort_index().to_numpy(), abs=1e-9)


def test_elo_depends_on_the_order_and_bradley_terry_does_not():
    first, second, outcome = [0, 1, 0, 1], [1, 0, 1, 0], [FIRST, FIRST, FIRST, FIRST]
    one = make_votes(["a", "b"], first, second, outcome)
    other = make_votes(["a", "b"], first[:1] + first[2:] + first[1:2], [1, 1, 0, 0], outcome)
    assert elo(make_votes(["a", "b"], [0, 1], [1, 0], [0, 0]))[0] != 1000.0
    assert abs(elo(one) - elo(other)).max() > 1e-6
    assert strengths(one) == pytest.approx(strengths(other), abs=1e-9)


def test_choix_agrees_on_plackett_luce():
    random = np.random.default_rng(0)
    orders = [tuple(int(x) for x in random.permutation(6)[: random.integers(2, 7)]) for _ in range(80)]
    rankings = Rankings(
        names=tuple("abcdef"),
        groups=tuple(tuple((model,) for model in order) for order in orders),
        prompt=np.arange(80),
        annotator=np.zeros(80, np.intp),
        weight=np.ones(80),
    )
    expected = choix.opt_rankings(6, orders, alpha=0.05, tol=1e-10)
    # choix penalises alpha Σθ², twice our prior/2
    assert fit(ranking_likelihood(rankings), prior=0.1).strengths == pytest.approx(expected, abs=1e-5)


def test_rankings_of_two_are_bradley_terry():
    votes = votes_of(21)
    rankings = fit(ranking_likelihood(as_rankings(votes))).strengths
    assert rankings == pytest.approx(strengths(votes), abs=1e-8)


@given(seed=st.integers(0, 200), ties=st.sampled_from(TIES))
@settings(max_examples=25)
def test_what_a_fit_does_not_depend_on(seed: int, ties):
    votes = votes_of(seed, features=1)
    expected = fit(pair_likelihood(votes, ties)).parameters
    random = np.random.default_rng(seed)

    order = random.permutation(len(votes))
    turn = random.random(len(votes)) < 0.5
    swapped = np.where((votes.outcome < TIE) & turn, 1 - votes.outcome, votes.outcome)
    shuffled = make_votes(
        votes.names,
        np.where(turn, votes.second, votes.first)[order],
        np.where(turn, votes.first, votes.second)[order],
        swapped[order],
        weight=votes.weight[order],
    )
    shuffled = replace(
        shuffled,
        features=np.where(turn[:, None], -votes.features, votes.features)[order],
        feature_names=votes.feature_names,
    )
    assert fit(pair_likelihood(shuffled, ties)).parameters == pytest.approx(expected, abs=1e-6)

    names = random.permutation(len(votes.names))
    renamed = make_votes(
        votes.names,
        names[votes.first],
        names[votes.second],
        votes.outcome,
        weight=votes.weight,
    )
    renamed = replace(renamed, features=votes.features, feature_names=votes.feature_names)
    got = fit(pair_likelihood(renamed, ties)).parameters
    assert got[names] == pytest.approx(expected[: len(names)], abs=1e-6)
    assert got[len(names) :] == pytest.approx(expected[len(names) :], abs=1e-6)

    # Every vote twice is every vote with twice the weight, and with twice the prior it is the same fit.
    twice = make_votes(
        votes.names,
        np.tile(votes.first, 2),
        np.tile(votes.second, 2),
        np.tile(votes.outcome, 2),
        weight=np.tile(votes.weight, 2),
    )
    twice = replace(twice, features=np.tile(votes.features, (2, 1)), feature_names=votes.feature_names)
    assert fit(pair_likelihood(twice, ties), prior=2 * PRIOR).parameters == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 100))
@settings(max_examples=15)
def test_what_rankings_do_not_depend_on(seed: int):
    rankings = rankings_of(seed)
    expected = fit(ranking_likelihood(rankings)).strengths
    random = np.random.default_rng(seed)
    names = random.permutation(5)
    order = random.permutation(len(rankings))
    moved = Rankings(
        names=rankings.names,
        groups=tuple(
            tuple(tuple(int(names[model]) for model in reversed(group)) for group in rankings.groups[at])
            for at in order
        ),
        prompt=rankings.prompt,
        annotator=rankings.annotator,
        weight=rankings.weight[order],
    )
    assert fit(ranking_likelihood(moved)).strengths[names] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ties", TIES)
def test_swapping_wins_for_losses_turns_the_strengths_round(ties):
    votes = votes_of(4)
    turned = make_votes(
        votes.names,
        votes.first,
        votes.second,
        np.where(votes.outcome < TIE, 1 - votes.outcome, votes.outcome),
        weight=votes.weight,
    )
    assert strengths(turned, ties) == pytest.approx(-strengths(votes, ties), abs=1e-7)


@pytest.mark.parametrize("ties", TIES)
def test_nothing_but_ties_makes_all_equal(ties):
    votes = make_votes(["a", "b", "c"], [0, 1, 2], [1, 2, 0], [TIE, TIE, BOTH_BAD])
    assert strengths(votes, ties) == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("ties", TIES)
def test_undefeated_models_are_finite_and_known(ties):
    votes = make_votes(["top", "a", "b"], [0] * 50 + [1, 2], [1] * 50 + [2, 1], [FIRST] * 52)
    fitted = fit(pair_likelihood(votes, ties))
    assert np.isfinite(fitted.parameters).all()
    assert fitted.strengths[0] > 3
    known = connections(fitted.likelihood)
    assert known.groups == 1
    assert known.held_by_prior
    assert known.core.tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="without a prior"):
        fit(pair_likelihood(votes, ties), prior=0.0)


def test_models_that_were_never_compared_are_in_other_groups():
    votes = make_votes(list("abcde"), [0, 0, 1, 3, 3], [1, 2, 2, 4, 4], [TIE] * 4 + [FIRST])
    known = connections(pair_likelihood(votes))
    assert known.groups == 2
    assert known.group.tolist() == [0, 0, 0, 1, 1]
    assert not known.held_by_prior
    values = strengths(votes)
    assert values[:3].sum() == pytest.approx(0, abs=1e-9)  # each group has its own zero
    assert values[3:].sum() == pytest.approx(0, abs=1e-9)


def test_the_prior_is_hardly_felt():
    votes = votes_of(9, n=2000, models=6)
    assert strengths(votes) == pytest.approx(strengths(votes, prior=0.0), abs=1e-4)


def test_planted_order_is_found():
    votes = votes_of(2, n=20_000, models=6, ties=0.1)
    planted = np.random.default_rng(2).normal(0, 0.7, 6)
    assert np.argsort(strengths(votes)).tolist() == np.argsort(planted).tolist()


def test_pair_weights_by_hand():
    votes = make_votes(["a", "b", "c"], [0, 1, 0, 0], [1, 0, 1, 2], [0] * 4)
    weights = pair_weights(votes, at_least=1)
    # the pair (a, b) has three votes, (a, c) one: 1/3, 1/3, 1/3, 1, over their mean of 1/2
    assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2], abs=1e-12)
    assert pair_weights(votes, at_least=50) == pytest.approx([1, 1, 1, 1], abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": [0]}, "second has 1 entries for 2 votes"),
        ({"second": [0, 0]}, "compares a model with itself"),
        ({"second": [1, 7]}, "second names model 7"),
        ({"outcome": [0, 9]}, "an outcome must be"),
        ({"weight": [1.0, -1.0]}, "a weight is negative"),
        ({"features": np.array([[math.nan], [0.0]]), "feature_names": ("f",)}, "a feature is not finite"),
        ({"features": np.zeros((2, 1))}, "shape"),
    ],
)
def test_votes_that_make_no_sense(change: dict, message: str):
    whole: dict[str, Any] = {"first": [0, 1], "second": [1, 0], "outcome": [0, 1]} | change
    features = {name: whole.pop(name) for name in ("features", "feature_names") if name in whole}
    with pytest.raises(ValueError, match=message):
        replace(make_votes(["a", "b"], **whole), **features)


def test_rankings_that_make_no_sense():
    def rankings(groups):
        one = np.zeros(1, np.intp)
        return Rankings(names=tuple("abc"), groups=(groups,), prompt=one, annotator=one, weight=np.ones(1))

    for groups in (((0,),), ((0,), (0,)), ((0,), ()), ((0,), (5,))):
        with pytest.raises(ValueError, match="ranking 0"):
            rankings(groups)
    wide = Rankings(
        names=tuple(map(str, range(11))),
        groups=((tuple(range(11)),),),
        prompt=np.zeros(1, np.intp),
        annotator=np.zeros(1, np.intp),
        weight=np.ones(1),
    )
    with pytest.raises(ValueError, match="at most 10 can be tied"):
        ranking_likelihood(wide)
