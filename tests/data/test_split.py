"""The split: stable, uniform, the same for the same prompt."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.data.split import SPLIT_KEY, part_of, position, split
from prefloop.errors import InputError
from prefloop.records import Comparison, Conversation, Message, Prompt, Text
from tests.data.cases import anything, chat_prompts, comparisons, text_prompts

prompts = st.one_of(text_prompts, chat_prompts)


@given(anything)
def test_position_is_the_documented_hash(text: str) -> None:
    """SHA-256 of the key and the prompt's SHA-256, its first 53 bits as a fraction: written again from the description."""
    inner = hashlib.sha256(json.dumps(text, ensure_ascii=False).encode()).hexdigest()
    outer = hashlib.sha256(b"prefloop split 1\n" + inner.encode()).hexdigest()
    assert SPLIT_KEY == "prefloop split 1"
    expected = int(bin(int(outer, 16) | 1 << 256)[3:56], 2) / 2**53
    assert position(Prompt(content=text)) == position(Text(text=text)) == expected


def test_parts_of_known_prompts_stay_what_they_were() -> None:
    """A change here would move prompts that were trained on into the held-out part of stored results."""
    held = [n for n in range(100) if part_of(Prompt(content=f"prompt {n}"), heldout=0.1) == "heldout"]
    assert held == [3, 5, 23, 32, 60, 73, 88, 90, 94, 99]


def test_split_is_uniform() -> None:
    """20,000 prompts: mean and every decile within 5 standard errors."""
    count = 20_000
    places = sorted(position(Prompt(content=f"question {n}")) for n in range(count))
    assert abs(sum(places) / count - 0.5) < 5 * (1 / 12 / count) ** 0.5
    for tenth in range(1, 10):
        share = sum(place < tenth / 10 for place in places) / count
        assert abs(share - tenth / 10) < 5 * (0.1 * tenth * (1 - 0.1 * tenth) / count) ** 0.5


@given(prompts, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_larger_share_holds_out_all_that_a_smaller_does(prompt: Prompt, one: float, other: float) -> None:
    small, large = sorted((one, other))
    if part_of(prompt, heldout=small) == "heldout":
        assert part_of(prompt, heldout=large) == "heldout"
    assert part_of(prompt, heldout=0) == "train"


@given(st.lists(comparisons(prompts), max_size=10))
def test_split_keeps_every_record_once_in_order(records: list[Comparison]) -> None:
    train, held = split(records, heldout=0.5)
    for part, name in ((train, "train"), (held, "heldout")):
        assert list(part) == [record for record in records if part_of(record.prompt, heldout=0.5) == name]


@given(chat_prompts)
def test_a_chat_and_a_comparison_within_it_are_on_one_side(prompt: Prompt) -> None:
    assert isinstance(prompt.content, tuple)
    chat = Conversation(messages=(*prompt.content, Message(role="assistant", content="yes")))
    assert position(chat) == position(prompt)


@pytest.mark.parametrize("heldout", [-0.1, 1.0, 7.0, float("nan")])
def test_share_out_of_range(heldout: float) -> None:
    with pytest.raises(InputError, match=f"heldout is {heldout}; it must be a share"):
        part_of(Prompt(content="x"), heldout=heldout)
