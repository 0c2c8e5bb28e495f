"""Human/Assistant transcripts: made ones by hand, and the real ones."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.data import check, load_comparisons, part_of, split
from prefloop.data.split import opening
from prefloop.data.transcripts import parse_transcript, shared_prompt, write_transcript
from prefloop.records import Comparison, Message, Prompt
from tests.data.cases import exchanges, filled, jsonl, message


def turns(*contents: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(
        Message(role="user" if role == "H" else "assistant", content=content) for role, content in contents
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n\nHuman: a\n\nAssistant: b", turns(("H", "a"), ("A", "b"))),
        ("\n\nHuman: a\n\nb\n\nAssistant:b ", turns(("H", "a\n\nb"), ("A", "b "))),
        ("\n\nHuman:  a\nAssistant: x\n\nAssistant: b", turns(("H", " a\nAssistant: x"), ("A", "b"))),
        ("\n\nHuman: a\n\nAssistant: Human: b", turns(("H", "a"), ("A", "Human: b"))),
        ("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", turns(("H", "a"), ("A", "b"), ("A", "c"))),
    ],
)
def test_turns_begin_at_labels_that_begin_a_paragraph(text: str, expected: tuple[Message, ...]) -> None:
    assert parse_transcript(text, "chosen") == expected


@given(st.lists(st.one_of(message("user"), message("assistant")), min_size=1, max_size=5).map(tuple))
def test_written_transcript_is_read_back(messages: tuple[Message, ...]) -> None:
    assert parse_transcript(write_transcript(messages), "chosen") == messages


@pytest.mark.parametrize("content", ["a\n\nHuman: b", "\n\nAssistant:", "x\n\n\nHuman:"])
def test_text_that_would_begin_a_turn_is_not_written(content: str) -> None:
    with pytest.raises(ValueError, match="a paragraph that begins with"):
        write_transcript(turns(("H", content)))
    with pytest.raises(ValueError, match="no label for the role 'system'"):
        write_transcript([Message(role="system", content="x")])


@given(exchanges, message("user"), filled, filled)
def test_shared_prompt_is_taken_out_once(  # D10
    before: tuple[Message, ...], asked: Message, chosen: str, rejected: str
) -> None:
    prompt = (*before, asked)
    if chosen == rejected:
        return
    dialogues = [(*prompt, Message(role="assistant", content=text)) for text in (chosen, rejected)]
    assert shared_prompt(*dialogues) == (Prompt(content=prompt), chosen, rejected)


def test_a_dialogue_and_its_continuations_are_one_side() -> None:
    first = Prompt(content=turns(("H", "a")))
    later = Prompt(content=turns(("H", "a"), ("A", "b"), ("H", "c")))
    greeted = Prompt(content=turns(("A", "Welcome"), ("H", "a")))
    assert opening(later) == first
    assert opening(greeted) == greeted
    assert all(part_of(first, heldout=x / 20) == part_of(later, heldout=x / 20) for x in range(20))


@pytest.fixture(scope="module")
def hh(real_data: Path) -> Path:
    path = real_data / "hh-harmless" / "train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def test_real_transcripts_are_all_read_or_named(hh: Path) -> None:  # D5
    loaded = load_comparisons(hh, skip_bad=True)
    summary = loaded.summary
    assert (summary.format, summary.read, summary.kept, summary.beyond_limit) == ("hh", 1800, 1793, 0)
    assert [(int(bad.origin.rpartition(":")[2]), bad.reason.split(",")[0]) for bad in summary.bad] == [
        (398, "the completion is empty"),
        (572, "the completion is empty"),
        (844, "it differs from rejected at turn 4"),
        (857, "it differs from rejected at turn 10"),
        (921, "the completion is empty"),
        (1323, "it differs from rejected at turn 4"),
        (1709, "it differs from rejected at turn 2"),
    ]


def test_real_prompts_are_there_once(hh: Path) -> None:  # D10
    """Prompt and completion, written one after the other, are the transcript letter by letter."""
    with gzip.open(hh, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    for pair in load_comparisons(hh, skip_bad=True).records:
        assert isinstance(pair.prompt.content, tuple)
        row = rows[int(pair.origin.rpartition(":")[2]) - 1]
        for text, whole in ((pair.chosen, row["chosen"]), (pair.rejected, row["rejected"])):
            answered = (*pair.prompt.content, Message(role="assistant", content=text))
            assert write_transcript(answered) == whole
        assert pair.prompt.content[-1].role == "user"


def test_real_prompts_never_leak(hh: Path) -> None:
    pairs = load_comparisons(hh, skip_bad=True).records
    for heldout in (0.02, 0.1, 0.5):
        train, held = split(pairs, heldout=heldout)
        assert len(train) + len(held) == len(pairs) == 1793
        assert not {pair.prompt for pair in train} & {pair.prompt for pair in held}
        assert not {opening(pair.prompt) for pair in train} & {opening(pair.prompt) for pair in held}
        assert abs(len(held) / len(pairs) - heldout) < 0.04  # 3 standard errors of a half
        # nor is a held-out prompt the beginning of a longer one that is trained on, or the other way round
        beginnings = {
            pair.prompt.content[:n] for pair in train for n in range(1, len(pair.prompt.content) + 1)
        }
        assert not beginnings & {pair.prompt.content for pair in held}


def test_real_report(hh: Path) -> None:
    report = check(hh)
    assert sum(report.parts.values()) == 1793
    assert [found.count for found in report.leaks[:2]] == [0, 0]
    assert {found.name: found.count for found in report.odd}["consecutive turns of one role"] == 3
    text = str(report)
    assert "bad rows of" in text
    assert all(f"{hh}:{line}: " in text for line in (398, 572, 844, 857, 921, 1323, 1709))


def test_odd_dialogues_are_never_guessed_at(tmp_path: Path) -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    rows = [
        {"chosen": f"{start} d", "rejected": f"{start} e"},
        {
            "chosen": f"{start} d\n\nHuman: f\n\nAssistant: g",
            "rejected": f"{start} e\n\nHuman: f\n\nAssistant: h",
        },
        {"chosen": f"{start} d", "rejected": f"{start} d\n\nAssistant: e"},
        {"chosen": f"{start} d", "rejected": f"{start} d"},
    ]
    loaded = load_comparisons(jsonl(tmp_path / "a.jsonl", rows), skip_bad=True)
    prompt = Prompt(content=turns(("H", "a"), ("A", "b"), ("H", "c")))
    assert loaded.records == (Comparison(prompt=prompt, chosen="d", rejected="e"),)
    assert [bad.origin[-2:] for bad in loaded.summary.bad] == [":2", ":3", ":4"]
