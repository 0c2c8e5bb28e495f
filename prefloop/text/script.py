"""Records to scripts: which text is the prompt, which is trained, where stop tokens go. Nothing is tokenised yet.

A trained turn is what the chat template writes for the finished chat behind the text that it prompts with, to the
last character. Where the finished chat does not begin with that prompt, or lacks part of the answer (a thought,
say), there is no such text, and the row is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from prefloop.errors import InputError
from prefloop.records import Conversation, Message, Prompt
from prefloop.text.chat import check_answered, check_written, escape, parting, render, write_messages
from prefloop.text.template import AssistantTurn, Conventions, conventions
from prefloop.text.tokens import check_text, check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Origin = Literal["written", "drawn"]
"""Where a completion comes from. What people or files wrote becomes the template's turn or is refused. What a policy
drew behind the generation prompt is a turn as well where that is possible; else it is kept as it was drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSpan:
    """A stretch of a completion."""

    text: str
    """Escaped text."""
    stop: tuple[int, ...]
    """The stop token after it, or nothing if the completion goes on or was cut."""
    trained: bool
    """Whether the assistant said it, or the template and others did."""
    at_end: bool = False
    """Of what is trained only the last token counts: where a step ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """A prompt: tokens that the tokenizer writes first, then escaped text."""

    start: tuple[int, ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A prompt and its completions as text."""

    opening: Opening
    completions: tuple[tuple[TextSpan, ...], ...]


def write_opening(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> Opening:
    """The prompt as the model gets it. Raises `InputError` for a chat that cannot be written."""
    known = conventions(tokenizer)
    if isinstance(prompt.content, str):
        check_text(prompt.content, "the prompt")
        return Opening(
            start=known.start if prompt.content else known.empty, text=escape(prompt.content, known.control)
        )
    return _chat_opening(tokenizer, _written(tokenizer, known, prompt.content, "the prompt"))


def _chat_opening(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]]) -> Opening:
    turn_of(conventions(tokenizer))
    text = render(tokenizer, messages, generation=True)
    check_written(text, messages)
    return Opening(start=(), text=text)


def write_completions(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Prompt,
    completions: Sequence[str],
    ended: Sequence[bool],
    origin: Origin = "written",
) -> Script:
    """A prompt and its completions; those that `ended` get the stop token."""
    known = conventions(tokenizer)
    for completion in completions:
        # What a policy drew may spell anything; only what was read from data shows an image.
        (check_text if origin == "written" else check_unicode)(completion, "the completion")
    texts = [escape(completion, known.control) for completion in completions]
    if isinstance(prompt.content, str):
        opening = write_opening(tokenizer, prompt)
        parts = [
            (TextSpan(text=text, stop=(known.end,) if stops else (), trained=True),)
            for text, stops in zip(texts, ended, strict=True)
        ]
        return Script(opening=opening, completions=tuple(parts))
    messages = _written(tokenizer, known, prompt.content, "the prompt")
    opening = _chat_opening(tokenizer, messages)
    parts = []
    for text, stops in zip(texts, ended, strict=True):
        if stops:
            span = _answer(tokenizer, known, opening.text, messages, text, origin)
        else:
            span = TextSpan(text=_unfinished(turn_of(known), text, origin), stop=(), trained=True)
        parts.append((span,))
    return Script(opening=opening, completions=tuple(parts))


def _answer(
    tokenizer: "PreTrainedTokenizerBase",
    known: Conventions,
    prompt: str,
    messages: Sequence[Mapping[str, Any]],
    text: str,
    origin: Origin,
) -> TextSpan:
    """An answer that ended."""
    turn, message = turn_of(known), {"role": "assistant", "content": text}
    try:
        whole = render(tokenizer, [*messages, message], generation=False)
        text, (_, stop) = _turn_text(known, turn, prompt, whole, message)
    except InputError:
        if origin == "written":
            raise
        stop = turn.stop
    return TextSpan(text=text, stop=(stop,), trained=True)


def _unfinished(turn: AssistantTurn, text: str, origin: Origin) -> str:
    """An answer that goes on, behind what the template writes before one.

    What was drawn already holds that: the policy wrote its own thought. Only white space may be lacking, since whoever
    keeps texts may have trimmed it.
    """
    if (origin == "drawn" and turn.prefix.strip()) or text.startswith(turn.prefix):
        return text
    return turn.prefix + text


