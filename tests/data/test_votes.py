"""Votes between models from files: which column says what, what winners are called, and what is refused."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.data import load_prompts, load_records
from prefloop.data.vote_answers import with_answers
from prefloop.data.vote_columns import column_map, holds_votes
from prefloop.data.votes import VoteFile, read_votes
from prefloop.errors import InputError
from prefloop.records import Message, Prompt


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(file: VoteFile) -> list[tuple[str, str, str]]:
    return [(*vote.models, vote.choice) for vote in file.votes]


CROWD = [
    {"id": 0, "prompt": 8, "model_x": 97, "model_y": 98, "worker": "w1", "winner": "left", "left": "Airo", "right": "Weaver"},
    {"id": 0, "prompt": 8, "model_x": 97, "model_y": 98, "worker": "w2", "winner": "tie", "left": "Airo", "right": "Weaver"},
    {"id": 1, "prompt": 5, "model_x": 98, "model_y": 5, "worker": "w1", "winner": "right", "left": "Weaver", "right": "Hermes"},
]  # fmt: skip


def test_a_crowds_table(tmp_path: Path) -> None:  # D11
    """The models' names stand in left and right, their numbers in model_x and model_y."""
    path = table(tmp_path / "crowd.csv", CROWD)
    file = read_votes(path)
    assert said(file) == [("Airo", "Weaver", "a"), ("Airo", "Weaver", "tie"), ("Weaver", "Hermes", "b")]
    assert [vote.judge for vote in file.votes] == ["w1", "w2", "w1"]
    assert [vote.prompt_id for vote in file.votes] == ["8", "8", "5"]
    assert file.unused_columns == ("id",)
    for load in (load_prompts, load_records):
        with pytest.raises(InputError, match=r"holds votes between models .*`prefloop arena "):
            load(path)


def test_a_number_that_changes_its_model_is_refused(tmp_path: Path) -> None:
    rows = [*CROWD] * 40 + [{**CROWD[0], "left": "Other"}]
    with pytest.raises(
        InputError, match=r"crowd.csv:122: `model_x` is '97': it is Other here and Airo in an"
    ):
        read_votes(table(tmp_path / "crowd.csv", rows))


def test_left_and_right_may_be_the_order_shown_or_the_answers(tmp_path: Path) -> None:
    shown = [
        {"model_a": "p", "model_b": "q", "left": "q", "right": "p", "winner": "left"},
        {"model_a": "p", "model_b": "q", "left": "p", "right": "q", "winner": "left"},
    ]
    assert said(read_votes(table(tmp_path / "shown.csv", shown))) == [("q", "p", "a"), ("p", "q", "a")]
    answers = [
        {"model_a": "p", "model_b": "q", "left": "Yes.", "right": "No.", "winner": "left"},
        {"model_a": "p", "model_b": "q", "left": "Maybe.", "right": "No!", "winner": "model_b"},
    ]
    file = read_votes(table(tmp_path / "answers.csv", answers))
    assert said(file) == [("p", "q", "a"), ("p", "q", "b")]
    assert [vote.texts for vote in file.votes] == [("Yes.", "No."), ("Maybe.", "No!")]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("a", ["model_a", "A", "left", "Model A", "[[A]]", "leftvote", "gpt-4", "first"]),
        ("b", ["model_b", "b", "RIGHT", "[[B]]", "rightvote", "claude"]),
        ("tie", ["tie", "Tie", "draw", "tie (inconsistent)", "tievote", "both_good"]),
        ("both_bad", ["tie (bothbad)", "both_bad", "bothbad_vote", "Both bad"]),
    ],
)
def test_the_usual_spellings(tmp_path: Path, choice: str, words: list[str]) -> None:
    rows = [{"model_a": "gpt-4", "model_b": "claude", "winner": word} for word in words]
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        file = read_votes(table(tmp_path / f"v{suffix}", rows, delimiter))
        assert [vote.choice for vote in file.votes] == [choice] * len(words)
    packed = tmp_path / "v.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "v.csv").read_bytes()))
    assert said(read_votes(packed)) == said(read_votes(tmp_path / "v.csv"))


