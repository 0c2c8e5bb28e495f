"""What people have: every layout's record by hand, columns by name, chats in parts and with tools, and what is never read as something else."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli.program import main
from prefloop.data import (
    LAYOUTS,
    load_comparisons,
    load_demonstrations,
    load_prompts,
    load_rankings,
    load_records,
    load_scores,
)
from prefloop.errors import InputError
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Message,
    Prompt,
    Ranking,
    Score,
    ToolCall,
)
from tests.data.cases import jsonl


def user(text: str) -> Message:
    return Message(role="user", content=text)


def answer(text: str) -> Message:
    return Message(role="assistant", content=text)


SYSTEM = Message(role="system", content="Be kind.")
ASKED = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Hello"}
CHAT = Prompt(content=(user("Hi"),))
TEXT = Prompt(content="Hi")
DIALOGUE = (user("Hi"), answer("Hello"), user("And?"))
TURNS = Prompt(content=DIALOGUE)


def judged(prompt: Prompt, chosen: str = "good", rejected: str = "bad", margin: float = 0.0) -> Comparison:
    return Comparison(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin)


ROWS: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello", "text": "Below is"}, [Demonstration(prompt=TEXT, completion="Hello")]),
    (
        "alpaca",
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        [Demonstration(prompt=Prompt(content="Add.\n\n1, 2"), completion="3")],
    ),
    (
        "alpaca",
        {"instruction": "And?", "input": "", "output": "No.", "system": "Be kind.", "history": [["Hi", "Hello"]]},
        [Demonstration(prompt=Prompt(content=(SYSTEM, *DIALOGUE)), completion="No.")],
    ),
    ("alpaca_preference", {"instruction": "Hi", "chosen": "good", "rejected": "bad"}, [judged(TEXT)]),
    ("dolly", {"instruction": "Hi", "context": "", "response": "Hello", "category": "x"}, [Demonstration(prompt=TEXT, completion="Hello")]),
    (
        "openorca",
        {"system_prompt": "Be kind.", "question": "Hi", "response": "Hello"},
        [Demonstration(prompt=Prompt(content=(SYSTEM, user("Hi"))), completion="Hello")],
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "system", "value": " "}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        [Conversation(messages=(user("Hi"), answer("Hello")))],
    ),
    (
        "sharegpt",
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                                                {"from": "observation", "value": "7"}, {"from": "gpt", "value": "Seven."}]},
        [Conversation(messages=(SYSTEM, user("Hi"), Message(role="assistant", content="", tool_calls=(ToolCall(name="f", arguments='{"x": 1}'),)),
                                Message(role="tool", content="7"), answer("Seven.")))],
    ),
    (
        "sharegpt_preference",
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
        [judged(CHAT)],
    ),
    ("ultrachat", {"prompt": "Hi", "prompt_id": "7", "messages": [ASKED, SAID]}, [Conversation(messages=(user("Hi"), answer("Hello")))]),
    (
        "ultrafeedback",
        {"instruction": "Hi", "models": [], "completions": [{"response": text, "fine-grained_score": score} for text, score in
                                                          (("bad", 1.5), ("good", 4.0), ("same", 4.0))]},
        [judged(TEXT, margin=2.5), judged(TEXT, "same", margin=2.5)],
    ),
    (
        "ultrafeedback_binarized",
        {"prompt": "Hi", "chosen": [ASKED, {"role": "assistant", "content": "good"}], "rejected": [ASKED, {"role": "assistant", "content": "bad"}],
         "messages": [ASKED, SAID], "score_chosen": 9.0, "score_rejected": 6.5},
        [judged(CHAT, margin=2.5)],
    ),
    ("shp", {"history": "Hi", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0, "score_A": 2}, [judged(TEXT)]),
    ("shp", {"history": "Hi", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1}, [judged(TEXT)]),
    ("helpsteer", {"prompt": "Hi", "response": "Hello", "helpfulness": 3, "verbosity": 1}, [Score(prompt=TEXT, completion="Hello", value=3.0)]),
    (
        "helpsteer",
        {"prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nAnd?", "response": "No.", "helpfulness": 0},
        [Score(prompt=TURNS, completion="No.", value=0.0)],
    ),
    (
        "helpsteer_preference",
        {"prompt": "Hi", "response_1": "good", "response_2": "bad", "preference_strength": -3, "split": "train"},
        [judged(TEXT, margin=3.0)],
    ),
    ("helpsteer3", {"context": [ASKED, SAID, {"role": "user", "content": "And?"}], "response1": "bad", "response2": "good", "overall_preference": 1},
     [judged(TURNS, margin=1.0)]),
    (
        "nectar",
        {"prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant: ", "answers": [{"answer": "bad", "rank": 2.0}, {"answer": "good", "rank": 1.0}]},
        [Ranking(prompt=TURNS, completions=("good", "bad"))],
    ),
    ("pku_saferlhf", {"prompt": "Hi", "response_0": "bad", "response_1": "good", "better_response_id": 1, "safer_response_id": 0}, [judged(TEXT)]),
    ("pku_saferlhf_safer", {"prompt": "Hi", "response_0": "good", "response_1": "bad", "better_response_id": 1, "safer_response_id": 0}, [judged(TEXT)]),
    ("orca_dpo", {"system": "Be kind.", "question": "Hi", "chosen": "good", "rejected": "bad"}, [judged(Prompt(content=(SYSTEM, user("Hi"))))]),
    ("distilabel_orca", {"system": "", "input": "Hi", "chosen": "good", "rejected": "bad"}, [judged(CHAT)]),
    (
        "openai_preference",
        {"input": {"messages": [ASKED], "tools": []}, "preferred_output": [{"role": "assistant", "content": "good"}],
         "non_preferred_output": [{"role": "assistant", "content": "bad"}]},
        [judged(CHAT)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "row", "records"), ROWS)
def test_every_layout_gives_its_records(
    tmp_path: Path, layout: str, row: dict[str, Any], records: list[Any]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row])
    assert list(load_records(path, format=layout).records) == records
    if LAYOUTS[layout].told:
        told = load_records(path)
        assert told.summary.layout == layout
        assert list(told.records) == records


def test_every_layout_is_tried() -> None:
    assert {layout for layout, _, _ in ROWS} == set(LAYOUTS)


def test_ties_give_nothing_and_are_counted(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "response_1": "a", "response_2": "b", "preference_strength": 0}
    summary = load_comparisons(jsonl(tmp_path / "a.jsonl", [row, row | {"preference_strength": 2}])).summary
    assert (summary.read, summary.used, summary.kept) == (2, 2, 1)
    assert summary.notes == ("rows in which all completions are tied, which give no record: 1",)


def test_a_layout_gives_what_the_stage_needs(tmp_path: Path) -> None:
    rated = [{"response": "a", "fine-grained_score": 1.0}, {"response": "b", "fine-grained_score": 2.0}]
    path = jsonl(tmp_path / "a.jsonl", [{"instruction": "Hi", "completions": rated}])
    assert [record.value for record in load_scores(path).records] == [1.0, 2.0]
    assert load_prompts(path).records == (TEXT,)
    with pytest.raises(InputError, match="rows of ultrafeedback give comparisons and completions with a num"):
        load_demonstrations(path, format="ultrafeedback")


def test_columns_are_what_the_user_says(tmp_path: Path) -> None:
    rows = [{"frage": "Hi", "antwort": "Hello", "prompt": "not this", "rolle": "Be kind."}]
    path = jsonl(tmp_path / "a.jsonl", rows)
    loaded = load_demonstrations(path, columns=("prompt=frage,completion=antwort",))
    assert loaded.records == (Demonstration(prompt=TEXT, completion="Hello"),)
    assert loaded.summary.unused_columns == ("prompt", "rolle")
    chat = load_demonstrations(
        path, columns=("prompt=frage", "completion=antwort", "system=rolle"), chat=True
    )
    assert chat.records == (Demonstration(prompt=Prompt(content=(SYSTEM, user("Hi"))), completion="Hello"),)
    assert load_prompts(path, columns=("prompt=frage",), format="prompt", chat=True).records == (CHAT,)
    with pytest.raises(InputError, match=r"`frage` is missing: every row needs it"):
        load_demonstrations(
            jsonl(tmp_path / "b.jsonl", [*rows, {"antwort": "x"}]),
            columns=("prompt=frage,completion=antwort",),
        )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"columns": ("instruction=prompt",)}, "swap them: prompt=instruction"),
        ({"columns": ("promt=question",)}, "did you mean prompt"),
        ({"columns": ("prompt",)}, "write column=its name in the file"),
        ({"columns": ("prompt=a", "prompt=question")}, "gives prompt twice, a and question"),
        ({"columns": ("prompt=questoin",)}, "from 'questoin', which no row has; did you mean question?"),
        ({"format": "alpacca"}, r"did you mean alpaca\?"),
        ({"format": "comparison"}, "needed here is: demonstration"),
        ({"format": "shp"}, "there is no column history, human_ref_A, human_ref_B, labels"),
        ({"format": "alpaca", "columns": ("prompt=question",)}, "has columns of its own"),
        ({"format": "demonstration"}, "no column prompt, completion"),
        (
            {"format": "messages", "columns": ("messages=turns",), "chat": True},
            "data.chat turns text prompts into chats",
        ),
    ],
)
def test_what_cannot_be_meant_is_an_error(tmp_path: Path, how: Any, said: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"question": "Hi", "reply": "Hello", "turns": [ASKED, SAID]}])
    with pytest.raises(InputError, match=said):
        load_demonstrations(path, **how)


@pytest.mark.parametrize(
    ("row", "flag"),
    [
        ({"question": "Hi", "response": "Hello"}, "--data.columns prompt=question,completion=response"),
        ({"Prompt": "Hi", "Preferred": "a", "Worse": "b"}, "--data.columns prompt=Prompt,chosen=Preferred,rejected=Worse"),
        ({"dialog": [ASKED, SAID]}, "--data.columns messages=dialog"),
        ({"question": "Hi", "reply": "Hello", "liked": True}, "--data.columns prompt=question,completion=reply,label=liked"),
        ({"question": "Hi", "reply": "Hello", "stars": 4}, "--data.columns prompt=question,completion=reply,score=stars"),
        ({"query": "Hi", "responses": ["a", "b"]}, "--data.columns prompt=query,completions=responses"),
        ({"prompt": "Hi", "response_0": "a", "response_1": "b", "safer_response_id": 0}, "--data.format pku_saferlhf_safer"),
    ],
)  # fmt: skip
def test_the_flag_that_reads_a_file_is_said_and_reads_it(
    tmp_path: Path, row: dict[str, Any], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row])
    assert main(["data", "check", str(path)]) == 2
    assert flag in capsys.readouterr().err
    assert main(["data", "check", str(path), *flag.split()]) == 0


def test_what_is_more_than_prompts_is_not_imported_as_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # D11
    path, store = tmp_path / "a.csv", tmp_path / "s.db"
    path.write_text("id,prompt,response_x,rating_of_worker\n1,Hi,Hello,4\n")
    assert main(["data", "import", str(path), "--store", str(store)]) == 2
    assert "prompts alone would be read, and not response_x" in capsys.readouterr().err
    assert not store.exists()
    assert main(["data", "import", str(path), "--store", str(store), "--format", "prompt"]) == 0


PARTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "f"}}


def test_chats_as_apis_write_them(tmp_path: Path) -> None:
    turns = [
        {"role": "developer", "content": ""},
        {"role": "user", "content": PARTS},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "7", "tool_call_id": "c1", "name": "f"},
        {"role": "assistant", "content": "Seven.", "weight": 1},
    ]
    for tools in ([TOOL], json.dumps([TOOL])):
        loaded = load_demonstrations(jsonl(tmp_path / "a.jsonl", [{"messages": turns, "tools": tools}]))
        assert loaded.records == (
            Conversation(
                messages=(
                    Message(role="user", content="Hello", tools=(json.dumps(TOOL),)),
                    Message(
                        role="assistant",
                        content="",
                        tool_calls=(ToolCall(name="f", arguments='{"x": 1}', id="c1"),),
                    ),
                    Message(role="tool", content="7", tool_call_id="c1", name="f"),
                    answer("Seven."),
                )
            ),
        )
        assert loaded.summary.unused_columns == ()


@pytest.mark.parametrize("silent", ["", " \n", None])
def test_an_empty_system_message_is_an_absent_one(tmp_path: Path, silent: Any) -> None:
    turns = [{"role": "system", "content": silent}, ASKED]
    prompts = load_prompts(jsonl(tmp_path / "a.jsonl", [{"prompt": turns}, {"prompt": [ASKED]}]))
    assert prompts.records == (CHAT,)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
            r"text alone is read here",
        ),
        ({"role": "assistant", "content": None}, r"messages\[1\].content` is null: every message needs it"),
        (
            {"role": "assistant", "content": "a", "weight": 0},
            r"weight` is 0: every answer .* trained on alike",
        ),
        ({"role": "assistant", "function_call": {"name": "f"}}, r"write it as tool_calls"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}, "it names no function"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{"}]},
            "must be JSON",
        ),
    ],
)
def test_messages_that_cannot_be_kept_are_refused(tmp_path: Path, message: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_demonstrations(jsonl(tmp_path / "a.jsonl", [{"messages": [ASKED, message, SAID]}]))


def test_a_completion_that_calls_a_tool_is_refused(tmp_path: Path) -> None:
    called = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    row = {"prompt": [ASKED], "chosen": called, "rejected": [SAID]}
    with pytest.raises(InputError, match=r"chosen.tool_calls` is \['f'\]: a completion must be plain text"):
        load_comparisons(jsonl(tmp_path / "a.jsonl", [row]))


def test_a_prompt_beside_other_messages_is_not_taken_for_their_beginning(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": "Bye", "messages": [ASKED, SAID]}])
    with pytest.raises(InputError, match="the messages begin with another, 'Hi'"):
        load_demonstrations(path)
    assert load_demonstrations(path, format="messages").records
    assert load_prompts(path, format="prompt").records == (Prompt(content="Bye"),)


def test_rankings_of_a_layout(tmp_path: Path) -> None:
    answers = [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 1}]
    with pytest.raises(InputError, match="two answers have the same rank"):
        load_rankings(jsonl(tmp_path / "a.jsonl", [{"prompt": "Hi", "answers": answers}]))
