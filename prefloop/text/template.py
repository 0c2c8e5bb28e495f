"""What a tokenizer writes around our text: start and end tokens, control tokens, the chat template.

Two rules hold everywhere. Control tokens come from the tokenizer and its template only: a record whose text
spells `<|im_end|>` is read as those characters (`escape`). And a chat is accepted only where the template is
honest: the assistant's turn, once written, must begin with the very text the model was prompted with, or
training and sampling would see different things.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from prefloop.errors import InputError
from prefloop.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAK = "\udc7f"
"""Marks where a control token's text is cut in two. A lone surrogate, which no valid text has."""

_USER, _ASSISTANT, _NEXT = "Wqzu", "Xqzk", "Yqzj"
"""Contents of the chat that templates are probed with: words that no template has of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """How a template writes an assistant's turn after the generation prompt: prefix, content, suffix, stop."""

    prefix: str
    suffix: str
    stop: int
    """Token that ends the turn; the last one trained, and where sampling stops."""
    stop_text: str
    """How the template writes it; empty where it writes none, and `stop` is then the tokenizer's end token."""
    written: bool
    """Whether the template also writes it after the last turn of a chat, or only between turns."""
    opening: str
    """The added token that opens the assistant's turn, such as `<|im_start|>`; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conventions:
    """What a tokenizer does beside turning text into tokens."""

    start: tuple[int, ...]
    """Tokens it writes before every text: usually one start token, or none."""
    empty: tuple[int, ...]
    """The prompt of an empty text, as completions need something before them: `start`, else the start or end
    token."""
    end: int
    """End token."""
    control: re.Pattern[str]
    """Finds the text of control tokens: special tokens, and what ends and opens an assistant's turn."""
    control_ids: frozenset[int]
    """Those tokens, but for the one that stands for unknown characters: text may have it."""
    turn: Turn | str
    """How its template writes a turn, or why chats cannot be written."""

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end a completion: the end token, then the template's end of turn if that is another."""
        stop = self.turn.stop if isinstance(self.turn, Turn) else self.end
        return (self.end,) if stop == self.end else (self.end, stop)


_known: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, Conventions]]" = WeakKeyDictionary()


def conventions(tokenizer: "PreTrainedTokenizerBase") -> Conventions:
    """What `tokenizer` writes around a text, found by asking it once.

    Asked again when its template, start or end token or size has changed.

    Raises `InputError` where it has no end token.
    """
    state = (tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token, len(tokenizer))
    known = _known.get(tokenizer)
    if known is None or known[0] != state:
        known = _known[tokenizer] = (state, _find_conventions(tokenizer))
    return known[1]


def _find_conventions(tokenizer: "PreTrainedTokenizerBase") -> Conventions:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end token, so nothing would teach a model to stop; "
            "set eos_token in its tokenizer_config.json, or train a tokenizer with `prefloop pretrain`"
        )
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    added |= {str(token): True for token in tokenizer.all_special_tokens}
    turn = _find_turn(tokenizer, [token for token in added if not token.isspace()], end)
    control = {token for token, special in added.items() if special}
    if isinstance(turn, Turn):
        control |= {turn.stop_text, turn.opening} - {""}
    start = _start(tokenizer)
    first = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else end
    return Conventions(
        start=start,
        empty=start or (first,),
        end=end,
        control=_any_of(control),
        control_ids=frozenset(_id_of(tokenizer, text) for text in control if text != tokenizer.unk_token),
        turn=turn,
    )


