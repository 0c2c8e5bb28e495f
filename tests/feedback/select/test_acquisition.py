"""What a label is worth, against definitions written out; and the mix with a uniform draw."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.errors import InputError
from prefloop.feedback.select import (
    choose,
    conflict,
    disagreement,
    information_gain,
    most_informative,
    ranked,
    read_scores,
    uncertainty,
    write_scores,
)

quick = settings(deadline=None, max_examples=30, derandomize=True)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_disagreement_is_the_variance_of_probabilities() -> None:
    first, second = np.array([[1.0, 0.0, 9.0], [-1.0, 0.0, 7.0]]), np.zeros((2, 3))
    p = [sigmoid(1), sigmoid(-1)]
    mean = sum(p) / 2
    found = disagreement(first, second)
    assert found[0] == pytest.approx(sum((each - mean) ** 2 for each in p) / 2)
    # Two that are sure of the same agree, though their scores are far apart.
    assert found[1] == 0
    assert found[2] < 1e-6
    with pytest.raises(ValueError, match="two members or more"):
        disagreement(first[:1], second[:1])


@quick
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(-5, 5))
def test_what_worth_does_not_depend_on(scores: list[float], shift: float) -> None:
    members, zero = np.array(scores)[:, None], np.zeros((len(scores), 1))
    there, back = disagreement(members + shift, zero + shift), disagreement(zero, members)
    np.testing.assert_allclose(there, back, atol=1e-12)
    margin = np.array(scores)
    np.testing.assert_allclose(uncertainty(margin), uncertainty(-margin), atol=1e-12)
    assert uncertainty(np.array([0.0])) == 0.25
    assert uncertainty(margin).max() <= 0.25


def test_information_is_the_gain_in_log_determinant() -> None:
    random = np.random.default_rng(0)
    x, theta = random.normal(size=(6, 3)), random.normal(size=3)
    rows = random.normal(size=(9, 3))
    precision = rows.T @ rows + np.eye(3)
    found = information_gain(x, precision, theta)
    for row, gain in zip(x, found, strict=True):
        p = sigmoid(float(row @ theta))
        after = precision + p * (1 - p) * np.outer(row, row)
        expected = 0.5 * (np.linalg.slogdet(after)[1] - np.linalg.slogdet(precision)[1])
        assert gain == pytest.approx(expected)


def test_a_greedy_choice_takes_the_earlier_ones_as_labelled() -> None:
    random = np.random.default_rng(1)
    x, theta, precision = random.normal(size=(30, 4)), random.normal(size=4), 0.3 * np.eye(4)
    expected: list[int] = []
    grown = precision.copy()
    for _ in range(8):
        gain = information_gain(x, grown, theta)
        gain[expected] = -1
        best = int(gain.argmax())
        expected.append(best)
        p = sigmoid(float(x[best] @ theta))
        grown += p * (1 - p) * np.outer(x[best], x[best])
    assert most_informative(x, precision, theta, 8) == expected
    # Two rows that tell the same are not both taken first.
    twins = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9]])
    assert most_informative(twins, 0.1 * np.eye(2), np.zeros(2), 2) == [0, 2]
    assert sorted(most_informative(twins, np.eye(2), np.zeros(2), 9)) == [0, 1, 2]


def test_order_and_conflict() -> None:
    assert ranked(np.array([0.1, np.nan, 0.3, 0.1]), ["b", "x", "c", "a"]) == [2, 3, 0, 1]
    assert conflict(np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 0.25])).tolist() == [1.0, 0.0, 0.25]


KEYS = [f"pair {at}" for at in range(50)]


def test_a_stated_share_is_uniform_and_the_rest_is_the_strategys() -> None:
    order = list(range(50))
    chosen = choose(KEYS, order, strategy="margin", count=20, uniform=0.2, seed=3)
    assert Counter(each.strategy for each in chosen) == {"uniform": 4, "margin": 16}
    drawn = {each.place for each in chosen if each.strategy == "uniform"}
    assert [each.place for each in chosen[4:]] == [at for at in order if at not in drawn][:16]
    # The draw does not look at the strategy, nor at the order in which pairs are offered.
    other = choose(KEYS[::-1], order[::-1], strategy="margin", count=20, uniform=0.2, seed=3)
    assert {KEYS[::-1][each.place] for each in other[:4]} == {KEYS[at] for at in drawn}
    assert choose(KEYS, [], strategy="conflict", count=10, uniform=0.25, seed=0)[3:] == []
    assert len(choose(KEYS, [], strategy="uniform", count=80, uniform=0.1, seed=0)) == 50
    with pytest.raises(ValueError, match="the same key"):
        choose(["a", "a"], [0], strategy="margin", count=1, uniform=0.5, seed=0)
    with pytest.raises(ValueError, match="uniform is"):
        choose(KEYS, [0], strategy="margin", count=1, uniform=1.5, seed=0)


def test_every_pair_is_as_likely_to_be_drawn() -> None:
    counts = Counter(
        each.place
        for seed in range(400)
        for each in choose(KEYS, list(range(50)), strategy="margin", count=25, uniform=0.2, seed=seed)
        if each.strategy == "uniform"
    )
    # 400 draws of 5 in 50: 40 each, with a standard deviation of 6.
    assert 15 < min(counts.values()) < max(counts.values()) < 65
    assert len(counts) == 50


def test_scores_are_read_as_they_were_written(tmp_path) -> None:
    path = tmp_path / "deep" / "scores.jsonl"
    rows = {("p", "a"): (0.1, -2.0), ("p", "b"): (1e-9, 3.0)}
    assert write_scores(path, rows.items()) == 2
    assert read_scores(path) == rows
    for line, message in (
        ("{}", "scores.jsonl:1: is not a row"),
        ('{"prompt": "p", "completion": "c", "scores": []}', "they must be finite numbers"),
        ('{"prompt": "p", "completion": "c", "scores": [Infinity]}', "they must be finite numbers"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(InputError, match=message):
            read_scores(path)
    path.write_text(
        '{"prompt": "p", "completion": "c", "scores": [1]}\n{"prompt": "p", "completion": "d", "scores": [1, 2]}\n'
    )
    with pytest.raises(InputError, match="same number of scores"):
        read_scores(path)
    with pytest.raises(InputError, match="write it with `prefloop data score`"):
        read_scores(tmp_path / "none.jsonl")
