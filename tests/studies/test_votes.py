"""The study of votes: pools, strategies and measures by hand, and the whole of it at its smallest."""

from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.studies import votes
from prefloop.studies.votes import JudgedVotes, VotesSettings, asked_by, make_pool, read, votes_until
from tests.studies.made_up import write_votes

NAN = float("nan")
HAND = JudgedVotes(
    names=("good", "bad"),
    won=np.array([[1.0, 1.0, 1.0, NAN], [0.0, 1.0, 0.0, 0.0]]),
    length=np.ones((2, 4)),
    baseline_length=np.ones((2, 4)),
)


def test_two_systems_meet_through_their_votes_against_the_baseline() -> None:
    pool = make_pool(HAND, "pairs", seed=0)
    assert list(zip(pool.first, pool.second, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert [sorted(each.tolist()) for each in pool.outcomes] == [[0, 0, 2], [0, 0, 0], [0, 1, 1, 1]]
    assert len(make_pool(HAND, "baseline", seed=0).first) == 2


def test_all_votes_give_the_order_of_all_votes(tmp_path: Path) -> None:
    judged = read(str(write_votes(tmp_path / "data", systems=5)))
    settings = VotesSettings(votes=10_000, first=10, batch=100)
    for strategy in votes.STRATEGIES:
        found = asked_by(judged, settings, 0, design="baseline", strategy=strategy)
        assert found["votes"][-1] == 5 * 60
        assert found["right"][-1] == 1.0
        assert (
            found["error"][-1] < 0.002
        )  # the prior is weak, and a rate of one system has no other vote in it


def test_no_vote_is_asked_twice_and_none_too_many(tmp_path: Path) -> None:
    judged = read(str(write_votes(tmp_path / "data", systems=4, prompts=20)))
    settings = VotesSettings(votes=50, first=10, batch=7)
    for strategy in votes.STRATEGIES:
        for design in votes.DESIGNS:
            found = asked_by(judged, settings, 1, design=design, strategy=strategy)
            assert found["votes"] == [7, 14, 21, 28, 35, 42, 49, 50]


def test_a_level_is_reached_where_it_is_kept() -> None:
    measure = votes_until(0.9)
    assert measure({"votes": [1, 2, 3, 4], "certain": [0.9, 0.5, 0.95, 1.0]}) == 3
    assert measure({"votes": [1, 2], "certain": [0.9, 1.0]}) == 1
    assert np.isnan(measure({"votes": [1, 2], "certain": [0.9, 0.8]}))


def test_a_folder_without_votes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"outputs\.jsonl\.gz: cannot be read"):
        read(str(tmp_path))
    with pytest.raises(InputError, match="has votes on 2 of the 24 systems"):
        read(str(write_votes(tmp_path / "few", systems=2)))
