"""`check`: every number of its report by hand on small files."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.data import check, part_of
from prefloop.data.check import Finding
from prefloop.errors import InputError
from prefloop.records import Prompt
from tests.data.cases import jsonl


def pair(prompt: Any, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def prompts_in(part: str, count: int) -> list[str]:
    """Prompts that the default split puts in a part."""
    every = (f"prompt {n}" for n in range(1000))
    return [text for text in every if part_of(Prompt(content=text), heldout=0.1) == part][:count]


def counts(findings: tuple[Finding, ...]) -> dict[str, int]:
    return {found.name: found.count for found in findings}


def test_lengths(tmp_path: Path) -> None:
    rows = [pair("a b", "x" * n, "y " * n) for n in range(1, 21)]
    report = check(jsonl(tmp_path / "a.jsonl", rows), tokenizer=lambda text: 10 * len(text))
    lengths = {(row.field, row.unit): row for row in report.lengths}
    assert len(lengths) == 9
    chosen, rejected = lengths["chosen", "characters"], lengths["rejected", "words"]
    assert (chosen.count, chosen.min, chosen.median, chosen.p95, chosen.max) == (20, 1, 10.5, 19, 20)
    assert (rejected.min, rejected.median, rejected.p95, rejected.max) == (1, 10.5, 19, 20)
    assert lengths["chosen", "tokens"].max == 200
    assert lengths["prompt", "words"].max == 2
    assert report.facts["share with chosen longer (characters, equal counts half)"] == 0


def test_duplicates_and_contradictions(tmp_path: Path) -> None:
    rows = [
        pair("p", "a", "b"),
        pair("p", "b", "a"),
        pair("p", "a", "b", annotator="x"),
        pair("q", "a", "b"),
        pair("p", "a", "c"),
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    report = check(path)
    assert report.distinct_prompts == 2
    assert counts(report.duplicates) == {
        "same prompt as an earlier row": 3,
        "same prompt and completions as an earlier row": 1,
        "judged the other way round in an earlier row": 2,
    }
    assert report.duplicates[1].examples == (f"{path}:3 repeats {path}:1",)
    assert report.duplicates[2].examples == (
        f"{path}:2 contradicts {path}:1",
        f"{path}:3 contradicts {path}:2",
    )


def test_contradictions_of_labels_and_rankings(tmp_path: Path) -> None:
    labels = [
        {"prompt": "p", "completion": text, "label": good}
        for text, good in (("a", True), ("b", True), ("a", False))
    ]
    assert check(jsonl(tmp_path / "l.jsonl", labels)).duplicates[-1].count == 1
    rankings = [{"prompt": "p", "completions": order} for order in (["a", "b", "c"], ["a", "c", "b"])]
    assert check(jsonl(tmp_path / "r.jsonl", rankings)).duplicates[-1].count == 1


def test_leaks_between_train_and_heldout(tmp_path: Path) -> None:
    (trained, spaced), (held,) = prompts_in("train", 2), prompts_in("heldout", 1)
    spaced_twin = next(
        twin
        for twin in (
            spaced.upper(),
            f" {spaced}",
            f"{spaced} ",
            *(" " * n + spaced.upper() for n in range(99)),
        )
        if part_of(Prompt(content=twin), heldout=0.1) == "heldout"
    )
    rows = [
        pair(trained, "same", "other"),
        pair(spaced, "one", "two"),
        pair(held, "new", "same"),
        pair(spaced_twin, "three", "four"),
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    report = check(path)
    assert report.parts == {"train": 2, "heldout": 2}
    assert counts(report.leaks) == {
        "same prompt in train and heldout": 0,
        "same prompt except for case and spaces, in train and heldout": 1,
        "nearly the same prompt in train and heldout": 0,
        "same completion in train and heldout": 1,
    }
    assert report.leaks[1].examples == (f"{path}:4 and {path}:2",)
    assert report.leaks[3].examples == (f"{path}:3 and {path}:1",)
    assert check(path, heldout=0).parts == {"train": 4, "heldout": 0}


def test_leaks_between_two_sources(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", [pair("p", "a", "b"), pair("q", "c", "d"), pair("r", "e", "f")])
    two = jsonl(tmp_path / "two.jsonl", [pair("P ", "a", "x"), pair("q", "z", "y"), "{broken"])
    report = check(one, against=two)
    where = f"in {one} and {two}"
    assert counts(report.leaks[4:]) == {
        f"same prompt {where}": 1,
        f"same prompt except for case and spaces, {where}": 2,
        f"nearly the same prompt {where}": 0,
        f"same completion {where}": 1,
    }
    assert report.against is not None
    assert len(report.against.bad) == 1
    assert f"bad rows of {two} (3 rows): 1\n  {two}:3: `line` is '{{broken'" in str(report)


def test_two_splits_of_one_folder(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"text": "a"}, {"text": "b"}])
    jsonl(tmp_path / "test.jsonl", [{"text": "b"}, {"text": "c"}])
    report = check(tmp_path, against=tmp_path)
    assert report.leaks[-2].examples == (f"{tmp_path}/test.jsonl:1 and {tmp_path}/train.jsonl:2",)


def test_odd_rows_are_named_and_kept(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Human: Hi"}
    chats = jsonl(
        tmp_path / "c.jsonl",
        [{"messages": [user, answer]}, {"messages": [user, user, answer | {"content": "x"}]}],
    )
    report = check(chats)
    assert counts(report.odd) == {
        "consecutive turns of one role": 1,
        "a speaker's label (`Human:`, `Assistant:`, `User:`) inside a turn": 1,
    }
    assert report.summary.kept == 2
    echo = check(jsonl(tmp_path / "e.jsonl", [pair("p", "p a", "p b"), pair("p", "p a", "b")]))
    assert counts(echo.odd) == {"every completion begins with the whole prompt": 1}


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        ([pair("p", "long", "b", margin=0.5, annotator="x"), pair("p", "a", "b")],
         {"share with chosen longer (characters, equal counts half)": 0.75, "with a margin": 1, "annotators": 1}),
        ([{"prompt": "p", "completion": "a", "label": value} for value in (True, False, False, False)],
         {"share labelled true": 0.25}),
        ([{"prompt": "p", "completion": "a", "score": value} for value in (-1, 0.0, 3)],
         {"lowest score": -1, "median score": 0, "highest score": 3}),
        ([{"prompt": "p", "completions": ["a", "b"]}, {"prompt": "p", "completions": ["a", "b", "c"]}],
         {"fewest completions": 2, "most completions": 3}),
    ],
)  # fmt: skip
def test_facts(tmp_path: Path, rows: list[Any], facts: dict[str, float]) -> None:
    assert check(jsonl(tmp_path / "a.jsonl", rows)).facts == facts


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x"},
        {"prompt": "x"},
        {"prompt": [{"role": "user", "content": "x"}], "completion": "y"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    ],
)
def test_every_format_has_a_report_in_text_and_json(tmp_path: Path, row: dict[str, Any]) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row, row])
    report = check(path)
    assert report.duplicates[0].count == 1
    data = json.loads(json.dumps(report.to_json()))
    assert data["summary"]["read"] == 2
    assert data["duplicates"][0]["examples"] == [f"{path}:2 repeats {path}:1"]
    assert str(report).startswith(
        f"{path}: 2 rows of format {report.summary.format}\n  2 can be used, 0 are bad\n"
    )


def test_every_bad_row_is_listed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, *[{"text": ""}] * 50])
    report = check(path)
    listed = str(report).split("bad rows of ")[1].splitlines()
    assert listed[0] == f"{path} (51 rows): 50"
    assert [line.split(":")[1] for line in listed[1:]] == [str(line) for line in range(2, 52)]


def test_rows_that_are_all_bad_still_have_a_report(tmp_path: Path) -> None:
    report = check(jsonl(tmp_path / "a.jsonl", [{"text": ""}]))
    assert (report.summary.kept, report.lengths) == (0, ())
    assert "1 rows of format text\n  0 can be used, 1 are bad" in str(report)


def test_format_that_is_not_told_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="match no known format"):
        check(jsonl(tmp_path / "a.jsonl", [{"a": 1}]))


def test_real_reviews(real_data: Path) -> None:
    pytest.importorskip("pyarrow")
    path = real_data / "imdb" / "train.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    report = check(path)
    assert (report.summary.format, report.summary.kept, report.distinct_prompts) == ("text", 25_000, 24_904)
    assert report.summary.unused_columns == ("id", "rating")
    assert report.duplicates[0].count == 96
    assert report.leaks[0].count == 0
