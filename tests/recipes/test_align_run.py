"""`prefloop align` from comparisons to report on a tiny model: what it does, says, keeps and refuses."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from prefloop.algorithms import dpo
from prefloop.configs.align import Method
from prefloop.data import load_comparisons, write_jsonl
from prefloop.errors import InputError
from prefloop.evaluation import Estimate
from prefloop.evaluation.reward_model_quality import RewardModelQuality, reward_model_quality
from prefloop.evaluation.summary import read_evaluation
from prefloop.evaluation.win_rate import win_rate_at_equal_length
from prefloop.feedback.judges.model import Reply
from prefloop.recipes.align import decide, judges
from prefloop.recipes.align import run as running
from prefloop.recipes.align import stages as settings_of_stages
from prefloop.recipes.align.judges import Answers, AskedJudge
from prefloop.recipes.align.results import Outcome, judge_alarms, verdict
from prefloop.recipes.align.run import align
from prefloop.records import Prompt
from prefloop.runtime import World
from prefloop.runtime.interrupt import Interrupted
from tests.recipes.align_project import aligned, make_project
from tests.recipes.test_align import MACHINE
from tests.tiny_project import make_demonstrations

HERE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_project(tmp_path_factory.mktemp("align"), count=300)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is not measured, and two steps of methods that sample."""
    monkeypatch.setattr(decide, "measure", lambda *_, **__: MACHINE)
    monkeypatch.setattr(settings_of_stages, "MOST_STEPS", 2)


