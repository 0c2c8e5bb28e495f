"""The leaderboard's scale, groups and warnings; style and length control."""

import math

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.feedback.ratings import (
    BOTH_BAD,
    FIRST,
    SECOND,
    TIE,
    Gamed,
    Rankings,
    Resampling,
    baseline_win_rate,
    fit,
    leaderboard,
    length_controlled_win_rate,
    make_votes,
    pair_likelihood,
    style_differences,
    style_of,
    with_style,
)
from tests.feedback.ratings.made_up import votes_of


def test_the_scale_by_hand():
    # 10 wins to 1 are 400 points
    votes = make_votes(["a", "b"], [0] * 11, [1] * 11, [FIRST] * 10 + [SECOND])
    board = leaderboard(votes, prior=1e-9, clusters="vote")
    a, b = board.ratings
    assert a.rating.value - b.rating.value == pytest.approx(400, abs=1e-3)
    assert (a.rating.value + b.rating.value) / 2 == pytest.approx(1000, abs=1e-6)
    anchored = leaderboard(votes, prior=1e-9, clusters="vote", anchor="b")
    assert anchored.ratings[1].rating.value == 1000
    assert anchored.ratings[1].rating.low == pytest.approx(1000)
    # all the uncertainty is then in the other one: twice as wide as about the average
    wide = anchored.ratings[0].rating.high - anchored.ratings[0].rating.low
    assert wide == pytest.approx(2 * (a.rating.high - a.rating.low), rel=1e-6)
    chance = board.probability("a", "b")
    assert chance is not None
    assert chance.value == pytest.approx(10 / 11, abs=1e-6)
    assert board.probability("a", "a") is None


def test_counts_by_hand():
    votes = make_votes(["a", "b"], [0, 0, 1, 0, 1], [1, 1, 0, 1, 0], [FIRST, TIE, FIRST, BOTH_BAD, SECOND])
    a = next(row for row in leaderboard(votes, clusters="vote").ratings if row.name == "a")
    assert (a.votes, a.wins, a.losses, a.ties, a.both_bad) == (5, 2, 1, 1, 1)
    rankings = Rankings(
        names=("a", "b", "c"),
        groups=(((2,), (0, 1)),),
        prompt=np.zeros(1, np.intp),
        annotator=np.zeros(1, np.intp),
        weight=np.ones(1),
    )
    board = leaderboard(
        make_votes(["a", "b", "c"], [], [], []), rankings, method="plackett_luce", clusters="vote"
    )
    c, a = board.ratings[0], next(row for row in board.ratings if row.name == "a")
    assert (c.name, c.wins, c.losses, c.ties, c.note) == ("c", 2, 0, 0, "undefeated")
    assert (a.wins, a.losses, a.ties) == (0, 1, 1)


def test_groups_and_notes():
    votes = make_votes(
        ["a", "b", "top", "x", "y", "alone"],
        [0, 1, 2, 2, 3, 4],
        [1, 0, 0, 1, 4, 3],
        [FIRST, FIRST, FIRST, FIRST, TIE, TIE],
    )
    board = leaderboard(votes, clusters="vote")
    assert [row.group for row in board.ratings] == [0, 0, 0, 1, 1, 2]
    assert board.ratings[0].name == "top"
    assert board.ratings[0].note == "undefeated"
    assert math.isnan(board.ratings[-1].rating.low)
    assert "fall into 3 groups" in board.warnings[0]
    assert "depends on the prior alone" in board.warnings[1]
    assert board.probability("a", "x") is None
    for row in board.ratings:
        assert math.isfinite(row.rating.value)
        assert row.best_rank <= row.rank <= row.worst_rank


def test_few_clusters_are_warned_of():
    board = leaderboard(votes_of(1, prompts=5))
    assert any("only 5 prompts" in warning for warning in board.warnings)


def test_bootstrap_intervals_are_near_the_sandwich():
    votes = votes_of(3, n=2000, models=4, prompts=200)
    one = leaderboard(votes, intervals="sandwich").ratings
    other = leaderboard(votes, intervals="bootstrap", resampling=Resampling(resamples=300)).ratings
    for a, b in zip(one, other, strict=True):
        assert b.rating.value == a.rating.value  # the full-data fit, not the resamples' middle
        assert b.rating.high - b.rating.low == pytest.approx(a.rating.high - a.rating.low, rel=0.2)


@pytest.mark.parametrize("method", ["bradley_terry", "davidson", "rao_kupper", "plackett_luce", "elo"])
def test_every_method_finds_a_clear_order(method):
    votes = make_votes(
        ["low", "mid", "top"], [2, 2, 2, 1, 1, 0] * 5, [1, 0, 1, 0, 0, 2] * 5, [0, 0, 2, 0, 2, 0] * 5
    )
    board = leaderboard(votes, method=method, clusters="vote")
    assert [row.name for row in board.ratings] == ["top", "mid", "low"]
    assert (board.tie_parameter is not None) == (method in ("davidson", "rao_kupper"))
    assert (board.probabilities == ()) == (method == "elo")


