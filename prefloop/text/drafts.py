"""Scripts to tokens, many at a time, and what is done with those that are too long.

Errors travel in the lists, in the place of the record they belong to, so that one bad record does not hide
the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prefloop.errors import InputError
from prefloop.text.groups import Group
from prefloop.text.script import Opening, Script, TextSpan
from prefloop.text.template import AssistantTurn, Conventions, conventions
from prefloop.text.tokens import encode_after, encode_alone, encode_continuations, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """A completion as tokens."""

    ids: list[int]
    mask: list[bool]
    """True on what the assistant said, stop tokens included."""
    altered: bool
    """Whether the tokenizer could not write it exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A prompt and its completions as tokens."""

    prompt: list[int]
    start: int
    """How many of the prompt's first tokens are start tokens, which stay when it is cut."""
    end: int
    """How many of its last ones close it for an encoder, and stay too."""
    completions: tuple[Spoken, ...]

    @property
    def alike(self) -> bool:
        """Whether there are several completions and all are the same tokens."""
        return len(self.completions) > 1 and all(
            row.ids == self.completions[0].ids for row in self.completions
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest completion."""
        return max((len(completion.ids) for completion in self.completions), default=0)

    def cut(self, max_prompt_tokens: int, max_completion_tokens: int) -> "Draft":
        """The prompt's start tokens and end, and the completions' beginnings, within these budgets.

        Of a prompt that an encoder reads the beginning is kept, with the tokens that close it, as transformers' tokenizers cut it: the task is
        named there. A completion that is cut loses its stop token with its end: it did not stop there.
        """
        prompt = self.prompt
        if len(prompt) > max_prompt_tokens:
            if self.end:
                prompt = prompt[: max(0, max_prompt_tokens - self.end)] + prompt[-self.end :]
            else:
                kept = prompt[: self.start] if self.start < max_prompt_tokens else []
                prompt = kept + prompt[len(prompt) - max_prompt_tokens + len(kept) :]
        completions = tuple(
            replace(row, ids=row.ids[:max_completion_tokens], mask=row.mask[:max_completion_tokens])
            for row in self.completions
        )
        return replace(self, prompt=prompt, completions=completions)

    def group(self) -> Group:
        """The draft as training takes it."""
        return Group(
            prompt=self.prompt,
            completions=tuple(row.ids for row in self.completions),
            masks=tuple(row.mask for row in self.completions),
        )


def encode_openings(
    tokenizer: "PreTrainedTokenizerBase", openings: Sequence[Opening | InputError]
) -> list[Draft | InputError]:
    """Prompts as drafts that have no completions yet."""
    known = conventions(tokenizer)
    rows = iter(
        encode_texts(tokenizer, [opening.text for opening in openings if isinstance(opening, Opening)])
    )
    return [
        opening if isinstance(opening, InputError) else _opened(tokenizer, known, opening, next(rows))
        for opening in openings
    ]


def _opened(
    tokenizer: "PreTrainedTokenizerBase", known: Conventions, opening: Opening, ids: list[int]
) -> Draft | InputError:
    if _smuggles(known, opening.text, ids):
        return _unwritable("the prompt", opening.text)
    end = known.prompt_end
    if known.apart and (known.start or ids or end):
        return Draft(prompt=[*known.start, *ids, *end], start=len(known.start), end=len(end), completions=())
    if not ids:
        start = opening.start or known.empty
        return Draft(prompt=list(start), start=len(start), end=0, completions=())
    written = (
        not opening.start and ids[0] == tokenizer.bos_token_id
    )  # a chat's template writes its own start token
    start = len(opening.start) or int(written)
    return Draft(prompt=[*opening.start, *ids], start=start, end=0, completions=())


def encode_scripts(
    tokenizer: "PreTrainedTokenizerBase", scripts: Sequence[Script | InputError]
) -> list[Draft | InputError]:
    """Prompts and completions as drafts."""
    drafts = encode_openings(
        tokenizer, [script if isinstance(script, InputError) else script.opening for script in scripts]
    )
    contexts, completions = [], []
    for script, draft in zip(scripts, drafts, strict=True):
        if isinstance(script, Script) and isinstance(draft, Draft):
            contexts += [draft.prompt[draft.start :]] * len(script.completions)
            completions += script.completions
    spoken = iter(_encode_completions(tokenizer, contexts, completions))
    return [
        _completed(draft, [next(spoken) for _ in script.completions])
        if isinstance(script, Script) and isinstance(draft, Draft)
        else draft
        for script, draft in zip(scripts, drafts, strict=True)
    ]


def _completed(draft: Draft, spoken: Iterable[Spoken | InputError]) -> Draft | InputError:
    completions = []
    for row in spoken:
        if isinstance(row, InputError):
            return row
        if not any(row.mask):
            return InputError(
                "the completion is empty and did not end, so nothing of it can be trained; remove it"
            )
        completions.append(row)
    return replace(draft, completions=tuple(completions))


def _encode_completions(
    tokenizer: "PreTrainedTokenizerBase",
    contexts: Sequence[Sequence[int]],
    completions: Sequence[tuple[TextSpan, ...]],
) -> list[Spoken | InputError]:
    """Tokens of completions; `contexts` are the prompts' tokens before them."""
    known = conventions(tokenizer)
    marker = known.turn.stop_text if isinstance(known.turn, AssistantTurn) else ""
    others = encode_after(
        tokenizer, marker, [part.text for parts in completions for part in parts if not part.trained]
    )
    places, texts, other = [], [], iter(others)
    for context, parts in zip(contexts, completions, strict=True):
        for part in parts:
            if part.trained:
                places.append(context)
                texts.append(part.text)
            context = () if part.trained else next(other)
    own = encode_alone(tokenizer, texts) if known.apart else encode_continuations(tokenizer, places, texts)
    result: list[Spoken | InputError] = []
    other, turn = iter(others), iter(range(len(texts)))
    for parts in completions:
        ids: list[int] = []
        mask: list[bool] = []
        altered, error = False, None
        for part in parts:
            if part.trained:
                index = next(turn)
                added = [*own.ids[index], *part.stop]
                altered |= index in own.altered
                if index in own.failed or _smuggles(known, part.text, own.ids[index]):
                    error = _unwritable("the completion", part.text)
            else:
                added = next(other)
            ids += added
            mask += (
                [False] * (len(added) - 1) + [True] if part.at_end and added else [part.trained] * len(added)
            )
        result.append(error or Spoken(ids=ids, mask=mask, altered=altered))
    return result


def _smuggles(known: Conventions, text: str, ids: Sequence[int]) -> bool:
    """Whether tokens hold a control token that neither the template nor we wrote: `text` has none that is not
    escaped."""
    return not known.control_ids.isdisjoint(ids) and known.control.search(text) is None


def _unwritable(what: str, text: str) -> InputError:
    return InputError(
        f"{what} {text[:40]!r} cannot be written by this tokenizer so that it reads the same and holds no control token; "
        "remove its unusual characters, or use another model"
    )
