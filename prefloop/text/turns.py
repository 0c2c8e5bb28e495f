"""A conversation as one row of tokens that grows: the policy's turns as it drew them, everything between them as the chat template writes it.

A policy's tokens are never encoded again. What stands between two of its turns (the end of its message, what others say, the opening of its
next turn) is taken from the template, which is asked to write the chat with a marker in the policy's place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prefloop.errors import InputError
from prefloop.records import Message, Prompt
from prefloop.text.chat import BREAK, check_written, parting, render, write_messages
from prefloop.text.encode import encode_prompt
from prefloop.text.script import turn_of, write_opening
from prefloop.text.template import conventions
from prefloop.text.tokens import check_unicode, encode_after

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKER = "Xqzw"
"""Stands for the policy's turn: a word that no template has of its own."""


class Rewritten(InputError):
    """The template writes the policy's earlier turns differently from how they were drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatOpening:
    """A chat that the policy answers."""

    messages: tuple[Message, ...]
    text: str
    """As the template writes it, with the opening of the policy's turn."""
    ids: list[int]


def open_chat(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> ChatOpening:
    """The beginning of a conversation. Raises `InputError` for a chat that the template cannot write."""
    prompt = Prompt(content=tuple(messages))
    return ChatOpening(
        messages=tuple(messages),
        text=write_opening(tokenizer, prompt).text,
        ids=encode_prompt(tokenizer, prompt),
    )


def check_turns(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise `InputError` if the tokenizer has no chat template, or one that writes nothing where a turn ends."""
    if not turn_of(conventions(tokenizer)).stop_text:
        raise InputError(
            "the chat template writes no token after an assistant's turn, so a conversation of several turns cannot continue from what the policy wrote; "
            "set a chat template that does"
        )


def ends_turn(tokenizer: "PreTrainedTokenizerBase", token: int) -> bool:
    """Whether a stop token is the one that the template ends a turn with; after another one a chat does not go on."""
    return token == turn_of(conventions(tokenizer)).stop


def reply(
    tokenizer: "PreTrainedTokenizerBase",
    so_far: ChatOpening,
    drawn: Sequence[int],
    spoken: Message,
    replies: Sequence[Message],
) -> ChatOpening:
    """The conversation after the policy drew `drawn`, its end of turn included, which reads as the message `spoken`, and others replied.

    Its `ids` are those of before, then `drawn`, then the template's text up to the policy's next turn.

    Raises:
        Rewritten: The template writes the chat so far otherwise now that it has gone on (drops a thought, say): the tokens that the policy
            is given here are then not those that it would be given at inference.
        InputError: The template cannot write the replies.
    """
    known = conventions(tokenizer)
    turn = turn_of(known)
    for message in replies:
        check_unicode(message.content, "the environment's message")
    marker = _MARKER
    while any(marker in message.content for message in replies):
        marker += _MARKER[-1]
    marked = [*so_far.messages, replace(spoken, content=marker), *replies]
    text = render(tokenizer, write_messages(tokenizer, marked, known.control), generation=True)
    check_written(text, write_messages(tokenizer, replies, known.control))
    between = text.rpartition(marker)[2]
    end = turn.suffix + turn.stop_text
    if not between.startswith(end):
        raise InputError(
            f"the chat template writes {between[: len(end) + 20]!r} after an assistant's turn that others answer, and {end!r} after the last one; "
            "set a chat template that ends all turns alike"
        )
    between = between.removeprefix(end)
    messages = (*so_far.messages, spoken, *replies)
    written = render(tokenizer, write_messages(tokenizer, messages, known.control), generation=True)
    kept = so_far.text + spoken.content + turn.stop_text + between
    if _squeezed(written) != _squeezed(kept):
        raise _rewritten(written, kept)
    (ids,) = encode_after(tokenizer, turn.stop_text, [between])
    return ChatOpening(messages=messages, text=kept, ids=[*so_far.ids, *drawn, *ids])


def _squeezed(text: str) -> str:
    """Without white space, which templates may take off a message's ends."""
    return "".join(text.replace(BREAK, "").split())


def _rewritten(written: str, kept: str) -> Rewritten:
    ours, theirs = _squeezed(kept), _squeezed(written)
    at = parting(ours, theirs)
    return Rewritten(
        f"the chat template writes the conversation otherwise once it has gone on ({theirs[at : at + 20]!r} where the policy was given "
        f"{ours[at : at + 20]!r}), so the policy would not be given its own tokens; set a chat template that keeps earlier turns as they were (their thoughts, for example)"
    )
