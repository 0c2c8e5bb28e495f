r"""Dialogues written as one string in the manner of Anthropic's HH data: `\n\nHuman: ...\n\nAssistant: ...`, and the prompt two dialogues share.

Only a label at the start of a paragraph begins a turn. Labels inside a paragraph (people and models write them: "Human: that is ...")
belong to the text, and turns that follow one another with the same label stay separate turns, as they were written.
"""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import TypeGuard

from prefloop.data.messages import answer_of, chat_prompt
from prefloop.data.rows import RowError, show
from prefloop.records import Message, Prompt, Role

_LABEL = re.compile(r"\n\n(Human|Assistant):")
_ROLE: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_NAME = {role: name for name, role in _ROLE.items()}


def is_transcript(value: object) -> TypeGuard[str]:
    """Whether a value is a string that begins as a transcript does."""
    return isinstance(value, str) and _LABEL.match(value) is not None


def parse_transcript(text: str, field: str) -> tuple[Message, ...]:
    """The turns of a transcript; of a turn's text, only the one space after its label is taken off."""
    labels = list(_LABEL.finditer(text))
    if not labels or labels[0].start() != 0:
        raise RowError(
            field, show(text), "a transcript begins with a blank line and `Human:`", "fix the transcript"
        )
    ends = [label.start() for label in labels[1:]] + [len(text)]
    turns = tuple(
        Message(role=_ROLE[label.group(1)], content=text[label.end() : end].removeprefix(" "))
        for label, end in zip(labels, ends, strict=True)
    )
    for index, turn in enumerate(turns):
        if not turn.content or turn.content.isspace():
            last = index == len(turns) - 1
            what = "completion" if last and turn.role == "assistant" else "message"
            raise RowError(
                field,
                show(text[-40:]) if last else f"a transcript with turn {index + 1} of {len(turns)} empty",
                f"the {what} is empty",
                f"write the {what}, or leave the row out",
            )
    return turns


def write_transcript(turns: Sequence[Message]) -> str:
    """The transcript that `parse_transcript` reads as these turns. Raises `ValueError` if there is none."""
    text = "".join(f"\n\n{_label(turn)}: {turn.content}" for turn in turns)
    if tuple(turn.content for turn in turns) != _contents(text):
        raise ValueError("a message holds a paragraph that begins with `Human:` or `Assistant:`")
    return text


def shared_prompt(chosen: Sequence[Message], rejected: Sequence[Message]) -> tuple[Prompt, str, str]:
    """Prompt, chosen and rejected completion of two dialogues that are the same up to their last turn, the assistant's.

    Dialogues that part earlier are two conversations, of which it is not known which turn was preferred: a `RowError`.
    """
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    if shared == len(chosen) == len(rejected):
        raise RowError(
            "chosen",
            show(chosen[-1].content),
            "it equals rejected",
            "write what was rejected, or leave the row out",
        )
    if not len(chosen) == len(rejected) == shared + 1:
        raise RowError(
            "chosen",
            f"a dialogue of {len(chosen)} turns (rejected has {len(rejected)})",
            f"it differs from rejected at turn {shared + 1}, before the last turn, so it is not known which reply was preferred",
            "cut both after the first turn that differs, or leave the row out",
        )
    for field, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise RowError(
                field,
                f"a dialogue that ends with {turns[-1].role}",
                "the completion is the assistant's last turn",
                "end the dialogue with an assistant message",
            )
    prompt = chat_prompt(tuple(chosen[:shared]), "chosen")
    return prompt, answer_of(chosen[-1], "chosen"), answer_of(rejected[-1], "rejected")


def _label(turn: Message) -> str:
    if turn.role not in _NAME:
        raise ValueError(f"a transcript has no label for the role {turn.role!r}")
    return _NAME[turn.role]


def _contents(text: str) -> tuple[str, ...]:
    return tuple(part.removeprefix(" ") for part in _LABEL.split(text)[2::2])