def test_what_cannot_be_rated():
    votes = votes_of(1, features=1)
    with pytest.raises(InputError, match="cannot control for style"):
        leaderboard(votes, method="plackett_luce")
    with pytest.raises(InputError, match="method is 'glicko'"):
        leaderboard(votes, method="glicko")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="there is no vote"):
        leaderboard(make_votes(["a", "b"], [], [], []))
    with pytest.raises(InputError, match="neither a vote nor a ranking"):
        leaderboard(make_votes(["a", "b"], [], [], []), method="plackett_luce")


def test_style_by_hand():
    text = "# Title\n\n- one\n- **two**\n1. three\n\n```\n# not a heading\n- nor a list\n**nor bold**\n```\n__four__"
    assert style_of(text) == (len(text), 1, 3, 2)
    assert style_of("a * b ** c\n#hash\n") == (17, 0, 0, 0)
    assert style_of("```\n- never closed") == (18, 0, 0, 0)
    assert style_differences(["aaa"], ["a"])[0] == pytest.approx([2 / 5, 0, 0, 0])
    votes = with_style(
        make_votes(["a", "b"], [0, 0], [1, 1], [0, 1]), np.array([[3.0, 0, 0, 0], [4.0, 0, 0, 0]])
    )
    assert votes.feature_names == ("length",)
    assert votes.features[:, 0] == pytest.approx(np.array([3, 4]) / math.sqrt(12.5))


def test_style_control_takes_out_what_length_gave():
    # Two equal models; one writes longer, and the judge only likes length.
    random = np.random.default_rng(0)
    n = 4000
    longer = random.normal(0.8, 1.0, n)
    outcome = np.where(random.random(n) < 1 / (1 + np.exp(-1.5 * longer)), FIRST, SECOND)
    votes = make_votes(["wordy", "brief"], [0] * n, [1] * n, outcome)
    raw = fit(pair_likelihood(votes)).parameters
    assert raw[0] - raw[1] > 0.7
    held = fit(pair_likelihood(with_style(votes, longer[:, None], ["length"]))).parameters
    assert abs(held[0] - held[1]) < 0.25
    assert held[2] == pytest.approx(1.5 * math.sqrt((longer**2).mean()), rel=0.1)


def test_baseline_win_rate_by_hand():
    rate = baseline_win_rate(np.array([1.0, 0.0, 0.5, 1.0]))
    assert rate.value == 0.625
    assert rate.standard_error == pytest.approx(np.std([1, 0, 0.5, 1], ddof=1) / 2)
    with pytest.raises(ValueError, match="not between 0 and 1"):
        baseline_win_rate(np.array([1.5]))
    with pytest.raises(ValueError, match="at least one"):
        baseline_win_rate(np.array([]))


def test_length_control_of_the_win_rate():
    random = np.random.default_rng(1)
    n = 3000
    model, baseline = random.normal(700, 100, n), random.normal(500, 100, n)
    delta = baseline - model
    truth = 1 / (1 + np.exp(-(-0.2 - 2.0 * np.tanh(delta / delta.std(ddof=1)))))
    found = length_controlled_win_rate((random.random(n) < truth).astype(float), model, baseline)
    assert found.raw.value > 0.7
    assert found.controlled.value == pytest.approx(1 / (1 + math.exp(0.2)), abs=0.06)
    assert abs(found.controlled.value - 1 / (1 + math.exp(0.2))) < 3 * found.controlled.standard_error
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.controlled.standard_error, rel=1e-2)
    assert found.length == pytest.approx(-2.0, abs=0.3)


def test_length_control_changes_nothing_at_equal_length():
    preference = np.array([1.0, 1.0, 1.0, 0.0] * 25)
    found = length_controlled_win_rate(preference, np.ones(100), np.ones(100), prior=1e-9)
    assert found.controlled.value == pytest.approx(found.raw.value, abs=1e-6)
    assert found.length == 0.0
    # the standard error of a share
    assert found.controlled.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 100), rel=1e-4)


def test_gamed_rows_teach_what_length_is_worth():
    # The model is always longer by nearly the same, so length and level cannot be told apart without them.
    random = np.random.default_rng(2)
    n = 800
    model, baseline = random.normal(700, 5, n), random.normal(500, 5, n)
    delta = baseline - model
    worth = 1.0 * np.tanh(delta / delta.std(ddof=1))
    preference = (random.random(n) < 1 / (1 + np.exp(worth))).astype(
        float
    )  # as good as the baseline, but longer
    step = random.choice([-1.0, 1.0], 1600)
    chance = 1 / (1 + np.exp(np.tanh(step)))
    gamed = Gamed(
        preference=(random.random(1600) < chance).astype(float),
        length_difference=step,
        difficulty=np.zeros(1600),
    )
    with_them = length_controlled_win_rate(preference, model, baseline, gamed=gamed)
    assert with_them.controlled.value == pytest.approx(0.5, abs=0.08)
    assert with_them.raw.value > 0.68
    with pytest.raises(ValueError, match="give one of each"):
        length_controlled_win_rate(preference, model[:3], baseline)
