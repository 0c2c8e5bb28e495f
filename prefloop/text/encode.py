"""Records to groups of tokens.

The rule that everything here keeps: training sees the tokens that sampling sees and draws. A prompt is
tokenised alone, as it is when a model is asked to go on from it. A completion is tokenised apart from it and
ends with the stop token that a sampler waits for. In a chat with several assistant turns each turn is one
such completion, and the template's text between them is in the row but is not trained.

In chats the template writes the turn, so a template that trims text trims it here too, just as it would at
inference.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar

from prefloop.errors import InputError
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Label,
    Prompt,
    Ranking,
    Score,
    Steps,
    Text,
)
from prefloop.text.chat import escape
from prefloop.text.drafts import Draft, encode_openings, encode_scripts
from prefloop.text.groups import Group
from prefloop.text.script import (
    Origin,
    Script,
    write_completions,
    write_conversation,
    write_opening,
    write_steps,
)
from prefloop.text.template import AssistantTurn, conventions
from prefloop.text.tokens import BATCH, check_unicode, decode, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Record = Demonstration | Conversation | Comparison | Ranking | Steps | Label | Score
Overlong = Literal["error", "drop", "truncate"]
_LISTED = 5
"""Records named in a summary; the others are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Which records were kept, and why others were not. Each entry is `origin: reason`."""

    kept: list[int]
    """Places of the kept records in what was given."""
    dropped: tuple[str, ...]
    """Left out for their length."""
    truncated: tuple[str, ...]
    """Kept, but cut."""
    altered: tuple[str, ...]
    """Kept, though the tokenizer cannot write their completions exactly (unknown characters, a normaliser)."""
    bad: tuple[str, ...]
    """Left out as malformed, where that was asked for."""

    def describe(self) -> str:
        """One line for a run's summary: how many were kept; of the rest, counts and first origins."""
        parts = [f"kept {len(self.kept)} of {len(self.kept) + len(self.dropped) + len(self.bad)}"]
        for name in ("dropped", "truncated", "altered", "bad"):
            entries: tuple[str, ...] = getattr(self, name)
            if entries:
                more = f"; {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
                parts.append(f"{name} {len(entries)} ({'; '.join(entries[:_LISTED])}{more})")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded(Tally):
    """Records as groups; `groups[i]` is record `kept[i]`."""

    groups: list[Group]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPrompts(Tally):
    """Prompts as tokens; `prompts[i]` is prompt `kept[i]`."""

    prompts: list[list[int]]


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> list[int]:
    """Tokens of a prompt: a start token where the tokenizer writes one, then the text; or the chat so far."""
    return _only(encode_openings(tokenizer, [write_opening(tokenizer, prompt)])).prompt


def encode_completion(
    tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, completion: str, *, ended: bool = True
) -> list[int]:
    """Tokens of a completion of `prompt`, with the stop token if it `ended`."""
    return list(completions_group(tokenizer, prompt, [completion], ended=ended).completions[0])


def completions_group(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Prompt,
    completions: Sequence[str],
    *,
    ended: bool | Sequence[bool] = True,
    origin: Origin = "written",
    budgets: tuple[int, int] | None = None,
) -> Group:
    """A prompt and any number of its completions; `ended` says which of them stopped by themselves, `origin` whether a
    policy drew them, whose words are kept even where the chat template would not write them so. What is longer than the
    budgets of prompt and completion tokens, where there are any, is cut as training cuts it."""
    ends = [ended] * len(completions) if isinstance(ended, bool) else ended
    script = write_completions(tokenizer, prompt, completions, ends, origin)
    draft = _only(encode_scripts(tokenizer, [script]))
    return (draft.cut(*budgets) if budgets else draft).group()


def with_trained_stops(
    tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, group: Group, ended: Sequence[bool]
) -> Group:
    """The group with the stop token that is trained after such a prompt, where a completion ended with another one.

    A policy may stop by any of several tokens; a model that scores texts has learned to read one.
    """
    known = conventions(tokenizer)
    if len(known.stops) == 1:
        return group
    stop = known.end
    if isinstance(known.turn, AssistantTurn) and not isinstance(prompt.content, str):
        stop = known.turn.stop
    completions = tuple(
        [*ids[:-1], stop] if end and ids[-1] in known.stops else ids
        for ids, end in zip(group.completions, ended, strict=True)
    )
    return replace(group, completions=completions)


def steps_group(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Prompt,
    completions: Sequence[str],
    ended: Sequence[bool],
    separator: str,
    budgets: tuple[int, int] | None = None,
) -> Group:
    """A prompt and completions that a policy drew, masks True where a step ends: behind each separator, and at the completion's end.
    Cut to the budgets as in `completions_group`."""
    drafts = encode_scripts(
        tokenizer,
        [
            write_steps(tokenizer, prompt, _pieces_of(text, separator), ended=end, origin="drawn")
            for text, end in zip(completions, ended, strict=True)
        ],
    )
    found = [_only([draft]) for draft in drafts]
    groups = [(draft.cut(*budgets) if budgets else draft).group() for draft in found]
    return Group(
        prompt=groups[0].prompt,
        completions=tuple(group.completions[0] for group in groups),
        masks=tuple(group.masks[0] for group in groups),
    )


