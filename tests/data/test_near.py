"""Near duplicates and contradictions: what is found, by hand; and that long rankings and odd shapes take time that grows with the file."""

import random
from pathlib import Path

import pytest

from prefloop.data import check
from prefloop.data.contradictions import contradictions
from prefloop.data.formats import Record
from prefloop.data.near import near_pairs
from prefloop.records import Comparison, Prompt, Ranking
from tests.data.cases import jsonl

LONG = (
    "Write a short story about a lighthouse keeper who finds a letter in a bottle, and who then has to decide "
    "whether to answer it or to throw it back into the sea before the winter storms arrive at the coast"
)


def test_a_word_changed_in_thirty_is_near() -> None:  # D14
    changed = LONG.replace("winter", "autumn")
    other = LONG.replace("lighthouse keeper", "young baker").replace("a letter in a bottle", "old bread")
    other = other.replace("throw it back into the sea", "sell it at the market").replace("coast", "town")
    left = ["Something else", LONG, "2+2?"]
    assert near_pairs(left, [changed, other, "2+3?", LONG.upper() + "!!", ""]) == [(0, 1), (3, 1)]


def test_scattered_texts_are_not_near() -> None:
    rng = random.Random(0)
    words = [f"word{n}" for n in range(500)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(400)]
    twins = [text + " and so on" for text in texts[:50]]
    assert near_pairs(texts[:200], texts[200:]) == []
    assert near_pairs(texts, twins) == [(n, n) for n in range(50)]


def test_check_counts_near_prompts_on_both_sides(tmp_path: Path) -> None:  # D14
    rows = [{"prompt": LONG.replace("short", f"short{n}"), "completion": "x"} for n in range(40)]
    report = check(jsonl(tmp_path / "a.jsonl", rows))
    (found,) = [each for each in report.leaks if each.name == "nearly the same prompt in train and heldout"]
    assert found.count == report.parts["heldout"] > 0


def ranking(*completions: str, prompt: str = "p") -> Ranking:
    return Ranking(prompt=Prompt(content=prompt), completions=completions)


def comparison(chosen: str, rejected: str) -> Comparison:
    return Comparison(prompt=Prompt(content="p"), chosen=chosen, rejected=rejected)


MANY = tuple(f"c{n}" for n in range(3000))


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([ranking(*MANY), ranking(*MANY)], []),
        ([ranking(*MANY), ranking(*reversed(MANY))], ["1 contradicts 0"]),
        ([ranking(*MANY), ranking(*reversed(MANY), prompt="q")], []),
        ([ranking(*MANY), ranking("new", *MANY[:50])], []),
        ([ranking(*MANY), ranking(MANY[9], MANY[2000], MANY[8])], ["1 contradicts 0"]),
        ([comparison("c7", "c3"), ranking(*MANY)], ["1 contradicts 0"]),
        ([ranking(*MANY), comparison("c7", "c3"), comparison("c3", "c7")], ["1 contradicts 0", "2 contradicts 1"]),
        ([ranking("a", "b", "c"), comparison("c", "a"), ranking("a", "c")], ["1 contradicts 0", "2 contradicts 1"]),
    ],
)  # fmt: skip
def test_contradictions_of_long_and_short_rankings(records: list[Record], found: list[str]) -> None:
    assert contradictions([(record, str(n)) for n, record in enumerate(records)]) == found


def test_a_long_ranking_makes_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 completions are 4.5 million comparisons; the check makes none of them."""

    def refuse(_: Ranking) -> tuple[Comparison, ...]:
        raise AssertionError("pairs were made")

    monkeypatch.setattr(Ranking, "comparisons", refuse)
    report = check(jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "completions": MANY}]))
    assert report.facts["most completions"] == 3000


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("label", (True, True), ["labels, all of them true: training on labels needs both"]),
        ("label", (True, False), []),
        ("score", (0.5, 0.5), ["scores, all of them 0.5: training on scores needs different ones"]),
        ("score", (0.5, 0.6), []),
    ],
)
def test_check_says_that_labels_tell_nothing(
    tmp_path: Path, column: str, values: tuple[object, ...], found: list[str]
) -> None:
    rows = [{"prompt": f"p{n}", "completion": "a", column: value} for n, value in enumerate(values)]
    assert [each.name for each in check(jsonl(tmp_path / "a.jsonl", rows)).odd] == found