def many_e(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """A judge: how often the letter e stands in an answer."""
    del prompts
    return [float(text.count("e")) for text in completions]


def test_stopped_and_gone_on_with_it_ends_in_a_report_with_a_verdict(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    config = aligned(project, out, method=("dpo", "grpo"))

    def stopped(settings: object) -> None:
        raise KeyboardInterrupt("stopped")

    real = dpo.train
    monkeypatch.setattr(dpo, "train", stopped)
    with pytest.raises(Interrupted, match=r"resume with: .*align --config .*config.yaml --resume true"):
        align(config)
    monkeypatch.setattr(dpo, "train", real)
    judge_made = (out / "judge/final/model.safetensors").stat().st_mtime_ns
    report = align(aligned(project, out, method=("dpo", "grpo"), resume=True))

    assert (out / "judge/final/model.safetensors").stat().st_mtime_ns == judge_made
    summary = json.loads((out / "summary.json").read_text())
    numbers = json.loads((out / "align.json").read_text())
    page = report.read_text()
    assert summary["verdict"] == numbers["verdict"]
    assert escape(summary["verdict"], quote=False) in page.replace("&#39;", "'")
    assert [policy["name"] for policy in summary["policies"]] == ["start", "dpo", "grpo"]
    assert [each["stage"] for each in summary["stages"]] == ["judge", "reward", "dpo", "grpo", "evaluate"]
    assert all(each["seconds"] > 0 and each["estimated_seconds"] > 0 for each in numbers["stages"])
    assert numbers["labels_by"] == "ann"
    assert "7.02 thousand weights" in page
    assert "Win rate against the start" in page
    assert "SFT" not in page.replace("unless an SFT term is added", "")
    assert not [said for said in ("pretrain", "PPO") if f"the curves of {said}" in page]

    parts = {
        name: load_comparisons(out / f"data/{name}.jsonl").records for name in ("policy", "judge", "measure")
    }
    prompts = [{one.prompt for one in records} for records in parts.values()]
    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    assert numbers["judge_quality"]["accuracy"]["n"] == len(parts["measure"])
    asked = read_evaluation(out / "evaluation.json").prompts
    assert len(asked) == 8
    assert set(asked) <= prompts[2]


def test_the_win_rate_is_the_judges_word_on_the_answers_in_the_report(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    align(aligned(project, out, judge=f"{__name__}:many_e", lr=1e-2, eval_answers=2))
    policies = json.loads((out / "evaluation.json").read_text())["policies"]
    before, after = (
        [one["text"].count("e") for some in each["completions"] for one in some] for each in policies
    )
    assert len(before) == 2 * 8
    wins = [1.0 if b > a else 0.5 if b == a else 0.0 for a, b in zip(before, after, strict=True)]
    numbers = json.loads((out / "align.json").read_text())
    assert numbers["policies"][0]["wins"]["value"] == pytest.approx(sum(wins) / len(wins))
    pairs = load_comparisons(out / "data/measure.jsonl").records
    right = [
        1.0
        if one.chosen.count("e") > one.rejected.count("e")
        else 0.5 * (one.chosen.count("e") == one.rejected.count("e"))
        for one in pairs
    ]
    assert numbers["judge_quality"]["accuracy"]["value"] == pytest.approx(sum(right) / len(right))
    assert not (out / "judge").exists()  # nothing was fitted, and its part is the policy's

    kept = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps({**kept, "data_sha256": "0" * 64}))
    with pytest.raises(InputError, match="no longer holds the comparisons"):
        align(aligned(project, out, judge=f"{__name__}:many_e", lr=1e-2, eval_answers=2, resume=True))
    with pytest.raises(InputError, match="lr"):
        align(aligned(project, out, judge=f"{__name__}:many_e", lr=1e-3, eval_answers=2, resume=True))
    with pytest.raises(InputError, match="is not empty"):
        align(aligned(project, out, judge=f"{__name__}:many_e"))


def test_every_method_with_adapters_after_fine_tuning(project: Path, tmp_path: Path) -> None:
    """All in one project, from a model that was fine-tuned on demonstrations first."""
    out, methods = tmp_path / "out", get_args(Method)
    make_demonstrations(project / "shown.jsonl", 100)
    demonstrations = str(project / "shown.jsonl")
    align(
        aligned(project, out, method=methods, weights="lora", demonstrations=demonstrations, eval_prompts=2)
    )
    summary = json.loads((out / "summary.json").read_text())
    assert [policy["name"] for policy in summary["policies"]] == ["start", *methods]
    assert summary["policies"][0]["checkpoint"] == "sft/final"
    start = load_file(out / "sft/final/model.safetensors")
    for name in methods:
        settings = yaml.safe_load((out / name / "config.yaml").read_text())
        assert (settings["model"], settings["lora"]["rank"]) == (str(out / "sft/final"), 16)
        merged, adapter = (
            load_file(out / name / "final" / file)
            for file in ("model.safetensors", "adapter/adapter_model.safetensors")
        )
        changed = {key for key, tensor in merged.items() if not torch.equal(tensor, start[key])}
        assert changed, name
        assert not [key for key in changed if "_proj" not in key], name  # what adapters lie on, nothing else
        assert any(tensor.any() for key, tensor in adapter.items() if "lora_B" in key), name


def test_nothing_is_written_until_somebody_agrees(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(running.sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(InputError, match=r"no terminal to ask.*--yes true"):
        align(aligned(project, out, yes=False))
    assert "evaluate" in capsys.readouterr().out  # the plan was shown
    monkeypatch.setattr(running.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    with pytest.raises(InputError, match="not started"):
        align(aligned(project, out, yes=False))
    with pytest.raises(InputError, match="judge is 'nobody'"):
        align(aligned(project, out, judge="nobody"))
    assert not out.exists()


def test_prompts_and_demonstrations_that_measure_are_left_out(project: Path) -> None:
    pairs = load_comparisons(project / "pairs.jsonl").records
    write_jsonl([one.prompt for one in pairs], project / "asked.jsonl")
    config = aligned(project, project / "never", method=("grpo",), prompts=str(project / "asked.jsonl"))
    seen = running.look(config)
    measuring = {one.prompt for one in seen.parts["measure"]}
    assert not measuring & set(seen.prompts)
    assert seen.left_out["given prompts in the measuring part"] >= len(measuring)


class _Biased:
    """Says that what is shown first is better, or nothing that can be read."""

    def __init__(self, readable: bool) -> None:
        self.identity = {"model": "biased", "readable": readable}
        self._readable = readable

    def complete(self, messages: object, *, max_tokens: int) -> Reply:
        del messages, max_tokens
        first = {"1": math.log(0.9), "2": math.log(0.1)} if self._readable else {"x": 0.0}
        return Reply(
            text="1" if self._readable else "x", first_token=first, prompt_tokens=1, completion_tokens=1
        )


@pytest.mark.parametrize("readable", [True, False])
def test_an_asked_judge_is_asked_both_ways_and_never_guessed_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    (tmp_path / "judge.yaml").write_text("checkpoint: somewhere\n")
    monkeypatch.setattr(judges, "open_chat", lambda *_, **__: _Biased(readable))
    judge = AskedJudge(str(tmp_path / "judge.yaml"), tmp_path / "cache.db", HERE)
    prompts = [Prompt(content=f"question {i}") for i in range(3)]
    a = Answers(texts=["one", "two", "same"], ended=[True] * 3)
    b = Answers(texts=["ONE", "TWO", "same"], ended=[True] * 3)
    if readable:
        assert judge.compare(prompts, a, b) == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    else:
        odds = judge.compare(prompts, a, b)
        assert np.isnan(odds[:2]).all()
        assert odds[2] == 0.0
    assert judge.scores(prompts, a) is None


def test_length_is_taken_out_of_a_win_rate() -> None:
    """Verdicts are drawn with a known worth of length, so the rate at equal length is known too."""
    draw = np.random.default_rng(0)
    difference = draw.normal(40, 30, 4000)
    log_odds = -0.4 + 1.5 * np.tanh(difference / difference.std())
    wins = (draw.random(4000) < 1 / (1 + np.exp(-log_odds))).astype(float)
    assert wins.mean() > 0.6
    found = win_rate_at_equal_length(wins, difference, np.zeros(4000))
    assert found is not None
    assert found.low < 1 / (1 + math.exp(0.4)) < found.high < 0.5
    assert win_rate_at_equal_length(wins[:29], difference[:29], np.zeros(29)) is None
    assert win_rate_at_equal_length(wins, np.ones(4000), np.zeros(4000)) is None
    # Pairs that say the same four times over are one pair, not four.
    some, of = slice(0, 200), np.repeat(np.arange(200), 4)
    once = win_rate_at_equal_length(wins[some], difference[some], np.zeros(200))
    four = win_rate_at_equal_length(wins[some][of], difference[some][of], np.zeros(800), clusters=of)
    apart = win_rate_at_equal_length(wins[some][of], difference[some][of], np.zeros(800))
    assert once is not None
    assert four is not None
    assert apart is not None
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.1)
    assert apart.high - apart.low < 0.6 * (once.high - once.low)
    always = win_rate_at_equal_length(np.ones(50), difference[:50], np.zeros(50))
    assert always is not None
    assert math.isfinite(always.low)


def _estimate(value: float, half: float = 0.04, n: int = 200) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def _quality(right: float, longer: float, n: int = 400) -> RewardModelQuality:
    scores, lengths = np.zeros(n), np.zeros(n)
    scores[: round(right * n)] = 1.0
    lengths[: round(longer * n)] = 1.0
    return reward_model_quality(scores, np.full(n, 0.5), lengths, np.full(n, 0.5))


@pytest.mark.parametrize(
    ("wins", "begin"),
    [
        (0.61, "dpo made the model better"),
        (0.52, "No difference is shown"),
        (0.4, "dpo made the model worse"),
    ],
)
def test_the_verdict_is_a_sentence(wins: float, begin: str) -> None:
    outcome = Outcome(
        name="dpo",
        wins=_estimate(wins),
        at_equal_length=_estimate(0.55),
        longer=0.2,
        unjudged=0,
        prompts=200,
    )
    text = verdict([outcome], _quality(0.68, 0.6), "a judge", "gpt-4")
    assert text.startswith(begin)
    for part in (
        f"{round(100 * wins)}\u00a0% [",
        "of 200 held-out prompts by a judge",
        "agrees with gpt-4 on 68",
        "20\u00a0% longer",
        "at equal length 55",
    ):
        assert part in text
    several = verdict([replace(outcome, prompts=70)], _quality(0.68, 0.6), "a judge", "gpt-4")
    assert "of 200 answers to 70 held-out prompts by a judge" in several


@pytest.mark.parametrize(
    ("equal", "longer_is_right", "begin"),
    [
        (0.58, 0.6, "dpo made the model better"),
        (0.53, 0.6, "dpo made the model better"),
        (0.58, 0.75, "dpo made the model better"),
        (0.53, 0.75, "dpo is not shown to be better, as its answers are longer and the judge may know"),
        (0.4, 0.75, "dpo is not shown to be better, as its answers are longer"),
        (None, 0.75, "dpo is not shown to be better, as its answers are longer"),
    ],
)
def test_better_is_not_said_where_it_may_be_length(
    equal: float | None, longer_is_right: float, begin: str
) -> None:
    at_equal_length = None if equal is None else _estimate(equal)
    outcome = Outcome(
        name="dpo",
        wins=_estimate(0.62),
        at_equal_length=at_equal_length,
        longer=0.14,
        unjudged=0,
        prompts=200,
    )
    text = verdict([outcome], _quality(0.71, longer_is_right), "a judge", "gpt-4")
    assert text.startswith(begin)
    assert "62\u00a0% [" in text
    chance = verdict([outcome], _quality(0.51, longer_is_right), "a judge", "gpt-4")
    assert chance.startswith("Nothing is shown about dpo")


def test_a_judge_that_knows_little_raises_an_alarm_with_a_way_out() -> None:
    assert judge_alarms(_quality(0.7, 0.6), "it") == []
    (chance,) = judge_alarms(_quality(0.5, 0.6), "it")
    assert "better than chance" in chance
    assert "--judge judge.yaml" in chance
    (length,) = judge_alarms(_quality(0.7, 0.8), "it")
    assert "the longer" in length