def _start(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Tokens before those of a text. Those a tokenizer writes after it (an end token, say) are ours to decide."""
    alone = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    return next(
        (tuple(whole[:at]) for at in range(len(whole)) if alone and whole[at : at + len(alone)] == alone), ()
    )


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of the texts, the longest where several begin together."""
    return re.compile(
        "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))
    )


def _find_turn(tokenizer: "PreTrainedTokenizerBase", added: Sequence[str], end: int) -> Turn | str:
    """Have the template write a small chat and find the parts of the assistant's turn around its content."""
    user = {"role": "user", "content": _USER}
    assistant = {"role": "assistant", "content": _ASSISTANT}
    try:
        bare = render(tokenizer, [user], generation=False)
        prompt = render(tokenizer, [user], generation=True)
        whole = render(tokenizer, [user, assistant], generation=False)
    except InputError as error:
        return str(error)
    if not whole.startswith(prompt):
        return (
            f"the chat template prompts the assistant with {prompt.removeprefix(bare)!r} but writes its turn differently; "
            "set a chat template whose generation prompt is how an assistant's turn begins"
        )
    prefix, found, tail = whole[len(prompt) :].partition(_ASSISTANT)
    if not found:
        return "the chat template leaves out the assistant's text; set another chat_template"
    if prefix.strip() and prompt == bare:
        return (
            f"the chat template writes {prefix!r} before the assistant's text but not when asked for a generation prompt; "
            "set a chat template that heeds add_generation_prompt"
        )
    stop = _any_of(added).search(tail)
    written = stop is not None
    if stop is None:
        tail = _after_turn(tokenizer, user, assistant)
        stop = _any_of(added).search(tail)
        stop = stop if stop and not tail[: stop.start()].strip() else None
    opening = _any_of(added).search(prompt.removeprefix(bare))
    return Turn(
        prefix=prefix,
        suffix=tail[: stop.start()] if stop else "",
        stop=_id_of(tokenizer, stop.group()) if stop else end,
        stop_text=stop.group() if stop else "",
        written=written,
        opening=opening.group() if opening else "",
    )


def _after_turn(tokenizer: "PreTrainedTokenizerBase", user: dict[str, str], assistant: dict[str, str]) -> str:
    """What follows an assistant's turn in mid-chat; in some templates the next role's token is what ends it."""
    try:
        chat = render(tokenizer, [user, assistant, {"role": "user", "content": _NEXT}], generation=False)
    except InputError:
        return ""
    return chat.partition(_ASSISTANT)[2].partition(_NEXT)[0]


def _id_of(tokenizer: "PreTrainedTokenizerBase", token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]], *, generation: bool
) -> str:
    """The chat as its template writes it, with the opening of the assistant's next turn if `generation`.

    Raises `InputError` where there is no template, or it refuses the chat (for its system turn, say).
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template, but the prompt is a chat; "
            "give prompts as plain text, or set chat_template in its tokenizer_config.json"
        )
    if not messages:
        raise InputError(
            "the chat has no message before the assistant's; begin it with a user's or system message"
        )
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=generation, tokenize=False
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"the chat template refuses a chat of {roles}: {str(error).replace(BREAK, '')}; "
            "change the messages, or set another chat_template"
        ) from error
    assert isinstance(text, str)
    return text


def escape(text: str, control: re.Pattern[str]) -> str:
    """`text` with a `BREAK` inside what would be read as a control token, so that it stays plain text."""
    pieces, start = [], 0
    while found := control.search(text, start):
        pieces.append(text[start : found.start() + 1])
        start = found.start() + 1
    return BREAK.join([*pieces, text[start:]])


def escape_messages(messages: Iterable[Message], control: re.Pattern[str]) -> list[dict[str, str]]:
    """Messages as templates read them, their contents escaped."""
    return [{"role": message.role, "content": escape(message.content, control)} for message in messages]


def match_turn(turn: Turn, rest: str, content: str) -> str | None:
    """`content` as the template wrote it in `rest`, the text after the generation prompt.

    Templates may trim a turn's ends; None where anything else was changed.
    """
    for written in dict.fromkeys((content, content.strip(), content.lstrip(), content.rstrip())):
        if turn.written and rest.startswith(turn.prefix + written + turn.suffix + turn.stop_text):
            return written
        if not turn.written and rest.rstrip() == (turn.prefix + written).rstrip():
            return written
    return None
