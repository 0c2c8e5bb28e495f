"""Which records are trained on and which are held out: by a hash of the prompt, so the answer is the same in every stage, run and store.

A chat counts by its *opening*, the messages before the first answer. So a dialogue, its continuations, and every comparison made on any turn
of it stand on one side, and no prompt of a held-out chat is part of a chat that was trained on.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal, TypeVar

from prefloop.data.formats import Record
from prefloop.errors import InputError
from prefloop.records import Completion, Conversation, Prompt, Text

Part = Literal["train", "heldout"]

SPLIT_KEY = "prefloop split 1"
"""Hashed before the prompt. Part of every stored result: changing it would move prompts between train and held out."""

R = TypeVar("R", bound=Record | Completion)


def part_of(prompt: Prompt | Text | Conversation, *, heldout: float) -> Part:
    """`heldout` for a share `heldout` (at least 0, below 1) of all openings, by SHA-256 of `SPLIT_KEY` and the opening.

    A larger share holds out everything that a smaller one does, and more.
    """
    if not 0 <= heldout < 1:
        raise InputError(f"heldout is {heldout}; it must be a share, at least 0 and below 1")
    return "heldout" if position(prompt) < heldout else "train"


def position(prompt: Prompt | Text | Conversation) -> float:
    """Where in [0, 1) the hash puts an opening: uniform over openings, 53 bits fine."""
    digest = hashlib.sha256(f"{SPLIT_KEY}\n{opening(prompt).sha256}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def opening(prompt: Prompt | Text | Conversation) -> Prompt:
    """What the split goes by: a text itself, or a chat's messages before the first answer to a user (a greeting is none)."""
    if isinstance(prompt, Text):
        return Prompt(content=prompt.text)
    messages = prompt.messages if isinstance(prompt, Conversation) else prompt.content
    if isinstance(messages, str):
        return Prompt(content=messages)
    asked = next((index for index, message in enumerate(messages) if message.role == "user"), 0)
    answered = (index for index in range(asked, len(messages)) if messages[index].role == "assistant")
    return Prompt(content=messages[: next(answered, len(messages))])


def split(records: Iterable[R], *, heldout: float) -> tuple[tuple[R, ...], tuple[R, ...]]:
    """Records in their order, parted into (train, held out)."""
    parts: dict[Part, list[R]] = {"train": [], "heldout": []}
    for record in records:
        parts[part_of(split_key(record), heldout=heldout)].append(record)
    return tuple(parts["train"]), tuple(parts["heldout"])


def split_key(record: Record | Completion) -> Prompt | Text | Conversation:
    """What decides a record's part: its prompt, or the record itself where it has none."""
    return record if isinstance(record, Prompt | Text | Conversation) else record.prompt