def write_steps(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Prompt,
    pieces: Sequence[str],
    *,
    ended: bool = True,
    origin: Origin = "written",
) -> Script:
    """A prompt and one completion in pieces, a step each with what separates it from the next; the last has the stop token if it `ended`.

    Raises `InputError` if the chat template does not write the completion as it is.
    """
    known = conventions(tokenizer)
    script = write_completions(tokenizer, prompt, ["".join(pieces)], [ended], origin)
    ((whole,),) = script.completions
    texts = [escape(piece, known.control) for piece in pieces]
    before, found, after = whole.text.partition("".join(texts))
    if not found:
        raise InputError(
            f"the chat template writes the completion {''.join(pieces)[:40]!r} otherwise, so the ends of its steps are not known; strip white space from its ends"
        )
    texts[0] = before + texts[0]
    texts[-1] += after
    parts = [TextSpan(text=text, stop=(), trained=True, at_end=True) for text in texts[:-1]]
    last = TextSpan(text=texts[-1], stop=whole.stop, trained=True, at_end=True)
    return Script(opening=script.opening, completions=((*parts, last),))


def write_conversation(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> Script:
    """A chat as one completion, from the first assistant turn's content to the last one's stop token.

    Raises `InputError` if no turn is the assistant's, or the template writes a turn otherwise once the
    chat has gone on (dropping its thinking, say): one row cannot hold what the model sees at each turn then.
    """
    known = conventions(tokenizer)
    turn = turn_of(known)
    messages = _written(tokenizer, known, conversation.messages, "the conversation")
    turns = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise InputError(
            "the conversation has no assistant turn, so nothing to train on; add one or remove it"
        )
    if len(turns) > 1 and not turn.stop_text:
        raise InputError(
            "the chat template writes no token after an assistant's turn, so a conversation of several turns cannot teach where to stop; "
            "set a chat template that does, or give one record per assistant turn"
        )
    last = render(tokenizer, messages[: turns[-1] + 1], generation=False)
    check_written(last, messages[: turns[-1] + 1])
    opening, parts, so_far = "", [], ""
    for place in turns:
        prompt = render(tokenizer, messages[:place], generation=True)
        whole = last if place == turns[-1] else render(tokenizer, messages[: place + 1], generation=False)
        if place == turns[0]:
            opening = prompt
        elif last.startswith(prompt):
            parts.append(TextSpan(text=prompt[len(so_far) :], stop=(), trained=False))
        else:
            raise _rewritten(place)
        text, (stop_text, stop) = _turn_text(known, turn, prompt, whole, messages[place])
        parts.append(TextSpan(text=text, stop=(stop,), trained=True))
        so_far = prompt + text + stop_text
        if place != turns[-1] and not last.startswith(so_far):
            raise _rewritten(place)
    return Script(
        opening=Opening(start=(), text=opening),
        completions=(tuple(part for part in parts if part.text or part.stop),),
    )


def _rewritten(place: int) -> InputError:
    return InputError(
        f"the chat template writes message {place + 1} differently once the chat has gone on, so one row cannot show what the model sees at "
        "each turn; give one record per assistant turn, with the messages before it as its prompt, or set a template that keeps turns unchanged"
    )


def turn_of(known: Conventions) -> AssistantTurn:
    """How the template writes an assistant's turn. Raises `InputError` if it writes no chats."""
    if isinstance(known.turn, str):
        raise InputError(known.turn)
    return known.turn


def _written(
    tokenizer: "PreTrainedTokenizerBase", known: Conventions, messages: Sequence[Message], what: str
) -> list[dict[str, Any]]:
    for place, message in enumerate(messages):
        for text in (message.content, message.reasoning):
            check_text(text, f"message {place + 1} of {what}")
    return write_messages(tokenizer, messages, known.control)


def _turn_text(
    known: Conventions, turn: AssistantTurn, prompt: str, whole: str, message: Mapping[str, Any]
) -> tuple[str, tuple[str, int]]:
    """What the template wrote of an assistant's message after the generation prompt, up to its stop token; and that token.

    Raises `InputError` if that is not the message: then no text would be both trained and asked for.
    """
    if not whole.startswith(prompt):
        at = parting(prompt, whole)
        raise InputError(
            f"the chat template prompts the assistant with text ending in {prompt[-30:]!r} but writes this turn differently "
            f"({whole[max(0, at - 10) : at + 20]!r} stands there), so training would not match inference; set a chat template whose "
            "generation prompt is how an assistant's turn begins"
        )
    rest = whole[len(prompt) :]
    check_answered(turn.generation + rest, message)
    if not turn.written:
        return rest.removesuffix(turn.suffix) + turn.suffix, (turn.stop_text, turn.stop)
    for stop_text, stop in known.stop_texts:
        text, found, after = rest.rpartition(stop_text)
        if found and after.strip() in ("", turn.after.strip()):
            return text, (stop_text, stop)
    raise InputError(
        f"the chat template ends this turn with {rest[-30:]!r}, which is not a stop token ({', '.join(text for text, _ in known.stop_texts)}); "
        "name the token in eos_token_id of generation_config.json, or set another chat template"
    )