def _pieces_of(text: str, separator: str) -> list[str]:
    """The steps of a text with the separators behind them; white space alone is no step and belongs to the one before."""
    pieces: list[str] = []
    for step in text.split(separator):
        if step.strip() or not pieces:
            pieces.append(step)
        else:
            pieces[-1] += separator + step
    ends = [separator] * (len(pieces) - 1)
    return [piece + end for piece, end in zip(pieces, [*ends, ""], strict=True)]


def _pieces(record: Steps) -> list[str]:
    """The record's steps with the separator behind each but the last."""
    for step in record.steps:
        if record.separator in step:
            raise InputError(
                f"step {step[:40]!r} contains the separator {record.separator!r}; set step_separator to text that no step contains"
            )
    return [*(step + record.separator for step in record.steps[:-1]), record.steps[-1]]


def demonstration_group(tokenizer: "PreTrainedTokenizerBase", record: Demonstration | Conversation) -> Group:
    """A demonstration, or a conversation whose mask is True on the assistant's turns, stop tokens included."""
    return _only(_drafts(tokenizer, [record])).group()


def comparison_group(tokenizer: "PreTrainedTokenizerBase", record: Comparison) -> Group:
    """Two completions: chosen, then rejected."""
    return _only(_drafts(tokenizer, [record])).group()


def encode_all(
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Record],
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    overlong: Overlong = "error",
    skip_bad: bool = False,
) -> Encoded:
    """Every record as a group: one completion for demonstrations, conversations, labels and scores, two for
    comparisons (chosen, rejected), all for rankings (best first). A comparison's context is read before its
    prompt; a completion in steps counts where its steps end.

    What is longer than a budget is an error, left out or cut, as `overlong` says. A cut prompt keeps its
    start token and its end; a cut completion keeps its beginning and has no stop token. Records that cannot
    be encoded raise `InputError`, or are left out and listed with `skip_bad`.
    """
    drafts = _drafts(tokenizer, records)
    origins = [record.origin or f"record {place + 1}" for place, record in enumerate(records)]
    tally, kept = _sort(drafts, origins, (max_prompt_tokens, max_completion_tokens), overlong, skip_bad)
    return Encoded(
        groups=[draft.group() for draft in kept],
        kept=tally.kept,
        dropped=tally.dropped,
        truncated=tally.truncated,
        altered=tally.altered,
        bad=tally.bad,
    )


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    *,
    max_prompt_tokens: int,
    overlong: Overlong = "error",
    skip_bad: bool = False,
    origins: Sequence[str] = (),
) -> EncodedPrompts:
    """Prompts to sample from, under the same rules as `encode_all`. `origins` says where each stands; else messages count them."""
    drafts = encode_openings(tokenizer, [_attempt(write_opening, tokenizer, prompt) for prompt in prompts])
    origins = origins or [f"prompt {place + 1}" for place in range(len(prompts))]
    tally, kept = _sort(drafts, origins, (max_prompt_tokens, 0), overlong, skip_bad)
    return EncodedPrompts(
        prompts=[draft.prompt for draft in kept],
        kept=tally.kept,
        dropped=tally.dropped,
        truncated=tally.truncated,
        altered=tally.altered,
        bad=tally.bad,
    )