@pytest.mark.parametrize(
    ("winner", "why"),
    [
        ("1", "a number may count the sides from 0 or from 1"),
        ("neither", "it may mean a tie, or that both are bad"),
        ("", "it names no winner"),
        ("gpt4", "it is neither a side nor gpt-4 or left"),
        ("left", "it is a side and a model's name"),
    ],
)
def test_a_winner_that_is_not_sure_is_refused(tmp_path: Path, winner: str, why: str) -> None:
    rows = [{"model_a": "gpt-4", "model_b": "left", "winner": each} for each in ("a", winner, "b")]
    path = table(tmp_path / "v.csv", rows)
    with pytest.raises(InputError) as caught:
        read_votes(path)
    assert f"v.csv:3: `winner` is {winner!r}: {why}" in str(caught.value)
    assert "write model_a, model_b, tie or both_bad" in str(caught.value)
    file = read_votes(path, skip_bad=True)
    assert (len(file.votes), [row.origin for row in file.bad]) == (2, [f"{path}:3"])
    assert "1 bad rows left out: 3" in str(file)


def test_alpaca_eval_annotations(tmp_path: Path) -> None:
    """1 is the first output, 2 the second, between them a probability; 0 and 1.5 are draws."""
    rows = [
        {"instruction": "Say hi.", "output_1": "Hi", "generator_1": "base", "output_2": "Hello!", "generator_2": "new",
         "annotator": "gpt4_turbo", "preference": preference}
        for preference in (1.0, 2, 1.25, 1.5, 0)
    ]  # fmt: skip
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    file = read_votes(path)
    assert [vote.p_first for vote in file.votes] == [1.0, 0.0, 0.75, 0.5, 0.5]
    assert [vote.choice for vote in file.votes] == ["a", "b", "a", "tie", "tie"]
    first = file.votes[0]
    assert (first.models, first.texts, first.judge) == (("base", "new"), ("Hi", "Hello!"), "gpt4_turbo")
    assert first.prompt == Prompt(content="Say hi.")
    for wrong, field in ((2.5, "2.5"), (None, "null")):
        path.write_text(json.dumps([rows[0], {**rows[0], "preference": wrong}]), encoding="utf-8")
        with pytest.raises(InputError, match=rf"annotations.json:1 \(element 2\): `preference` is {field}"):
            read_votes(path)


def test_two_games_of_fastchats_judge(tmp_path: Path) -> None:
    """The second game shows the answers the other way round: a judge who changes sides with it prefers neither."""
    games = [
        ("model_1", "model_1", "a"),
        ("model_2", "model_2", "b"),
        ("model_1", "model_2", "tie"),
        ("tie", "model_2", "tie"),
    ]
    rows = [
        {"question_id": 81, "model_1": "p", "model_2": "q", "g1_winner": one, "g2_winner": two,
         "judge": ["gpt-4", "pair-v2"], "g1_judgment": "...", "g2_judgment": "...", "turn": 1, "tstamp": 1.5}
        for one, two, _ in games
    ]  # fmt: skip
    file = read_votes(lines(tmp_path / "gpt-4_pair.jsonl", rows))
    assert [vote.choice for vote in file.votes] == [choice for *_, choice in games]
    assert {(vote.prompt_id, vote.judge, vote.turn) for vote in file.votes} == {("81", "gpt-4 pair-v2", "1")}
    with pytest.raises(InputError, match="`g2_winner` is 'error'"):
        read_votes(lines(tmp_path / "e.jsonl", [*rows, {**rows[0], "g2_winner": "error"}]))
    single = [{"question_id": 81, "model": "p", "score": 9, "turn": 1}]
    with pytest.raises(InputError, match="scores single answers and compares none of them"):
        read_votes(lines(tmp_path / "single.jsonl", single))


def test_an_arenas_conversations(tmp_path: Path) -> None:
    """The answer judged is that of the turn; contents may be lists of parts; votes say their language."""
    ask, again = {"role": "user", "content": "2+2?"}, {"role": "user", "content": "And 3+3?"}

    def dialogue(*answers: str) -> list[dict[str, Any]]:
        said = [{"role": "assistant", "content": [{"type": "text", "text": each}]} for each in answers]
        return [each for pair in zip((ask, again), said, strict=False) for each in pair]

    rows = [
        {"question_id": "x1", "model_a": "p", "model_b": "q", "winner": "tie (bothbad)", "judge": "arena_user_9", "turn": 1,
         "language": "English", "conversation_a": dialogue("5", "6"), "conversation_b": dialogue("four", "six")},
        {"question_id": "x2", "model_a": "p", "model_b": "q", "winner": "model_a", "judge": "arena_user_9", "turn": 2,
         "language": "German", "conversation_a": dialogue("5", "6"), "conversation_b": dialogue("four", "six")},
    ]  # fmt: skip
    one, two = read_votes(lines(tmp_path / "arena.jsonl", rows)).votes
    asked = Prompt(content=(Message(role="user", content="2+2?"),))
    assert (one.choice, one.texts, one.prompt, one.language) == ("both_bad", ("5", "four"), asked, "English")
    assert (two.choice, two.texts, two.prompt, two.turn) == ("a", ("6", "six"), asked, "2")


