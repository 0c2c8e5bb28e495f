"""What a tokenizer writes around our text: start and end tokens, control tokens, the chat template's turn.

A template is asked to write small chats, and its turn is read off them. A template that cannot even prompt the
assistant serves no chat. Whether a row can be trained is decided row by row (`prefloop.text.script`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from prefloop.errors import InputError
from prefloop.text.chat import parting, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_CHATS = "an encoder-decoder model reads plain texts, not chats; give the prompt as one text"

_USER, _ASSISTANT, _NEXT = "Wqzu", "Xqzk", "Yqzj"
"""Contents of the chat that templates are probed with: words that no template has of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssistantTurn:
    """How a template writes an assistant's turn after the generation prompt: prefix, content, suffix, stop."""

    generation: str
    """What the generation prompt adds to the chat so far."""
    prefix: str
    """What stands before an answer without a thought; empty if the template writes such a turn otherwise than it
    prompts for it."""
    suffix: str
    stop: int
    """Token that ends the turn; the last one trained, and where sampling stops."""
    stop_text: str
    """How the template writes it; empty if it writes none, and `stop` is then the tokenizer's end token."""
    written: bool
    """Whether the template also writes it after the last turn of a chat, or only between turns."""
    after: str
    """What it writes after the last turn's stop token: nothing, or a line break."""
    opening: str
    """The added token that opens the assistant's turn, such as `<|im_start|>`; empty if there is none."""


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
    turn: AssistantTurn | str
    """How its template writes a turn, or why chats cannot be written."""
    stops: tuple[int, ...]
    """Tokens that end a completion: the end token, the template's end of turn, and what the model's files name besides."""
    stop_texts: tuple[tuple[str, int], ...]
    """Those that a template can write, with their ids; the end of turn first."""
    apart: bool
    """Whether the model reads a prompt with an encoder: prompt and completion are then two texts, each tokenised by itself."""
    prompt_end: tuple[int, ...]
    """Tokens after a prompt that an encoder reads, as the tokenizer writes them after every text (T5's `</s>`); else none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Declared:
    """What the model's files say of a tokenizer."""

    stops: tuple[int, ...] = ()
    apart: bool = False


_known: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, Conventions]]" = WeakKeyDictionary()
_declared: "WeakKeyDictionary[PreTrainedTokenizerBase, _Declared]" = WeakKeyDictionary()


def declare_stops(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]) -> None:
    """Take tokens that the files beside the tokenizer say a text ends with (`eos_token_id`, often a list) as stop tokens too."""
    _declared[tokenizer] = replace(_declared.get(tokenizer, _Declared()), stops=tuple(ids))


