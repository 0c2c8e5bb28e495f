"""What `align` is given, looked at before anything is decided: the model's shape and template, the comparisons as tokens, the machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefloop.configs.align import PlanConfig
from prefloop.data import HowLoaded, how, load_comparisons, load_demonstrations, load_prompts
from prefloop.data.load import Loaded, LoadSummary
from prefloop.errors import InputError
from prefloop.evaluation.visible_text import shown
from prefloop.recipes.align.cost import Shape, shape_of
from prefloop.recipes.align.parts import Name, Parts, R, drawn
from prefloop.records import Comparison, Conversation, Demonstration, Prompt
from prefloop.text import encode_all, load_tokenizer
from prefloop.text.groups import Group
from prefloop.text.template import AssistantTurn, conventions

FITTING = 95
"""Per cent of the texts that budgets of tokens hold, where they are chosen from the data."""
STEP = 32
"""Budgets are multiples of it."""
SHOWN = 160
"""Characters of a rendered row's beginning and end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of the comparisons that are kept."""

    prompt: float
    """Mean."""
    completion: float
    """Mean of both completions."""
    deviation: float
    """Standard deviation of a comparison's tokens, prompt and both completions."""
    max_prompt: int
    """Budget."""
    max_completion: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was found."""

    shape: Shape
    tokenizer: PreTrainedTokenizerBase
    chat: bool
    """Prompts that are texts were made a user's messages, for the model's template."""
    read: LoadSummary
    left_out: dict[str, int]
    """Comparisons that are not used, by reason."""
    parts: dict[Name, list[Comparison]]
    layout: Parts
    lengths: Lengths
    example: Group
    """The first comparison as tokens."""
    demonstrations: tuple[Demonstration | Conversation, ...]
    prompts: tuple[Prompt, ...]
    """Given ones; none if the comparisons' are taken."""


def look(config: PlanConfig) -> Seen:
    """Read what was given. Raises `InputError` for whatever could not be trained on."""
    shape = shape_of(config.model, config.compute)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    comparisons, read, chat = _comparisons(config, tokenizer)
    left_out: dict[str, int] = {"bad rows": len(read.bad)}
    limit = config.data.limit or len(comparisons)
    left_out["beyond data.limit"] = max(0, len(comparisons) - limit)
    comparisons = drawn(comparisons, limit, seed=config.seed, name="limit")
    kept, example, lengths = _within_budgets(config, shape, tokenizer, comparisons, left_out)
    layout = Parts(own_judge=config.judge == "reward")
    parts = layout.split(kept)
    _check_parts(parts, layout, len(kept))
    max_gb = config.data.max_gb
    demonstrations, left_out["demonstrations of prompts in the measuring part"] = _not_measuring(
        "demonstrations",
        config.demonstrations,
        partial(load_demonstrations, chat=chat, max_gb=max_gb),
        layout,
    )
    prompts, left_out["given prompts in the measuring part"] = _not_measuring(
        "prompts", config.prompts, partial(load_prompts, chat=chat, max_gb=max_gb), layout
    )
    return Seen(
        shape=shape,
        tokenizer=tokenizer,
        chat=chat,
        read=read,
        left_out={why: count for why, count in left_out.items() if count},
        parts=parts,
        layout=layout,
        lengths=lengths,
        example=example,
        demonstrations=demonstrations,
        prompts=prompts,
    )


def _not_measuring(
    name: str, file: str, load: Callable[[str], Loaded[R]], layout: Parts
) -> tuple[tuple[R, ...], int]:
    """The records of a file whose prompts measure nothing, and how many others it has; nothing where none is named."""
    if not file:
        return (), 0
    given = load(file).records
    kept = tuple(layout.not_measuring(given))
    if not kept:
        raise InputError(f"{name} is {file!r}, but all of its prompts are in the measuring part; give others")
    return kept, len(given) - len(kept)