def decode_completion(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Text of a completion without its stop token. Other control tokens are written out: the policy said them."""
    return decode_completions(tokenizer, [ids])[0]


def decode_completions(
    tokenizer: "PreTrainedTokenizerBase", completions: Iterable[Sequence[int]]
) -> list[str]:
    """Text of each completion as it reads in the middle of a text: a space it begins with is kept. What a decoder writes is a text of its own."""
    known = conventions(tokenizer)
    rows = [list(ids[:-1] if len(ids) and ids[-1] in known.stops else ids) for ids in completions]
    if known.apart:
        return decode(tokenizer, rows)
    (before,) = encode_texts(tokenizer, ["."])
    (dot,) = decode(tokenizer, [before])
    return [text[len(dot) :] for text in decode(tokenizer, [[*before, *row] for row in rows])]


def pretraining_blocks(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str | Text], block_tokens: int
) -> list[Group]:
    """Documents, each between the tokenizer's start tokens (if it writes any) and its end token, joined and
    cut every `block_tokens` tokens.

    A block is a prompt of one token and a completion of the rest, all of it trained. The last block may be
    shorter; a single token left over is not a block, for nothing in it is predicted. Tokens are held as
    4-byte arrays: a Python list would take ten times the memory.
    """
    if block_tokens < 2:
        raise InputError(f"block_tokens is {block_tokens}; a block needs 2 tokens or more")
    known = conventions(tokenizer)
    if known.apart:
        raise InputError(
            f"documents train causal language models, and the model of {tokenizer.name_or_path!r} is an encoder-decoder; give it demonstrations"
        )
    stream = array("i")
    for batch in _batches(texts):
        for ids in encode_texts(tokenizer, [escape(text, known.control) for text in batch]):
            stream.extend(known.start)
            stream.extend(ids)
            stream.append(known.end)
    mask = (True,) * (block_tokens - 1)
    return [
        Group(
            prompt=stream[start : start + 1],
            completions=(block := stream[start + 1 : start + block_tokens],),
            masks=(mask if len(block) == len(mask) else mask[: len(block)],),
        )
        for start in range(0, len(stream) - 1, block_tokens)
    ]


def _batches(texts: Iterable[str | Text]) -> Iterator[list[str]]:
    texts = iter(texts)
    while batch := list(islice(texts, BATCH)):
        checked = []
        for document in batch:
            text, origin = (document, "") if isinstance(document, str) else (document.text, document.origin)
            check_unicode(text, f"{origin}: the text" if origin else "the text")
            checked.append(text)
        yield checked


def _write(tokenizer: "PreTrainedTokenizerBase", record: Record) -> Script:
    """The record's prompt and completions, best first."""
    match record:
        case Conversation():
            return write_conversation(tokenizer, record)
        case Steps():
            return write_steps(tokenizer, record.prompt, _pieces(record))
        case Comparison():
            asked = record.prompt.in_context(record.context)
            return write_completions(tokenizer, asked, (record.chosen, record.rejected), (True, True))
        case Ranking():
            completions: tuple[str, ...] = record.completions
        case Demonstration() | Label() | Score():
            completions = (record.completion,)
    return write_completions(tokenizer, record.prompt, completions, [True] * len(completions))


Given = TypeVar("Given")
Written = TypeVar("Written")


def _attempt(
    write: "Callable[[PreTrainedTokenizerBase, Given], Written]",
    tokenizer: "PreTrainedTokenizerBase",
    given: Given,
) -> Written | InputError:
    """The script, or why there is none."""
    conventions(tokenizer)  # a fault of the tokenizer is no record's
    try:
        return write(tokenizer, given)
    except InputError as error:
        return error


def _drafts(tokenizer: "PreTrainedTokenizerBase", records: Sequence[Record]) -> list[Draft | InputError]:
    drafts = encode_scripts(tokenizer, [_attempt(_write, tokenizer, record) for record in records])
    return [
        InputError("chosen and rejected are the same tokens, so the comparison says nothing; remove it")
        if isinstance(record, Comparison) and isinstance(draft, Draft) and draft.alike
        else draft
        for record, draft in zip(records, drafts, strict=True)
    ]


def _only(drafts: Sequence[Draft | InputError]) -> Draft:
    (draft,) = drafts
    if isinstance(draft, InputError):
        raise draft
    return draft


def _sort(
    drafts: Sequence[Draft | InputError],
    origins: Sequence[str],
    budgets: tuple[int, int],
    overlong: Overlong,
    skip_bad: bool,
) -> tuple[Tally, list[Draft]]:
    """Keep, cut or leave out, under the budgets of prompt and completion tokens."""
    kept: list[int] = []
    rows: list[Draft] = []
    dropped, truncated, altered, bad = [], [], [], []
    for place, (draft, origin) in enumerate(zip(drafts, origins, strict=True)):
        if isinstance(draft, InputError):
            bad.append(f"{origin}: {draft}")
            continue
        excess = _excess(draft, *budgets)
        if excess and overlong != "truncate":
            dropped.append(f"{origin}: {excess}")
            continue
        cut = draft.cut(*budgets) if excess else draft
        if cut.alike and not draft.alike:
            dropped.append(f"{origin}: {excess}, and its completions are the same once truncated")
            continue
        if excess:
            truncated.append(f"{origin}: {excess}")
        if any(completion.altered for completion in cut.completions):
            altered.append(f"{origin}: the tokenizer cannot encode its characters exactly")
        kept.append(place)
        rows.append(cut)
    if bad and not skip_bad:
        raise InputError(bad[0] + _and_more(bad))
    if dropped and overlong == "error":
        raise InputError(
            f"{dropped[0]}; raise the budget, shorten the text, or set overlong to drop or truncate{_and_more(dropped)}"
        )
    if drafts and not kept:
        raise InputError(
            f"none of {len(drafts)} records is left: {(dropped + bad)[0]}{_and_more(dropped + bad)}"
        )
    tally = Tally(
        kept=kept, dropped=tuple(dropped), truncated=tuple(truncated), altered=tuple(altered), bad=tuple(bad)
    )
    return tally, rows


def _and_more(entries: Sequence[str]) -> str:
    return f" (and {len(entries) - 1} more like it)" if len(entries) > 1 else ""


def _excess(draft: Draft, max_prompt_tokens: int, max_completion_tokens: int) -> str:
    """What is too long; empty if nothing is."""
    reasons = []
    if len(draft.prompt) > max_prompt_tokens:
        reasons.append(
            f"the prompt has {len(draft.prompt)} tokens, above max_prompt_tokens = {max_prompt_tokens}"
        )
    if draft.longest > max_completion_tokens:
        reasons.append(
            f"a completion has {draft.longest} tokens, above max_completion_tokens = {max_completion_tokens}"
        )
    return " and ".join(reasons)
