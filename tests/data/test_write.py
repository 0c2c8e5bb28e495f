"""What is written is read back as it was, by our loaders and by `datasets`, or is not written."""

import gzip
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.data import content_hash, load_demonstrations, load_records, write_jsonl
from prefloop.data.formats import FormatName
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
from tests.data.cases import (
    chat_prompts,
    comparisons,
    conversations,
    dialogue_prompts,
    of_prompts,
    text_prompts,
    texts,
)

ROUND_TRIPS: list[tuple[FormatName, Any]] = [
    ("text", texts),
    ("messages", conversations),
    ("implicit", comparisons(chat_prompts)),
    ("hh", comparisons(dialogue_prompts)),
    *((name, records) for kind in (text_prompts, chat_prompts) for name, records in of_prompts(kind).items()),
]

HI = Message(role="user", content="Hi")
CHAT = Prompt(content=(HI,))
PAIR = Comparison(prompt=Prompt(content="p"), chosen="a", rejected="b")


@pytest.mark.parametrize(("name", "record"), ROUND_TRIPS)
def test_written_records_are_read_back(name: FormatName, record: Any) -> None:
    @given(st.lists(record, min_size=1, max_size=4), st.sampled_from([".jsonl", ".jsonl.gz"]))
    @settings(max_examples=25, deadline=None)
    def round_trip(records: list[Any], suffix: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            written = write_jsonl(records, Path(folder) / f"a{suffix}", format=name)
            loaded = load_records(written.path)
        assert loaded.records == tuple(records)
        assert loaded.summary.format == written.format == name
        assert written.rows == len(records)
        assert content_hash(loaded.records) == content_hash(records)

    round_trip()


def test_natural_formats_are_the_fields_columns(tmp_path: Path) -> None:
    expected: list[tuple[Any, dict[str, Any]]] = [
        (PAIR, {"prompt": "p", "chosen": "a", "rejected": "b"}),
        (
            replace(PAIR, prompt=CHAT, margin=0.5, annotator="ann"),
            {
                "prompt": [{"role": "user", "content": "Hi"}],
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
                "margin": 0.5,
                "annotator": "ann",
            },
        ),
        (
            Label(prompt=Prompt(content="p"), completion="a", good=False),
            {"prompt": "p", "completion": "a", "label": False},
        ),
        (
            Score(prompt=Prompt(content="p"), completion="a", value=0),
            {"prompt": "p", "completion": "a", "score": 0.0},
        ),
        (
            Ranking(prompt=Prompt(content="p"), completions=("a", "b")),
            {"prompt": "p", "completions": ["a", "b"]},
        ),
        (Text(text="ä"), {"text": "ä"}),
    ]
    for record, row in expected:
        written = write_jsonl([record], tmp_path / "a.jsonl")
        assert json.loads(written.path.read_text(encoding="utf-8")) == row


def test_falsy_margin_beside_a_margin_is_written(tmp_path: Path) -> None:  # C7
    path = write_jsonl([PAIR, replace(PAIR, margin=1.0)], tmp_path / "a.jsonl").path
    assert [json.loads(line)["margin"] for line in path.read_text().splitlines()] == [0.0, 1.0]


def test_datasets_reads_what_is_written(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    chat = replace(PAIR, prompt=CHAT, margin=0.5)
    records: list[tuple[FormatName, list[Any]]] = [
        ("comparison", [PAIR, replace(PAIR, chosen="c\u2028\u0000d")]),
        ("comparison", [chat, replace(chat, annotator="ann")]),
        ("implicit", [chat]),
        ("hh", [chat]),
        ("messages", [Conversation(messages=(HI, Message(role="assistant", content="a")))]),
    ]
    for number, (name, given_records) in enumerate(records):
        written = write_jsonl(given_records, tmp_path / f"{number}.jsonl", format=name)
        data = datasets.load_dataset(
            "json", data_files=str(written.path), split="train", cache_dir=str(tmp_path / "cache")
        )
        rows = [json.loads(line) for line in written.path.read_bytes().split(b"\n") if line]
        assert data.to_list() == rows
        data.save_to_disk(tmp_path / f"saved{number}")
        assert load_records(tmp_path / f"saved{number}").records == tuple(given_records)


def test_chat_demonstrations_can_be_written_as_messages(tmp_path: Path) -> None:
    record = Demonstration(prompt=CHAT, completion="Hello")
    written = write_jsonl([record], tmp_path / "a.jsonl", format="messages")
    (chat,) = load_demonstrations(written.path).records
    assert chat == Conversation(messages=(HI, Message(role="assistant", content="Hello")))


@pytest.mark.parametrize(
    ("record", "name", "message"),
    [
        (PAIR, "hh", "record 2: `prompt` is Prompt(content='p'): the prompt is text, and this format holds chats; write it as comparison"),
        (PAIR, "implicit", "record 2: `prompt` is Prompt(content='p'): the prompt is text, and this format holds chats; write it as comparison"),
        (PAIR, "label", "record 2: `record` is Comparison: the format label holds Labels; write it as comparison"),
        (replace(PAIR, chosen=""), None, "record 2: `chosen` is '': the completion is empty; write the completion, or leave the row out"),
        (replace(PAIR, chosen="b", origin="f:9"), None, "f:9: `chosen` is 'b': it equals rejected; write what was rejected, or leave the row out"),
        (replace(PAIR, margin=float("inf")), None, "record 2: `margin` is inf: it must be finite; write a finite number, or leave the row out"),
        (replace(PAIR, chosen="\n\nHuman: x", rejected="\n\nHuman: y"), None, "record 2: `chosen` is a dialogue that ends with user: the completion is the assistant's last turn; end the dialogue with an assistant message"),
    ],
)  # fmt: skip
def test_record_that_would_not_be_read_back_is_not_written(
    tmp_path: Path, record: Any, name: FormatName | None, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("before")
    good: Any = {
        "hh": replace(PAIR, prompt=CHAT),
        "implicit": replace(PAIR, prompt=CHAT),
        "label": Label(prompt=CHAT, completion="a", good=True),
    }
    first = good.get(name, PAIR)
    with pytest.raises(InputError) as raised:
        write_jsonl([first, record], path, format=name)
    assert str(raised.value) == (
        f"{path}: 1 of 2 records cannot be written as {name or 'comparison'}; nothing was written. "
        f"Correct them, or set skip_bad to leave them out, counted and listed:\n  {message}"
    )
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
    written = write_jsonl([first, record], path, format=name, skip_bad=True)
    assert (written.rows, [str(bad) for bad in written.bad]) == (1, [message])
    assert load_records(path).records == (first,)


def test_text_and_chat_prompts_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 2 prompts are chats and the others are text"):
        write_jsonl([PAIR, replace(PAIR, prompt=CHAT)], tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())


def test_nothing_and_other_kinds_of_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no record to write"):
        write_jsonl([], tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=r"records are written as \.jsonl or \.jsonl\.gz"):
        write_jsonl([PAIR], tmp_path / "a.csv")


@pytest.mark.parametrize("where", [(os, "fsync"), (Path, "replace")])
def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    path = write_jsonl([PAIR], tmp_path / "a.jsonl").path
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*where, full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_jsonl([PAIR, PAIR.swap()], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_folders_are_made_and_compressed_bytes_are_reproducible(tmp_path: Path) -> None:
    paths = [write_jsonl([PAIR], tmp_path / name / "a.jsonl.gz").path for name in ("x", "y")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert json.loads(gzip.decompress(paths[0].read_bytes())) == {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
    }
    with pytest.raises(InputError, match="cannot be written"):
        write_jsonl([PAIR], paths[0] / "b.jsonl")
