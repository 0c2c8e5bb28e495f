"""Loaders: every format's records, every kind of bad row by its exact words, and counts that leave nothing out."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.data import (
    load_comparisons,
    load_demonstrations,
    load_labels,
    load_prompts,
    load_rankings,
    load_records,
    load_scores,
    load_texts,
)
from prefloop.errors import InputError
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Label,
    Message,
    Prompt,
    Ranking,
    Score,
    Text,
)
from tests.data.cases import jsonl

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
OTHER = {"role": "assistant", "content": "Go away"}
CHAT = Prompt(content=(Message(role="user", content="Hi"),))

GOOD_ROWS: list[tuple[str, dict[str, Any], Any]] = [
    ("text", {"text": "A story."}, Text(text="A story.")),
    ("prompt", {"prompt": ""}, Prompt(content="")),
    ("prompt", {"prompt": [USER]}, CHAT),
    (
        "demonstration",
        {"prompt": "2+2=", "completion": "4"},
        Demonstration(prompt=Prompt(content="2+2="), completion="4"),
    ),
    (
        "demonstration",
        {"prompt": [USER], "completion": [ANSWER]},
        Demonstration(prompt=CHAT, completion="Hello"),
    ),
    (
        "messages",
        {"messages": [USER, ANSWER]},
        Conversation(
            messages=(Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
        ),
    ),
    (
        "comparison",
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        Comparison(prompt=Prompt(content="a"), chosen="b", rejected="c"),
    ),
    (
        "comparison",
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER], "margin": 2, "annotator": "ann"},
        Comparison(prompt=CHAT, chosen="Hello", rejected="Go away", margin=2.0, annotator="ann"),
    ),
    (
        "comparison",
        {"prompt": [USER], "chosen": "Hello", "rejected": "Go away", "margin": None},
        Comparison(prompt=CHAT, chosen="Hello", rejected="Go away"),
    ),
    (
        "implicit",
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        Comparison(prompt=CHAT, chosen="Hello", rejected="Go away"),
    ),
    (
        "implicit",
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},  # never within a word
        Comparison(prompt=Prompt(content="The sky is"), chosen=" blue.", rejected=" black."),
    ),
    (
        "hh",
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away"},
        Comparison(prompt=CHAT, chosen="Hello", rejected="Go away"),
    ),
    (
        "ranking",
        {"prompt": "a", "completions": ["best", "good", "bad"], "annotator": "ann"},
        Ranking(prompt=Prompt(content="a"), completions=("best", "good", "bad"), annotator="ann"),
    ),
    (
        "label",
        {"prompt": "a", "completion": "b", "label": False},
        Label(prompt=Prompt(content="a"), completion="b", good=False),
    ),
    (
        "score",
        {"prompt": "a", "completion": "b", "score": -1},
        Score(prompt=Prompt(content="a"), completion="b", value=-1.0),
    ),
]


@pytest.mark.parametrize(("name", "row", "record"), GOOD_ROWS)
def test_every_format_gives_its_record(tmp_path: Path, name: str, row: dict[str, Any], record: Any) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row])
    loaded = load_records(path)
    assert loaded.records == (record,)
    assert loaded.summary.format == name
    assert loaded.origins == (f"{path}:1",)
    if not isinstance(record, Prompt):
        assert getattr(loaded.records[0], "origin") == f"{path}:1"  # noqa: B009 (a prompt has none)


@pytest.mark.parametrize(
    "prompt",
    ["Hi", "Hi ", [USER]],
)
def test_prompt_given_beside_whole_dialogues_is_not_kept_twice(tmp_path: Path, prompt: Any) -> None:  # D10
    messages = {"prompt": prompt, "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}
    transcripts = {
        "prompt": prompt,
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Go away",
    }
    expected = Comparison(prompt=CHAT, chosen="Hello", rejected="Go away")
    assert load_comparisons(jsonl(tmp_path / "a.jsonl", [messages])).records == (expected,)
    assert load_comparisons(jsonl(tmp_path / "b.jsonl", [transcripts])).records == (expected,)
    transcripts["prompt"] = "\n\nHuman: Hi\n\nAssistant:"
    assert load_comparisons(jsonl(tmp_path / "c.jsonl", [transcripts])).records == (expected,)


def test_text_prompt_repeated_in_completions_is_reported(tmp_path: Path) -> None:  # D10
    rows = [
        {"prompt": "Say no.", "chosen": "Say no. No.", "rejected": " Say no. Yes."},
        {"prompt": "Say no.", "chosen": "No.", "rejected": "Say no."},
        {"prompt": "", "chosen": "No.", "rejected": "Yes."},
    ]
    summary = load_comparisons(jsonl(tmp_path / "a.jsonl", rows)).summary
    assert summary.notes == (
        "comparisons in which both completions begin with the whole prompt: 1 "
        "(if that is the prompt written twice, take it out of the completions)",
    )


def test_false_and_zero_are_values(tmp_path: Path) -> None:  # C7
    labels = [{"prompt": "a", "completion": "b", "label": value} for value in (True, False, False)]
    assert [label.good for label in load_labels(jsonl(tmp_path / "l.jsonl", labels)).records] == [
        True,
        False,
        False,
    ]
    scores = [{"prompt": "a", "completion": "b", "score": value} for value in (1, 0, 0.0, -0.5)]
    assert [score.value for score in load_scores(jsonl(tmp_path / "s.jsonl", scores)).records] == [
        1,
        0,
        0,
        -0.5,
    ]
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c", "margin": value} for value in (1, 0, 0.0)]
    assert [pair.margin for pair in load_comparisons(jsonl(tmp_path / "m.jsonl", pairs)).records] == [1, 0, 0]
    soft = [{"prompt": "a", "chosen": "b", "rejected": "c", "p_soft": value} for value in (0, 0.25, 1, None)]
    assert [p.p_soft for p in load_comparisons(jsonl(tmp_path / "s.jsonl", soft)).records] == [0, 0.25, 1, 1]
    (tmp_path / "c.csv").write_text("prompt,completion,label\na,b,False\na,c,true\n")
    assert [label.good for label in load_labels(tmp_path / "c.csv").records] == [False, True]
    (tmp_path / "d.csv").write_text("prompt,completion,score\na,b,0\na,c,0.0\n")
    assert [score.value for score in load_scores(tmp_path / "d.csv").records] == [0, 0]


def test_csv_cells_are_read_as_their_columns_type(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected,margin\n7,true,[],\n8,"{""a"": 1}",c,0.5\n')
    assert load_comparisons(path).records == (
        Comparison(prompt=Prompt(content="7"), chosen="true", rejected="[]"),
        Comparison(prompt=Prompt(content="8"), chosen='{"a": 1}', rejected="c", margin=0.5),
    )
    chats = tmp_path / "b.csv"
    cell = json.dumps([USER, ANSWER]).replace('"', '""')
    chats.write_text(f'messages\n"{cell}"\n')
    assert len(load_demonstrations(chats).records) == 1


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LABEL = {"prompt": "p", "completion": "a", "label": True}
SCORE = {"prompt": "p", "completion": "a", "score": 1.5}
RANKING = {"prompt": "p", "completions": ["a", "b"]}
MESSAGES = {"messages": [USER, ANSWER]}
HH = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}

# A good row, what is changed in it (None takes the field away), and what is said of it after `file:line: `.
BAD_ROWS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        PAIR,
        {"chosen": ...},
        "`chosen` is missing: every row needs it, and this one has: prompt, rejected; add the value",
    ),
    (
        PAIR,
        {"prompt": None},
        "`prompt` is null: every row needs it, and this one has: prompt, chosen, rejected; add the value",
    ),
    (
        PAIR,
        {"prompt": 7},
        "`prompt` is 7: it must be text or a list of messages, not a number; "
        'write a string or [{"role": "user", "content": ...}]',
    ),
    (
        PAIR,
        {"rejected": {"a": 1}},
        "`rejected` is {'a': 1}: it must be text or one assistant message, not an object; write a string",
    ),
    (
        PAIR,
        {"rejected": ""},
        "`rejected` is '': the completion is empty; write the completion, or leave the row out",
    ),
    (
        PAIR,
        {"chosen": " \n"},
        "`chosen` is ' \\n': the completion is empty; write the completion, or leave the row out",
    ),
    (
        PAIR,
        {"chosen": "b"},
        "`chosen` is 'b': it equals rejected; write what was rejected, or leave the row out",
    ),
    (
        PAIR,
        {"chosen": "half \ud83d"},
        "`chosen` is 'half \\ud83d': it holds half a character (a lone surrogate); fix the text's encoding",
    ),
    (PAIR, {"p_soft": 1.5}, "`p_soft` is 1.5: it must be a probability; write a number from 0 to 1"),
    (PAIR, {"p_soft": -0.1}, "`p_soft` is -0.1: it must be a probability; write a number from 0 to 1"),
    (PAIR, {"margin": "2"}, "`margin` is '2': it must be a number, not text; write a number"),
    (PAIR, {"margin": ""}, "`margin` is '': it must be a number, not text; write a number"),
    (PAIR, {"margin": False}, "`margin` is False: it must be a number, not true or false; write a number"),
    (PAIR, {"margin": True}, "`margin` is True: it must be a number, not true or false; write a number"),
    (
        PAIR,
        {"margin": float("nan")},
        "`margin` is nan: it must be finite; write a finite number, or leave the row out",
    ),
    (PAIR, {"annotator": 3}, "`annotator` is 3: it must be text, not a number; write a string"),
    (
        PAIR,
        {"chosen": [ANSWER], "rejected": [OTHER]},
        "`chosen` is [{'role': 'assistant', 'content': 'Hello'}]: it is messages, but the prompt is text; "
        'write both as text, or the prompt as [{"role": "user", "content": ...}]',
    ),
    (
        PAIR,
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        "`prompt` is 'p': chosen and rejected hold whole dialogues, and do not begin with it; "
        "leave the prompt out of the row, or the dialogue out of chosen and rejected",
    ),
    (
        PAIR,
        {"prompt": [USER], "chosen": [USER]},
        "`chosen` is messages of user: a completion must be one assistant message; "
        "move the turns before the last to the prompt",
    ),
    (
        PAIR,
        {"prompt": [USER, ANSWER]},
        "`prompt` is a chat that ends with assistant: the assistant must answer a user; "
        "end the prompt with a user message",
    ),
    (PAIR, {"prompt": []}, "`prompt` is []: the list of messages is empty; write the messages"),
    (
        PAIR,
        {"prompt": [{"role": "user", "content": ""}]},
        "`prompt[0].content` is '': the message is empty; write the message, or leave the row out",
    ),
    (
        PAIR,
        {"prompt": [{"role": "robot", "content": "x"}]},
        "`prompt[0].role` is 'robot': the role is not known; use system, user, assistant, tool",
    ),
    (
        PAIR,
        {"prompt": [{"role": ["user"], "content": "x"}]},
        "`prompt[0].role` is ['user']: the role is not known; use system, user, assistant, tool",
    ),
    (
        PAIR,
        {"prompt": [{"role": "user"}]},
        "`prompt[0].content` is missing: every message needs it; add it",
    ),
    (
        PAIR,
        {"prompt": ["Hi"]},
        '`prompt[0]` is \'Hi\': it must be a message; write {"role": ..., "content": ...}',
    ),
    (
        PAIR,
        {"prompt": [{"role": "user", "content": [{"type": "text"}]}]},
        "`prompt[0].content[0].text` is null: it must be text, not null; write a string",
    ),
    (LABEL, {"label": 1}, "`label` is 1: it must be true or false, not a number; write true or false"),
    (LABEL, {"label": "yes"}, "`label` is 'yes': it must be true or false, not text; write true or false"),
    (
        LABEL,
        {"completion": ""},
        "`completion` is '': the completion is empty; write the completion, or leave the row out",
    ),
    (
        SCORE,
        {"score": float("inf")},
        "`score` is inf: it must be finite; write a finite number, or leave the row out",
    ),
    (
        SCORE,
        {"score": 10**400},
        "`score` is inf: it must be finite; write a finite number, or leave the row out",
    ),
    (SCORE, {"score": [1]}, "`score` is [1]: it must be a number, not a list; write a number"),
    (
        RANKING,
        {"completions": ["a"]},
        "`completions` is a list of 1: a ranking orders two or more completions, best first; "
        "add completions, or leave the row out",
    ),
    (
        RANKING,
        {"completions": ["a", "b", "a"]},
        "`completions[2]` is 'a': it equals completions[0]; name each completion once",
    ),
    (
        RANKING,
        {"completions": ["a", ""]},
        "`completions[1]` is '': the completion is empty; write the completion, or leave the row out",
    ),
    (RANKING, {"completions": "a"}, "`completions` is 'a': it must be a list, not text; write [...]"),
    (
        MESSAGES,
        {"messages": [USER]},
        "`messages` is messages of user: no turn is the assistant's; add the assistant's answer",
    ),
    (
        MESSAGES,
        {"messages": [ANSWER, USER]},
        "`messages` is messages of assistant, user: the first answer has no user's message before it; "
        "begin the chat with a user message",
    ),
    (MESSAGES, {"messages": "Hi"}, "`messages` is 'Hi': it must be a list, not text; write [...]"),
    (
        {"text": "x"},
        {"text": " "},
        "`text` is ' ': the text is empty; write the text, or leave the row out",
    ),
    ({"text": "x"}, {"text": ["x"]}, "`text` is ['x']: it must be text, not a list; write a string"),
    (
        {"chosen": "a b", "rejected": "a c"},
        {"rejected": "c"},
        "`chosen` is 'a b': it shares no beginning with rejected 'c', so the prompt is not known; "
        "add a column `prompt`",
    ),
    (
        {"chosen": "a b", "rejected": "a c"},
        {"rejected": "a b"},
        "`chosen` is 'a b': it equals rejected; write what was rejected, or leave the row out",
    ),
    (
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"chosen": [USER, ANSWER, USER, ANSWER]},
        "`chosen` is a dialogue of 4 turns (rejected has 2): it differs from rejected at turn 2, before the last turn, "
        "so it is not known which reply was preferred; cut both after the first turn that differs, or leave the row out",
    ),
    (
        HH,
        {"chosen": "Human: q\n\nAssistant: a"},
        "`chosen` is 'Human: q\\n\\nAssistant: a': a transcript begins with a blank line and `Human:`; "
        "fix the transcript",
    ),
    (
        HH,
        {"chosen": "\n\nHuman: q\n\nAssistant: "},
        "`chosen` is '\\n\\nHuman: q\\n\\nAssistant: ': the completion is empty; "
        "write the completion, or leave the row out",
    ),
    (
        HH,
        {"chosen": "\n\nHuman: q\n\nAssistant:\n\nHuman: r\n\nAssistant: a"},
        "`chosen` is a transcript with turn 2 of 4 empty: the message is empty; write the message, or leave the row out",
    ),
    (
        HH,
        {"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: r"},
        "`chosen` is a dialogue that ends with user: the completion is the assistant's last turn; "
        "end the dialogue with an assistant message",
    ),
]


@pytest.mark.parametrize(("good", "change", "message"), BAD_ROWS)
def test_bad_row_is_named_by_file_line_field_and_value(
    tmp_path: Path, good: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    bad = {key: value for key, value in (good | change).items() if value is not ...}
    path = jsonl(tmp_path / "a.jsonl", [good, bad, good])
    with pytest.raises(InputError) as raised:
        load_records(path)
    line = f"{path}:2: {message}"
    assert (
        str(raised.value)
        == f"{line} (correct it, or set skip_bad to leave such rows out, counted and listed)"
    )
    loaded = load_records(path, skip_bad=True)
    assert len(loaded.records) == 2
    assert loaded.summary.bad_rows() == line
    assert (loaded.summary.read, loaded.summary.used) == (3, 2)


def test_bad_cells_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,label,n\np,a,1,x\np,,true,x\np,a,true,x\n")
    assert load_labels(path, skip_bad=True).summary.bad_rows().splitlines() == [
        f"{path}:2: `label` is '1': it must be true or false, not text; write true or false",
        f"{path}:3: `completion` is '': the completion is empty; write the completion, or leave the row out",
    ]
    path.write_text("prompt,completion,score\np,a,one\np,a,nan\np,a,1\n")
    assert load_scores(path, skip_bad=True).summary.bad_rows().splitlines() == [
        f"{path}:2: `score` is 'one': it must be a number; write a number",
        f"{path}:3: `score` is nan: it must be finite; write a finite number, or leave the row out",
    ]


def test_every_bad_row_is_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [PAIR, *[PAIR | {"chosen": ""}] * 30])
    with pytest.raises(InputError) as raised:
        load_comparisons(path)
    lines = str(raised.value).splitlines()
    assert lines[0] == (
        f"{path}: 30 of 31 rows are bad; correct them, or set skip_bad to leave such rows out, counted and listed:"
    )
    assert [line.split(":")[1] for line in lines[1:-1]] == [str(number) for number in range(2, 22)]
    assert lines[-1] == "  and 10 more"


def test_dropped_rows_are_reported(tmp_path: Path) -> None:  # D5
    rows = [PAIR, "{broken", PAIR | {"chosen": "b"}, PAIR, {"prompt": "p"}, PAIR | {"extra": 1}]
    path = jsonl(tmp_path / "a.jsonl", rows)
    loaded = load_comparisons(path, skip_bad=True, limit=2)
    summary = loaded.summary
    assert summary.read == summary.used + len(summary.bad) + summary.beyond_limit == 6
    assert (summary.kept, len(loaded.records), len(summary.bad), summary.beyond_limit) == (2, 2, 2, 2)
    assert str(summary) == (
        f"{path}: 6 rows of format comparison, 2 records kept. 2 bad rows left out: 2, 3. "
        "2 rows left out beyond the limit. columns not used: extra."
    )
    assert [row["field"] for row in summary.to_json()["bad"]] == ["line", "chosen"]
    json.dumps(summary.to_json())
    everything = load_comparisons(path, skip_bad=True).summary
    assert (everything.kept, len(everything.bad), everything.beyond_limit) == (3, 3, 0)


@pytest.mark.parametrize("rows", [[], ["{broken"], [{"text": ""}]])
def test_a_source_without_a_usable_row_is_an_error(tmp_path: Path, rows: list[Any]) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=str(path)) as raised:
        load_texts(path, skip_bad=True)
    assert "skip_bad" not in str(raised.value)  # it is set, and does not help


def test_negative_limit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit is -1; it must be 0"):
        load_texts(jsonl(tmp_path / "a.jsonl", [{"text": "x"}]), limit=-1)


def test_column_that_comes_late_cannot_change_the_format_in_silence(tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": "p", "completion": "a"}] * 120
    path = jsonl(tmp_path / "a.jsonl", [*rows, LABEL, {"prompt": "p", "completion": "a", "extra": 1}])
    with pytest.raises(InputError) as raised:
        load_demonstrations(path)
    assert str(raised.value).startswith(
        f"{path}:121: `label` is a new column: the rows before it are of another format; "
        "keep rows of different formats in files of their own"
    )
    assert load_demonstrations(path, skip_bad=True).summary.unused_columns == ("extra",)


def test_unused_columns_and_message_keys_are_named(tmp_path: Path) -> None:
    row = {"messages": [USER | {"mood": 0, "name": None}, ANSWER], "id": 1}
    summary = load_demonstrations(jsonl(tmp_path / "a.jsonl", [row])).summary
    assert summary.unused_columns == ("messages[].mood", "id")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a", "completion": "b", "label": True, "score": 1.0},
            "the columns are prompt, completion, label, score, which match several formats: "
            "label (prompt, completion, label); score (prompt, completion, score); say which is meant, such as --data.format label",
        ),
        (
            {"question": "a", "completion": "b"},
            "the columns are question, completion, which match no known format: text (text); prompt (prompt); "
            "demonstration (prompt, completion); messages (messages); comparison (prompt, chosen, rejected); "
            "implicit (chosen, rejected); hh (chosen, rejected); ranking (prompt, completions); "
            "steps (prompt, completions, labels); label (prompt, completion, label); score (prompt, completion, score); "
            "read it with --data.columns prompt=question",
        ),
        (
            {"colour": "a", "completion": "b"},
            "the columns are colour, completion, which match no known format: text (text); prompt (prompt); "
            "demonstration (prompt, completion); messages (messages); comparison (prompt, chosen, rejected); "
            "implicit (chosen, rejected); hh (chosen, rejected); ranking (prompt, completions); "
            "steps (prompt, completions, labels); label (prompt, completion, label); score (prompt, completion, score); "
            "name the columns with --data.columns (nearest is demonstration, which lacks prompt)",
        ),
        ({}, "the columns are (none), which match no known format"),
    ],
)
def test_columns_that_tell_no_format(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError) as raised:
        load_records(path)
    assert str(raised.value).startswith(f"{path}: {message}")


def test_a_loader_takes_no_other_kind_in_silence(tmp_path: Path) -> None:
    pairs, labels = jsonl(tmp_path / "p.jsonl", [PAIR]), jsonl(tmp_path / "l.jsonl", [LABEL])
    texts = jsonl(tmp_path / "t.jsonl", [{"text": "x"}])
    with pytest.raises(
        InputError, match=r"which is comparisons \(comparison\); needed here .* set from_chosen"
    ):
        load_demonstrations(pairs)
    with pytest.raises(InputError, match="a completion labelled false is not a demonstration"):
        load_demonstrations(labels)
    with pytest.raises(InputError, match="if each text is a prompt, call the column `prompt`"):
        load_prompts(texts)
    with pytest.raises(InputError, match="which is documents"):
        load_comparisons(texts)


def test_chosen_completions_are_demonstrations_only_when_asked(tmp_path: Path) -> None:
    demonstration = Demonstration(prompt=Prompt(content="p"), completion="a")
    for row in (PAIR, RANKING):
        loaded = load_demonstrations(jsonl(tmp_path / "a.jsonl", [row]), from_chosen=True)
        assert loaded.records == (demonstration,)
        assert loaded.summary.notes == ("the demonstrations are the chosen completions of comparisons",)


def test_columns_of_several_formats_go_by_what_is_asked(tmp_path: Path) -> None:
    row = PAIR | MESSAGES  # as the best-known preference data set has them
    path = jsonl(tmp_path / "a.jsonl", [row])
    assert len(load_comparisons(path).records) == len(load_demonstrations(path).records) == 1
    assert load_records(path).summary.name == "ultrafeedback_binarized (comparison)"


@pytest.mark.parametrize(
    "row", [PAIR, LABEL, SCORE, RANKING, {"prompt": "p"}, {"prompt": "p", "completion": "a"}]
)
def test_prompts_come_from_any_record_once(tmp_path: Path, row: dict[str, Any]) -> None:
    loaded = load_prompts(jsonl(tmp_path / "a.jsonl", [row, row, row | {"prompt": "q"}]))
    assert loaded.records == (Prompt(content="p"), Prompt(content="q"))
    assert [origin[-2:] for origin in loaded.origins] == [":1", ":3"]
    assert loaded.summary.notes == ("rows that repeat an earlier prompt, which is counted once: 1",)
    assert (loaded.summary.read, loaded.summary.used, loaded.summary.kept) == (3, 3, 2)


def test_prompt_of_a_chat_is_all_before_its_last_answer(tmp_path: Path) -> None:
    row = {"messages": [USER, ANSWER, {"role": "user", "content": "So?"}, OTHER]}
    (prompt,) = load_prompts(jsonl(tmp_path / "a.jsonl", [row])).records
    assert [message["content"] for message in prompt.to_json() if isinstance(message, dict)] == [
        "Hi",
        "Hello",
        "So?",
    ]


def test_ranking_gives_all_its_pairs(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [RANKING | {"completions": ["a", "b", "c"]}, RANKING, RANKING])
    assert [len(ranking.completions) for ranking in load_rankings(path).records] == [3, 2, 2]
    loaded = load_comparisons(path)
    assert [(pair.chosen, pair.rejected) for pair in loaded.records[:3]] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert loaded.summary.notes == ("the comparisons are all pairs of the rankings",)
    cut = load_comparisons(path, limit=2)
    assert len(cut.records) == 2
    assert cut.summary.beyond_limit == 2
    assert cut.summary.notes == (
        "the comparisons are all pairs of the rankings, less pairs of the last beyond the limit: 1",
    )


def test_files_of_other_splits_are_named(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"text": "x"}])
    jsonl(tmp_path / "test.jsonl", [{"text": "y"}])
    loaded = load_texts(tmp_path)
    assert [record.text for record in loaded.records] == ["x"]
    assert loaded.summary.notes == (f"files of other splits, not read: {tmp_path}/test.jsonl",)


def test_transcripts_among_plain_texts_are_not_read_as_texts(tmp_path: Path) -> None:
    plain = {"chosen": "a b", "rejected": "a c"}
    path = jsonl(tmp_path / "a.jsonl", [plain, plain, HH])
    (bad,) = load_comparisons(path, skip_bad=True).summary.bad
    assert (bad.origin, bad.field) == (f"{path}:3", "chosen")
    assert bad.reason == "it is a transcript, and most rows of this source are not"
