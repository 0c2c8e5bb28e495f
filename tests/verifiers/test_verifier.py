"""What counts as right, and what is said of answers that nothing can be compared with."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prefloop as pl
from prefloop.configs.common import Data
from prefloop.configs.verifiers import VerifierConfig, read_verifier
from prefloop.data import load_prompts
from prefloop.errors import InputError
from prefloop.feedback.utility import find_utility
from prefloop.loop.inputs import prompts
from prefloop.records import Prompt
from prefloop.rollout import load_function
from prefloop.verifiers import Verifier
from tests.algorithms.small import settings, train, write
from tests.tiny_project import tokenizer


def right(kind: Any, answer: Any, text: str, **more: Any) -> bool:
    verifier = Verifier(VerifierConfig(kind=kind, column="answer", right=2.0, wrong=-1.0, **more))
    (score,) = verifier([Prompt(content="q", columns={"answer": answer})], [text])
    assert score in (2.0, -1.0)
    return score == 2.0


@pytest.mark.parametrize(
    ("kind", "answer", "text", "more", "expected"),
    [
        ("exact", "Paris", " Paris\n", {}, True),
        ("exact", "Paris", "It is Paris", {}, False),
        ("exact", "New  York", "New York", {}, True),
        ("exact", "Paris", "paris", {}, False),
        ("exact", "Paris", "PARIS", {"ignore_case": True}, True),
        ("exact", ["Paris", "Paree"], "Paree", {}, True),
        ("exact", 72, "so 71\n#### 71\n#### 72", {"extract": r"####\s*(.*)"}, True),
        ("exact", 71, "so 71\n#### 71\n#### 72", {"extract": r"####\s*(.*)"}, False),
        ("exact", "72", "72", {"extract": r"####\s*(.*)"}, False),
        ("number", "48 + 24 = 72\n#### 72", "That makes 72.0 in all.", {}, True),
        ("number", "1,234.50", "$1234.5", {}, True),
        ("number", 5, "-5", {}, False),
        ("number", 5, "5 then 6", {}, False),
        ("number", 5, "none", {}, False),
        ("number", "2e3", "2000", {}, True),
        ("number", 5, "5 then 6", {"extract": r"^\S+"}, True),
        ("regex", r"^\d{3}$", "x\n123", {}, False),
        ("regex", r"(?m)^\d{3}$", "x\n123", {}, True),
        ("regex", "yes", "YES", {"ignore_case": True}, True),
    ],
)
def test_what_is_right(kind: str, answer: Any, text: str, more: dict[str, Any], expected: bool) -> None:
    assert right(kind, answer, text, **more) is expected


def test_a_pattern_that_explodes_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("prefloop.verifiers.verifier.MATCH_SECONDS", 0.05)
    assert not right("regex", r"^(a|a|aa)+$", "a" * 60 + "b")
    assert "regular expression took more than" in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "exact", "column": ""}, "column is empty"),
        ({"kind": "exact", "column": "a", "seconds": 9}, "seconds is 9, but kind is exact"),
        ({"kind": "code", "column": "a", "ignore_case": True}, "ignore_case is True, but kind is code"),
        (
            {"kind": "number", "column": "a", "extract": "("},
            "extract is '\\(', which is not a regular expression",
        ),
        ({"kind": "number", "column": "a", "right": -1.0}, "right must be the higher score"),
        ({"kind": "code", "column": "a", "memory_mb": 0}, "memory_mb is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        VerifierConfig(**given)


def test_a_verifier_is_named_short_or_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "verifier.yaml"
    file.write_text("kind: exact\ncolumn: answer\nignore_case: true\n")
    assert read_verifier(f"verifier:{file}") == VerifierConfig(
        kind="exact", column="answer", ignore_case=True
    )
    assert read_verifier("number:final") == VerifierConfig(kind="number", column="final")
    asked = [Prompt(content="q", columns={"answer": "Yes"})]
    assert load_function(f"verifier:{file}")(asked, ["yes"]) == [1.0]
    assert find_utility("exact:answer")(asked[0], "yes") == 0.0
    with pytest.raises(InputError, match=r"there is no file 'gone\.yaml'"):
        load_function("verifier:gone.yaml")
    with pytest.raises(InputError, match="name the column too, for example exact:answer"):
        load_function("exact:")


@pytest.mark.parametrize(
    ("rows", "scorer", "said"),
    [
        ([{"prompt": "a", "answer": 1}, {"prompt": "b"}], "exact:answer", r":2: `answer` is missing"),
        ([{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": None}], "exact:answer", r":2: `answer` is null"),
        ([{"prompt": "a", "answer": "one"}], "number:answer", r":1: `answer` is 'one': .*holds no number"),
        ([{"prompt": "a", "answer": "("}], "regex:answer", r":1: `answer` is '\(': .*not a regular expression"),
        ([{"prompt": "a", "answer": 1}], "code:answer", r":1: `answer` is 1: .*write Python tests"),
        (
            [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 1}, {"prompt": "a", "answer": 2}],
            "exact:answer",
            r":3: `answer` is 2: the same prompt has 1 at .*:1; keep one",
        ),
    ],
)  # fmt: skip
def test_bad_answers_are_found_when_the_data_is_read(
    tmp_path: Path, rows: list[Any], scorer: str, said: str
) -> None:
    write(tmp_path / "prompts.jsonl", rows)
    with pytest.raises(InputError, match=said):
        prompts(Data(source=str(tmp_path / "prompts.jsonl")), tokenizer(), "", scorers=(scorer,))


def test_columns_are_read_with_their_prompts_and_are_part_of_the_hash(tmp_path: Path) -> None:
    hashes = set()
    for answer in ("1", "2"):
        write(tmp_path / "prompts.jsonl", [{"prompt": "a", "answer": answer, "source": "x"}])
        data = Data(source=str(tmp_path / "prompts.jsonl"), heldout=0.0)
        train, _, read = prompts(data, tokenizer(), "", scorers=("exact:answer",))
        assert train.records[0].columns == {"prompt": "a", "answer": answer, "source": "x"}
        assert "columns not used: source" in read.summary
        hashes.add(read.sha256)
    assert len(hashes) == 2
    assert load_prompts(tmp_path / "prompts.jsonl").records == (Prompt(content="a"),)  # equal by content


def test_a_store_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"reads the column 'answer' of the prompts, but data.source is store"
    ):
        prompts(Data(source="store"), tokenizer(), str(tmp_path / "s.db"), scorers=("", "exact:answer"))


def test_a_stage_learns_from_a_verifier(project: Path, tmp_path: Path) -> None:
    """The score it logs is the share of completions that the verifier finds right when it is asked again."""
    patterns = {"sun": "^", "rain": "(?!)", "tea": "[aeiou]"}
    write(tmp_path / "asked.jsonl", [{"prompt": p, "answer": each} for p, each in patterns.items()])
    data = Data(source=str(tmp_path / "asked.jsonl"), heldout=0.0)
    small = settings("grpo", project, out=str(tmp_path / "run"))
    train(replace(small, reward_model="regex:answer", data=data))
    shown = [json.loads(line) for line in (tmp_path / "run/samples/step-1.jsonl").read_text().splitlines()]
    assert {each["prompt"] for each in shown} == set(patterns)
    for each in shown:
        assert each["score"] == float(bool(re.search(patterns[each["prompt"]], each["completion"]))), each


def test_from_python_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop.api.given import settings_from
    from prefloop.configs.critic_free import GRPOConfig

    monkeypatch.chdir(tmp_path)
    given = {"model": "m", "data": [{"prompt": "a", "answer": 1}]}
    plain = settings_from(GRPOConfig, {**given, "reward": pl.verifier("exact", "answer")}, stage="grpo")
    assert plain.reward_model == "exact:answer"
    more = pl.verifier("exact", "answer", ignore_case=True)
    named = settings_from(GRPOConfig, {**given, "reward": more}, stage="grpo").reward_model
    assert read_verifier(named) == more.config
    with pytest.raises(InputError, match="ignore_cases"):
        pl.verifier("exact", "answer", ignore_cases=True)