def _comparisons(
    config: PlanConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[Sequence[Comparison], LoadSummary, bool]:
    """Every comparison; a prompt that is a text becomes a user's message where the model has a template for chats."""
    reading: HowLoaded = {**how(config.data), "skip_bad": config.data.skip_bad}
    loaded = load_comparisons(config.data.source, **reading)
    chat = config.data.chat
    if not chat and tokenizer.chat_template and isinstance(loaded.records[0].prompt.content, str):
        chat = True
        reading["chat"] = True
        loaded = load_comparisons(config.data.source, **reading)
    return loaded.records, loaded.summary, chat


def _within_budgets(
    config: PlanConfig,
    shape: Shape,
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Sequence[Comparison],
    left_out: dict[str, int],
) -> tuple[list[Comparison], Group, Lengths]:
    """The comparisons that fit the budgets, which hold most of them unless they are given."""
    data, most = config.data, shape.positions
    encoded = encode_all(
        tokenizer,
        comparisons,
        max_prompt_tokens=most,
        max_completion_tokens=most,
        overlong="drop",
        skip_bad=data.skip_bad,
    )
    prompt = np.array([len(group.prompt) for group in encoded.groups])
    completion = np.array([max(map(len, group.completions)) for group in encoded.groups])
    budget_prompt = data.max_prompt_tokens or _holding(prompt)
    budget_completion = data.max_completion_tokens or _holding(completion)
    if budget_prompt + budget_completion > most:
        budget_prompt = data.max_prompt_tokens or min(budget_prompt, most // 2)
        budget_completion = data.max_completion_tokens or most - budget_prompt
    if budget_prompt + budget_completion > most:
        raise InputError(
            f"data.max_prompt_tokens {budget_prompt} and data.max_completion_tokens {budget_completion} are more than the {most} positions "
            f"of {config.model}; lower one of them"
        )
    fits = (prompt <= budget_prompt) & (completion <= budget_completion)
    if not fits.any():
        raise InputError(
            f"no comparison fits {budget_prompt} prompt and {budget_completion} completion tokens; the shortest has {prompt.min()} and "
            f"{completion.min()}: raise data.max_prompt_tokens or data.max_completion_tokens"
        )
    left_out["not encodable"] = len(encoded.bad)
    left_out[f"longer than {budget_prompt} prompt or {budget_completion} completion tokens"] = int(
        (~fits).sum()
    ) + len(encoded.dropped)
    places = np.flatnonzero(fits)
    groups = [encoded.groups[place] for place in places]
    return (
        [comparisons[encoded.kept[place]] for place in places],
        groups[0],
        Lengths(
            prompt=float(prompt[places].mean()),
            completion=float(np.mean([len(ids) for group in groups for ids in group.completions])),
            deviation=float(
                np.std([len(group.prompt) + sum(map(len, group.completions)) for group in groups])
            ),
            max_prompt=budget_prompt,
            max_completion=budget_completion,
        ),
    )


def _holding(lengths: np.ndarray) -> int:
    """The budget that holds most of them."""
    return int(-(-np.percentile(lengths, FITTING, method="higher") // STEP) * STEP)


FEWEST = {"policy": 16, "judge": 16, "measure": 8}
"""Comparisons without which a part is of no use."""


def _check_parts(parts: dict[Name, list[Comparison]], layout: Parts, total: int) -> None:
    for name, records in parts.items():
        if len(records) < FEWEST[name] and (name != "judge" or layout.own_judge):
            raise InputError(
                f"of {total} comparisons {len(records)} are in the part `{name}`, which needs {FEWEST[name]}; "
                "give more comparisons, of more different prompts"
            )


def template_line(seen: Seen) -> str:
    """Which template writes the rows, in a line."""
    tokenizer = seen.tokenizer
    if not tokenizer.chat_template:
        return "no chat template: a completion continues the prompt's text"
    turn = conventions(tokenizer).turn
    if not isinstance(turn, AssistantTurn):
        return f"the chat template cannot be used: {turn}"
    ends = turn.stop_text or str(tokenizer.eos_token)
    made = "; prompts are texts and become a user's message" if seen.chat else ""
    return (
        f"the model's chat template; an answer follows {shown(turn.generation)!r} and ends with {ends}{made}"
    )


def rendered(seen: Seen) -> str:
    """The first comparison as the model reads it, what is trained on between ⟦ and ⟧."""
    tokenizer, group = seen.tokenizer, seen.example
    text, trained = str(tokenizer.decode(list(group.prompt))), False
    ids, mask = group.completions[0], group.masks[0]
    start = 0
    for place in range(len(ids) + 1):
        if place == len(ids) or bool(mask[place]) != trained:
            text += str(tokenizer.decode(list(ids[start:place]))) if place > start else ""
            start = place
            if place < len(ids):
                text, trained = text + ("⟦" if mask[place] else "⟧"), bool(mask[place])
    text = (text + ("⟧" if trained else "")).replace("\n", "⏎")
    if len(text) <= 2 * SHOWN:
        return text
    return f"{text[:SHOWN]} […] {text[-SHOWN:]}"


def someone(comparisons: Sequence[Comparison]) -> str:
    """Whose comparisons these are, where the file says."""
    names = sorted({one.annotator for one in comparisons if one.annotator})
    if not names:
        return ""
    return names[0] if len(names) == 1 else f"{len(names)} annotators"