def declare_encoder(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Take over that the tokenizer's model is an encoder-decoder, which reads prompt and completion apart."""
    _declared[tokenizer] = replace(_declared.get(tokenizer, _Declared()), apart=True)


def conventions(tokenizer: "PreTrainedTokenizerBase") -> Conventions:
    """What `tokenizer` writes around a text, found by asking it once.

    Asked again when its template, start or end tokens, size or what was declared have changed.

    Raises `InputError` if it has no end token.
    """
    declared = _declared.get(tokenizer, _Declared())
    state = (tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token, len(tokenizer), declared)
    known = _known.get(tokenizer)
    if known is None or known[0] != state:
        known = _known[tokenizer] = (state, _find_conventions(tokenizer, declared))
    return known[1]


def reads_apart(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer's model is an encoder-decoder, for which prompt and completion are two texts."""
    return conventions(tokenizer).apart


def _find_conventions(tokenizer: "PreTrainedTokenizerBase", declared: _Declared) -> Conventions:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end token, so nothing would teach a model to stop; "
            "set eos_token in its tokenizer_config.json, or train a tokenizer with `prefloop pretrain`"
        )
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    added |= {str(token): True for token in tokenizer.all_special_tokens}
    spoken = [token for token in added if not token.isspace()]
    turn = NO_CHATS if declared.apart else _find_turn(tokenizer, spoken, end)
    ends = [turn.stop] if isinstance(turn, AssistantTurn) else []
    texts = {
        id: str(tokenizer.convert_ids_to_tokens(id)) for id in dict.fromkeys((*ends, end, *declared.stops))
    }
    control = {token for token, special in added.items() if special} | set(texts.values())
    if isinstance(turn, AssistantTurn):
        control |= {turn.stop_text, turn.opening} - {""}
    start, after = tokens_around(tokenizer)
    first = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else end
    return Conventions(
        start=start,
        empty=start or (first,),
        end=end,
        control=_any_of(control),
        control_ids=frozenset(_id_of(tokenizer, text) for text in control if text != tokenizer.unk_token),
        turn=turn,
        stops=tuple(dict.fromkeys((end, *ends, *declared.stops))),
        stop_texts=tuple((text, id) for id, text in texts.items()),
        apart=declared.apart,
        prompt_end=after if declared.apart else (),
    )


def tokens_around(
    tokenizer: "PreTrainedTokenizerBase", *, target: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that a tokenizer writes before a text, and those after it; with `target` around one that a decoder writes.

    What a tokenizer writes after a text that no encoder reads (an end token, say) is ours to decide.
    """
    alone = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list((tokenizer(text_target="a") if target else tokenizer("a"))["input_ids"])
    for at in range(len(whole)):
        if alone and whole[at : at + len(alone)] == alone:
            return tuple(whole[:at]), tuple(whole[at + len(alone) :])
    return (), ()


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of the texts, the longest where several begin together."""
    return re.compile(
        "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))
    )


def _find_turn(tokenizer: "PreTrainedTokenizerBase", added: Sequence[str], end: int) -> AssistantTurn | str:
    """Have the template write a small chat and find the parts of the assistant's turn around its content."""
    user = {"role": "user", "content": _USER}
    assistant = {"role": "assistant", "content": _ASSISTANT}
    end_text = str(tokenizer.eos_token)
    try:
        bare = render(tokenizer, [user], generation=False)
        prompt = render(tokenizer, [user], generation=True)
    except InputError as error:
        return str(error)
    try:
        whole = render(tokenizer, [user, assistant], generation=False)
    except InputError:  # it prompts, and never writes an answer down
        whole = ""
    head, found, tail = whole.partition(_ASSISTANT)
    prefix = head.removeprefix(prompt) if found and head.startswith(prompt) else ""
    stop = _stop_in(tail, added, end_text)
    written = stop is not None
    after = tail[stop.end() :] if stop else ""
    always_prompts = after.strip() and bare.endswith(after)
    if prefix.strip() and prompt == bare and not always_prompts:
        return (
            f"the chat template writes {prefix!r} before the assistant's text but not when asked for a generation prompt; "
            "set a chat template that respects add_generation_prompt"
        )
    if stop is None:
        tail = _after_turn(tokenizer, user, assistant)
        stop = _stop_in(tail, added, end_text)
        stop = stop if stop and not tail[: stop.start()].strip() else None
    generation = prompt[parting(bare, prompt) :]
    opening = _any_of(added).search(generation)
    return AssistantTurn(
        generation=generation,
        prefix=prefix,
        suffix=tail[: stop.start()] if stop else "",
        stop=_id_of(tokenizer, stop.group()) if stop else end,
        stop_text=stop.group() if stop else "",
        written=written,
        after=after,
        opening=opening.group() if opening else "",
    )


def _stop_in(tail: str, added: Sequence[str], end_text: str) -> re.Match[str] | None:
    """The token that ends a turn in what follows its content: the first one, or the tokenizer's end token where tokens
    in a row hold it."""
    first = _any_of(added).search(tail)
    row = re.compile(f"(?:{_any_of(added).pattern})+").match(tail, first.start()) if first else None
    end = re.compile(re.escape(end_text)).search(tail, row.start(), row.end()) if row else None
    return end or first


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
