"""Records to scripts: which text is the prompt, which is trained, where stop tokens go. Nothing is tokenised yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefloop.errors import InputError
from prefloop.records import Conversation, Message, Prompt
from prefloop.text.template import Conventions, Turn, conventions, escape, escape_messages, match_turn, render
from prefloop.text.tokens import check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of a completion."""

    text: str
    """Escaped text."""
    stop: tuple[int, ...]
    """The stop token after it, or nothing where the completion goes on or was cut."""
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
    completions: tuple[tuple[Part, ...], ...]


def write_opening(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> Opening:
    """The prompt as the model gets it. Raises `InputError` for a chat that cannot be written."""
    known = conventions(tokenizer)
    if isinstance(prompt.content, str):
        check_unicode(prompt.content, "the prompt")
        return Opening(
            start=known.start if prompt.content else known.empty, text=escape(prompt.content, known.control)
        )
    _turn_of(known)
    return Opening(
        start=(), text=render(tokenizer, _escaped(known, prompt.content, "the prompt"), generation=True)
    )


def write_completions(
    tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, completions: Sequence[str], ended: Sequence[bool]
) -> Script:
    """A prompt and its completions; those that `ended` get the stop token."""
    known = conventions(tokenizer)
    opening = write_opening(tokenizer, prompt)
    parts: list[tuple[Part, ...]] = []
    for completion, stops in zip(completions, ended, strict=True):
        check_unicode(completion, "the completion")
        text = escape(completion, known.control)
        if isinstance(prompt.content, str):
            stop = known.end
        else:
            turn = _turn_of(known)
            messages = escape_messages(prompt.content, known.control)
            whole = render(tokenizer, [*messages, {"role": "assistant", "content": text}], generation=False)
            text = _turn_text(turn, _after_prompt(opening.text, whole), text, ended=stops)
            stop = turn.stop
        parts.append((Part(text=text, stop=(stop,) if stops else (), trained=True),))
    return Script(opening=opening, completions=tuple(parts))


def write_steps(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Prompt,
    pieces: Sequence[str],
    *,
    ended: bool = True,
) -> Script:
    """A prompt and one completion in pieces, a step each with what separates it from the next; the last has the stop token if it `ended`.

    Raises `InputError` where the chat template does not write the completion as it is.
    """
    known = conventions(tokenizer)
    script = write_completions(tokenizer, prompt, ["".join(pieces)], [ended])
    ((whole,),) = script.completions
    texts = [escape(piece, known.control) for piece in pieces]
    before, found, after = whole.text.partition("".join(texts))
    if not found:
        raise InputError(
            f"the chat template writes the completion {''.join(pieces)[:40]!r} otherwise, so where its steps end is not known; take white space from its ends"
        )
    texts[0] = before + texts[0]
    texts[-1] += after
    parts = [Part(text=text, stop=(), trained=True, at_end=True) for text in texts[:-1]]
    last = Part(text=texts[-1], stop=whole.stop, trained=True, at_end=True)
    return Script(opening=script.opening, completions=((*parts, last),))


def write_conversation(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> Script:
    """A chat as one completion, from the first assistant turn's content to the last one's stop token.

    Raises `InputError` where no turn is the assistant's, or the template writes a turn otherwise once the
    chat has gone on (dropping its thinking, say): one row cannot hold what the model sees at each turn then.
    """
    known = conventions(tokenizer)
    turn = _turn_of(known)
    messages = _escaped(known, conversation.messages, "the conversation")
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
    opening, parts, written = "", [], 0
    for place in turns:
        prompt = render(tokenizer, messages[:place], generation=True)
        whole = last if place == turns[-1] else render(tokenizer, messages[: place + 1], generation=False)
        rest = _after_prompt(prompt, whole)
        content = messages[place]["content"]
        if place == turns[0]:
            opening = prompt
        elif last.startswith(prompt):
            parts.append(Part(text=prompt[written:], stop=(), trained=False))
        else:
            raise _rewritten(place)
        text = _turn_text(turn, rest, content, ended=True)
        parts.append(Part(text=text, stop=(turn.stop,), trained=True))
        so_far = prompt + text + turn.stop_text
        written = len(so_far)
        if place != turns[-1] and not last.startswith(so_far):
            raise _rewritten(place)
    return Script(
        opening=Opening(start=(), text=opening),
        completions=(tuple(part for part in parts if part.text or part.stop),),
    )


def _rewritten(place: int) -> InputError:
    return InputError(
        f"the chat template writes message {place + 1} otherwise once the chat has gone on, so one row cannot hold what the model sees at "
        "each turn; give one record per assistant turn (its prompt: the messages before it), or set a template that keeps turns as they are"
    )


def _turn_of(known: Conventions) -> Turn:
    if isinstance(known.turn, str):
        raise InputError(known.turn)
    return known.turn


def _escaped(known: Conventions, messages: Sequence[Message], what: str) -> list[dict[str, str]]:
    for place, message in enumerate(messages):
        check_unicode(message.content, f"message {place + 1} of {what}")
    return escape_messages(messages, known.control)


def _after_prompt(prompt: str, whole: str) -> str:
    """What the template writes after the generation prompt when it writes the assistant's turn."""
    if not whole.startswith(prompt):
        raise InputError(
            f"the chat template prompts the assistant with text ending in {prompt[-30:]!r} but writes this turn differently; "
            "set a chat template whose generation prompt is how an assistant's turn begins"
        )
    return whole[len(prompt) :]


def _turn_text(turn: Turn, rest: str, content: str, *, ended: bool) -> str:
    """Text of an assistant's turn up to its stop token.

    The template's where it keeps the content, up to trimmed ends. Where it drops or moves parts of it
    (thinking), the content itself: that is what a model would have said after this prompt.
    """
    written = match_turn(turn, rest, content)
    if written is None:
        return content
    if ended:
        return turn.prefix + written + turn.suffix
    return turn.prefix + content[content.find(written) :]
