"""summary.json and evaluation.json: the published keys, round trips, and errors that say where."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.evaluation.intervals import Estimate, exactly, mean_interval
from prefloop.evaluation.json_files import encode, write_json
from prefloop.evaluation.summary import (
    PolicySummary,
    RewardModelSummary,
    Summary,
    read_evaluation,
    read_summary,
    write_evaluation,
    write_summary,
)
from tests.evaluation.made_up import make_evaluation


def test_round_trip(tmp_path: Path):
    summary, evaluation = make_evaluation()
    write_summary(tmp_path / "summary.json", summary)
    write_evaluation(tmp_path / "evaluation.json", evaluation)
    assert read_summary(tmp_path / "summary.json") == summary
    assert read_evaluation(tmp_path / "evaluation.json") == evaluation
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "summary.json"]


def test_published_keys(tmp_path: Path):
    summary, _ = make_evaluation()
    write_summary(tmp_path / "summary.json", summary)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert list(found)[:5] == ["recipe", "seconds", "peak_rss_mb", "reward_model", "policies"]
    assert list(found["reward_model"])[:2] == ["accuracy", "ceiling"]
    assert list(found["reward_model"]["accuracy"]) == ["value", "low", "high", "n"]
    assert [policy["name"] for policy in found["policies"]] == ["sft", "ppo", "dpo"]
    for policy in found["policies"]:
        keys = ["name", "checkpoint", "gold", "proxy", "kl", "win_rate_vs_sft", "length", "repetition"]
        assert list(policy) == [*keys, "perplexity_under_sft"]
        assert all(list(policy[key]) == ["value", "low", "high", "n"] for key in keys[2:])


def test_what_is_not_known_is_null_or_left_out(tmp_path: Path):
    policy = PolicySummary(
        name="sft", checkpoint="sft", kl=exactly(0, 1), length=mean_interval([3.0]), repetition=exactly(0, 1)
    )
    summary = Summary(
        recipe="hh",
        seconds=1,
        peak_rss_mb=math.nan,
        reward_model=RewardModelSummary(accuracy=exactly(0.6, 5), ceiling=None),
        policies=(policy,),
    )
    write_summary(tmp_path / "summary.json", summary)
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert found["peak_rss_mb"] is None
    assert found["reward_model"]["ceiling"] is None
    assert "gold" not in found["policies"][0]
    back = read_summary(tmp_path / "summary.json")
    assert math.isnan(back.peak_rss_mb)
    assert math.isnan(back.policies[0].length.low)
    assert back.policies[0].gold is None


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path):
    summary, _ = make_evaluation()
    found = encode(summary) | {"something_new": [1, 2]}
    (tmp_path / "summary.json").write_text(json.dumps(found))
    assert read_summary(tmp_path / "summary.json") == summary


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda s: s.pop("recipe"), r"summary\.json: recipe is missing"),
        (lambda s: s.update(seconds="long"), r'summary\.json: seconds is "long"; it must be a number'),
        (lambda s: s["policies"][1]["kl"].pop("low"), r"policies\[1\]\.kl\.low is missing"),
        (lambda s: s["policies"][0].update(kl=3), r"policies\[0\]\.kl is 3; it must be an object"),
        (lambda s: s["policies"][0]["gold"].update(n=True), r"gold\.n is true; it must be a whole number"),
        (lambda s: s.update(policies={}), r"policies is \{\}; it must be a list"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, break_it, said: str):
    found = encode(make_evaluation()[0])
    break_it(found)
    (tmp_path / "summary.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=said):
        read_summary(tmp_path / "summary.json")


def test_broken_files(tmp_path: Path):
    path = tmp_path / "summary.json"
    with pytest.raises(InputError, match="cannot be read"):
        read_summary(path)
    path.write_text('{"recipe":\n "toy",')
    with pytest.raises(InputError, match=r"summary\.json:2: not JSON"):
        read_summary(path)
    path.write_bytes(b'{"recipe": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8 at byte 12"):
        read_summary(path)
    path.write_text("[]")
    with pytest.raises(InputError, match=r"summary\.json is \[\]; it must be an object"):
        read_summary(path)


def test_prompts_of_both_kinds_and_bad_ones(tmp_path: Path):
    _, evaluation = make_evaluation()
    found = encode(evaluation)
    assert isinstance(found["prompts"][0], str)
    assert found["prompts"][2][1] == {"role": "user", "content": "My tea is cold. What now?"}
    found["prompts"][2][1]["role"] = "robot"
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"prompts\[2\]\[1\]\.role is 'robot'"):
        read_evaluation(tmp_path / "evaluation.json")


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "summary.json"
    write_json(path, {"old": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefloop.evaluation.json_files.os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]


def test_numpy_numbers_and_odd_text_can_be_written(tmp_path: Path):
    write_json(
        tmp_path / "x.json",
        {"a": np.float32(0.5), "b": np.int64(3), "c": np.nan, "d": "\ud800", "e": Path("x")},
    )
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 0.5, "b": 3, "c": None, "d": "?", "e": "x"}


def test_further_estimates_survive():
    policy = PolicySummary(
        name="ppo",
        checkpoint="ppo",
        kl=exactly(1, 2),
        length=exactly(1, 2),
        repetition=exactly(0, 2),
        further={"positive_share": Estimate(value=0.8, low=0.7, high=0.9, n=2)},
    )
    assert PolicySummary.from_json(policy.to_json(), "x") == policy
