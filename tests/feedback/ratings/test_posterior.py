"""Intervals where votes are few, all agree, are all ties, or share prompts; and what the approximation is made of."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.coverage import Design, coverage
from prefloop.errors import InputError
from prefloop.feedback.ratings import (
    FIRST,
    POINTS,
    SECOND,
    TIE,
    Leaderboard,
    Rating,
    Votes,
    as_rankings,
    fit,
    leaderboard,
    make_votes,
    pair_likelihood,
    ranking_likelihood,
)
from prefloop.feedback.ratings.leaderboard import Method
from prefloop.feedback.ratings.posterior import effective_mass
from tests.feedback.ratings.made_up import rankings_of, slope, votes_of

METHODS: tuple[Method, ...] = ("bradley_terry", "davidson", "rao_kupper", "plackett_luce")


def row_of(board: Leaderboard, name: str) -> Rating:
    return next(row for row in board.ratings if row.name == name)


def two(outcomes: list[int], **rest: list[int]) -> Votes:
    n = len(outcomes)
    return make_votes(["a", "b"], [0] * n, [1] * n, outcomes, **rest)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", METHODS)
def test_one_judgement_decides_nothing(method: Method) -> None:  # V1
    board = leaderboard(two([FIRST]), method=method)
    winner = board.ratings[0]
    assert (winner.name, winner.best_rank, winner.worst_rank) == ("a", 1, 2)
    chance = board.probability("a", "b")
    assert chance is not None
    assert 0.6 < chance.value < 0.85
    assert chance.low < 0.5 < 0.95 < chance.high
    assert winner.rating.low < 1000 < winner.rating.value < winner.rating.high


@pytest.mark.parametrize("method", METHODS)
def test_a_newcomer_with_one_win_may_stand_anywhere_that_it_was_not_seen(method: Method) -> None:
    random = np.random.default_rng(0)
    strength = np.linspace(1, -1, 5)
    first = random.integers(5, size=200)
    second = (first + random.integers(1, 5, size=200)) % 5
    won = random.random(200) < 1 / (1 + np.exp(strength[second] - strength[first]))
    votes = make_votes(
        [*"abcde", "new"], [*first, 5], [*second, 0], [*np.where(won, FIRST, SECOND).tolist(), FIRST]
    )
    new = row_of(leaderboard(votes, method=method), "new")
    assert new.note == "undefeated"
    assert (new.best_rank, new.worst_rank) == (1, 6)
    assert new.rating.high - new.rating.low > 500
    known = row_of(leaderboard(votes, method=method), "a")
    assert known.rating.high - known.rating.low < 300


@pytest.mark.parametrize("method", METHODS)
def test_twelve_wins_of_twelve_are_not_infinitely_sure(method: Method) -> None:
    board = leaderboard(two([FIRST] * 12), method=method)
    chance = board.probability("a", "b")
    assert chance is not None
    assert 0.4 < chance.low < 0.8  # Wilson's bound is 0.76
    assert chance.value < 0.98
    # more wins say more
    more = leaderboard(two([FIRST] * 60), method=method).probability("a", "b")
    assert more is not None
    assert chance.low < more.low


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_ties_leaves_an_interval(method: Method) -> None:  # V1
    ten, hundred = (leaderboard(two([TIE] * n), method=method).ratings[0].rating for n in (10, 100))
    assert ten.value == pytest.approx(1000, abs=1)
    assert ten.high - ten.low > 60
    assert hundred.high - hundred.low > 10
    if method in ("bradley_terry", "plackett_luce"):
        assert hundred.high - hundred.low < 0.5 * (ten.high - ten.low)


def test_votes_of_one_prompt_that_agree_are_one_vote() -> None:  # V2
    # 12 votes on two prompts, all for a: as sure as two votes are, not as twelve.
    together = leaderboard(two([FIRST] * 12, prompt=[0] * 6 + [1] * 6)).probability("a", "b")
    apart = leaderboard(two([FIRST] * 12)).probability("a", "b")
    assert together is not None
    assert apart is not None
    assert together.low < 0.3 < apart.low
    mass, degrees = effective_mass(
        fit(pair_likelihood(two([FIRST] * 12)), prior=1.0), [np.repeat([0, 1], 6)], ties=0.0
    )
    assert mass.sum() == pytest.approx(2, abs=0.5)
    assert degrees == 1


def test_votes_of_one_prompt_that_do_not_hang_together_count_in_full() -> None:
    random = np.random.default_rng(1)
    outcome = np.where(random.random(4000) < 0.7, FIRST, SECOND).tolist()
    fitted = fit(pair_likelihood(two(outcome)), prior=1.0)
    mass, degrees = effective_mass(fitted, [np.arange(4000) // 4], ties=0.0)
    assert mass.sum() == pytest.approx(4000, rel=0.08)
    assert degrees == 999


def test_unequal_weights_count_as_fewer_votes() -> None:
    # Kish: (Σw)² / Σw² = (10 + 90)² / (10 + 810) votes
    votes = make_votes(["a", "b"], [0] * 20, [1] * 20, [FIRST, SECOND] * 10, weight=[1.0] * 10 + [9.0] * 10)
    mass, _ = effective_mass(fit(pair_likelihood(votes)), [], ties=0.0)
    assert mass.sum() == pytest.approx(100**2 / 820)
    # and a weight that all have changes nothing
    heavy, plain = (
        leaderboard(make_votes(["a", "b"], [0] * 20, [1] * 20, [FIRST, SECOND] * 10, weight=[w] * 20))
        for w in (7.0, 1.0)
    )
    assert heavy.ratings[0].rating.high == pytest.approx(plain.ratings[0].rating.high)


def test_a_soft_preference_is_one_vote() -> None:
    votes = make_votes(
        ["a", "b"],
        [0] * 20,
        [1] * 20,
        [FIRST, SECOND] * 10,
        weight=[0.6, 0.4] * 10,
        counted=[True, False] * 10,
    )
    mass, _ = effective_mass(fit(pair_likelihood(votes)), [], ties=0.0, counted=votes.counted)
    assert mass.sum() == pytest.approx(10)


@pytest.mark.parametrize(("models", "votes"), [(2, 5), (5, 5), (20, 5)])
def test_intervals_cover_the_truth(models: int, votes: int) -> None:
    found = coverage(Design(models=models, votes=votes, spread=1.0), max(20, 150 // models), seed=1)
    assert 0.9 < found.rating <= 1
    assert 0.9 < found.probability <= 1
    assert found.rank > 0.94
    assert found.undefeated > 10
    assert found.never_lost > 0.88


@pytest.mark.parametrize("method", METHODS[1:])
def test_intervals_of_every_method_cover_the_truth(method: Method) -> None:
    found = coverage(Design(models=4, votes=10, spread=1.0), 40, seed=2, method=method)
    assert found.rating > 0.9
    assert found.never_lost > 0.85


def test_clustered_votes_are_covered() -> None:
    found = coverage(Design(models=3, votes=40, spread=1.0, clustered=True), 70, seed=3)
    assert found.rating > 0.9


@pytest.mark.parametrize("ties", ["bradley_terry", "davidson", "rao_kupper"])
def test_skewness_is_the_third_derivative(ties) -> None:
    votes = votes_of(3, features=1)
    likelihood = pair_likelihood(votes, ties)
    mass = likelihood.count * likelihood.weight
    random = np.random.default_rng(0)
    at = random.normal(0, 0.4, likelihood.size)
    root = random.normal(0, 0.3, (likelihood.size, likelihood.size))
    covariance = root @ root.T
    expected = slope(lambda x: -0.5 * np.trace(covariance @ likelihood.derivatives(x, mass)[2]), at)
    assert likelihood.skew(at, covariance, mass) == pytest.approx(expected, abs=1e-5)


def test_skewness_of_rankings_is_the_third_derivative() -> None:
    likelihood = ranking_likelihood(rankings_of(1))
    mass = likelihood.count * likelihood.weight
    random = np.random.default_rng(0)
    at = random.normal(0, 0.4, likelihood.size)
    root = random.normal(0, 0.3, (likelihood.size, likelihood.size))
    covariance = root @ root.T
    expected = slope(lambda x: -0.5 * np.trace(covariance @ likelihood.derivatives(x, mass)[2]), at)
    assert likelihood.skew(at, covariance, mass) == pytest.approx(expected, abs=1e-5)


def test_overlaps_by_hand_and_of_votes_as_rankings() -> None:
    # In cluster 0: a-b twice, a-c once, c-d once. Sharing one model is a quarter of a vote.
    votes = make_votes([*"abcd"], [0, 1, 0, 2, 0], [1, 0, 2, 3, 1], [FIRST] * 5)
    label = np.array([0, 0, 0, 0, 1])
    expected = [2.25, 2.25, 1.75, 1.25, 1]
    assert pair_likelihood(votes).overlaps(label, 2) == pytest.approx(expected)
    assert ranking_likelihood(as_rankings(votes)).overlaps(label, 2) == pytest.approx(expected)


def test_without_a_prior_ratings_are_the_maximum_of_the_likelihood() -> None:
    votes = votes_of(11, n=400, models=6)
    board = leaderboard(votes, prior=0.0, method="davidson")
    strengths = fit(pair_likelihood(votes, "davidson"), prior=0.0).strengths
    for row in board.ratings:
        assert row.rating.value == pytest.approx(
            1000 + POINTS * strengths[votes.names.index(row.name)], abs=1e-4
        )
        assert row.rating.low < row.rating.value < row.rating.high
    # Groups that were never compared are no obstacle: each has its own maximum.
    apart = make_votes([*"abcd"], [0, 0, 0, 2, 2], [1, 1, 1, 3, 3], [FIRST, FIRST, SECOND, FIRST, SECOND])
    values = {row.name: row.rating.value for row in leaderboard(apart, prior=0.0).ratings}
    assert values["a"] - values["b"] == pytest.approx(POINTS * math.log(2))
    assert values["c"] == pytest.approx(1000)


@pytest.mark.parametrize(
    ("votes", "method", "reason"),
    [
        (two([FIRST, FIRST]), "bradley_terry", "won or lost every comparison"),
        (two([FIRST, SECOND]), "davidson", "both ties and votes for a side"),
        (two([TIE, TIE]), "rao_kupper", "both ties and votes for a side"),
        (
            replace(
                make_votes(["a", "b"], [0] * 4, [1] * 4, [0, 0, 1, 1]),
                features=np.array([[1.0], [2.0], [-1.0], [-2.0]]), feature_names=("length",),
            ),
            "bradley_terry",
            "a feature of style tells every winner",
        ),
    ],
)  # fmt: skip
def test_without_a_prior_the_reason_is_given_where_there_is_no_maximum(votes, method, reason) -> None:
    with pytest.raises(InputError, match=reason):
        leaderboard(votes, method=method, prior=0.0)


def test_names_and_order_do_not_matter() -> None:
    votes = votes_of(7, n=40, models=4)
    random = np.random.default_rng(0)
    names, order = random.permutation(4), random.permutation(40)
    moved = make_votes(
        [votes.names[at] for at in np.argsort(names)],
        names[votes.first][order],
        names[votes.second][order],
        votes.outcome[order],
        prompt=votes.prompt[order],
        annotator=votes.annotator[order],
        weight=votes.weight[order],
    )
    one, other = (leaderboard(each, clusters="both") for each in (votes, moved))
    for a, b in zip(one.ratings, other.ratings, strict=True):
        assert a.name == b.name
        assert (a.rating.value, a.rating.low, a.rating.high) == pytest.approx(
            (b.rating.value, b.rating.low, b.rating.high), abs=1e-3
        )


def test_with_many_votes_the_prior_is_hardly_felt() -> None:
    votes = votes_of(9, n=5000, models=6)
    drawn, maximum = (leaderboard(votes, prior=prior, clusters="vote") for prior in (None, 0.0))
    for a, b in zip(drawn.ratings, maximum.ratings, strict=True):
        assert a.rating.value == pytest.approx(b.rating.value, abs=2.5)
        assert a.rating.low == pytest.approx(b.rating.low, abs=3)