def test_one_hot_winners(tmp_path: Path) -> None:
    def row(a: int, b: int, tie: int) -> dict[str, Any]:
        return {"id": 1, "model_a": "p", "model_b": "q", "prompt": '["Hi"]', "response_a": '["A"]', "response_b": '["B"]',
                "winner_model_a": a, "winner_model_b": b, "winner_tie": tie}  # fmt: skip

    file = read_votes(table(tmp_path / "v.csv", [row(1, 0, 0), row(0, 1, 0), row(0, 0, 1)]))
    assert [vote.choice for vote in file.votes] == ["a", "b", "tie"]
    assert (file.votes[0].prompt, file.votes[0].texts) == (Prompt(content="Hi"), ("A", "B"))
    with pytest.raises(InputError, match=r"v.csv:2: `winner_model_a and winner_model_b and winner_tie` is"):
        read_votes(table(tmp_path / "v.csv", [row(1, 1, 0)]))


def test_columns_of_other_names(tmp_path: Path) -> None:
    rows = [{"ours": "p", "theirs": "q", "better": "ours", "who": "ann", "q": "7"}]
    path = table(tmp_path / "v.csv", rows)
    with pytest.raises(
        InputError,
        match=r"columns ours, theirs, better, who, q are not those of votes.*--columns model_a=COLUMN",
    ):
        read_votes(path)
    with pytest.raises(InputError, match="`better` is 'ours': it is neither a side nor p or q"):
        read_votes(path, columns=["model_a=ours,model_b=theirs", "winner=better"])
    rows[0]["better"] = "q"
    path = table(tmp_path / "v.csv", rows)
    (vote,) = read_votes(
        path, columns=["model_a=ours,model_b=theirs", "winner=better", "judge=who", "prompt_id=q"]
    ).votes
    assert (vote.models, vote.choice, vote.judge, vote.prompt_id) == (("p", "q"), "b", "ann", "7")
    for given, why in (
        (["model_a"], "columns has 'model_a'; write column=its name in the file, for example model_a="),
        (["model_c=x"], "columns has 'model_c=x', .* did you mean model_"),
        (["left=winner"], "swap them: winner=left"),
        (["winner=x", "winner=y"], "columns gives winner twice, x and y"),
    ):
        with pytest.raises(InputError, match=why):
            column_map(given)
    assert column_map(["model_a=left, or first,winner=w"]) == {"model_a": "left, or first", "winner": "w"}
    with pytest.raises(InputError, match="there is no column 'gone'"):
        read_votes(path, columns=["model_a=gone"])


def test_other_formats_are_no_votes() -> None:
    assert not holds_votes(["prompt", "chosen", "rejected", "annotator"])
    assert not holds_votes(["prompt", "model_a", "model_b"])
    assert not holds_votes(["left", "right", "prompt"])
    assert holds_votes(["model_a", "model_b", "winner"])


def test_answers_of_a_file_of_their_own(tmp_path: Path) -> None:
    votes = table(tmp_path / "v.csv", [{"prompt_id": "k", "model_a": "p", "model_b": "q", "winner": "a"}])
    rows = [{"prompt_id": "k", "model": name, "prompt": "Hi", "completion": f"by {name}"} for name in "pqr"]
    file = with_answers(read_votes(votes), lines(tmp_path / "o.jsonl", rows))
    assert file.votes[0].texts == ("by p", "by q")
    assert file.votes[0].prompt == Prompt(content="Hi")
    with pytest.raises(
        InputError, match=r"has no answer for 1 of 2 in .*v.csv, the first is .*v.csv:2: q on prompt 'k'"
    ):
        with_answers(read_votes(votes), lines(tmp_path / "o.jsonl", rows[:1]))
    with pytest.raises(InputError, match=r"o.jsonl:4: p answered prompt 'k' before with another text"):
        with_answers(read_votes(votes), lines(tmp_path / "o.jsonl", [*rows, {**rows[0], "completion": "no"}]))
