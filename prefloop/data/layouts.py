"""Layouts: what one row of a well-known data set says, as rows of the formats that prefloop reads.

A layout has the columns of its data set, and for each format that can be made of a row a function that makes it. A row may give several rows
(four rated completions are up to six comparisons), or none (two responses found equally good).
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from prefloop.data import fields
from prefloop.data.formats import FormatName
from prefloop.data.messages import messages
from prefloop.data.rows import Row, RowError, show
from prefloop.data.transcripts import is_transcript, parse_transcript

Values = dict[str, Any]
Make = Callable[[Row], Sequence[Values]]

_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLayout:
    """How a data set writes its rows."""

    columns: tuple[str, ...]
    """Columns every row has, by which the layout is told."""
    reads: tuple[str, ...] = ()
    """Columns that are read where they are."""
    makes: Mapping[FormatName, Make]
    """Name of a format -> rows of it. The first that a stage can use is taken."""
    about: str
    told: bool = True
    """False if the columns are another layout's, and only its name chooses it."""


def _alpaca(row: Row) -> Sequence[Values]:
    return ({**_instruction(row, "input"), "completion": fields.text(row, "output")},)


def _alpaca_preference(row: Row) -> Sequence[Values]:
    return ({**_instruction(row, "input"), **_pair(row)},)


def _dolly(row: Row) -> Sequence[Values]:
    return ({**_instruction(row, "context"), "completion": fields.text(row, "response")},)


def _instruction(row: Row, beside: str) -> Values:
    """The instruction, and what it is about in a paragraph of its own. With a system prompt or earlier turns it is a chat."""
    asked = fields.filled(fields.required(row, "instruction"), "instruction", "instruction")
    about = fields.optional_text(row, beside)
    text = f"{asked}\n\n{about}" if about.strip() else asked
    earlier: list[Values] = []
    for index, turn in enumerate(row.values.get("history") or ()):
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowError(
                f"history[{index}]",
                show(turn),
                "it must be a question and its answer",
                "write [[..., ...], ...]",
            )
        earlier += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    system = fields.optional_text(row, "system")
    return {"prompt": _chat(system, [*earlier, _user(text)]) if earlier or system.strip() else text}


def _conversations(row: Row) -> Sequence[Values]:
    return ({"messages": _spoken(row), "tools": row.values.get("tools")},)


def _conversations_preferred(row: Row) -> Sequence[Values]:
    return ({"prompt": _spoken(row), "tools": row.values.get("tools"), **_pair(row)},)


def _spoken(row: Row) -> list[Any]:
    return _chat(fields.optional_text(row, "system"), fields.items(row, "conversations"))


def _ultrachat(row: Row) -> Sequence[Values]:
    turns = messages(fields.items(row, "messages"), "messages")
    first = next((turn.content for turn in turns if turn.role == "user"), "")
    asked = fields.text(row, "prompt")
    if asked.strip() != first.strip():
        raise RowError(
            "prompt", show(asked), f"the messages begin with another, {show(first)}",
            "say which of the two is meant: --data.format messages or prompt",
        )  # fmt: skip
    return ({"messages": row.values["messages"], "tools": row.values.get("tools")},)


def _binarized(row: Row) -> Sequence[Values]:
    margin = {}
    if row.values.get("score_chosen") is not None and row.values.get("score_rejected") is not None:
        margin = {"margin": fields.number(row, "score_chosen") - fields.number(row, "score_rejected")}
    return ({"prompt": row.values["prompt"], **_pair(row), **margin},)


def _binarized_chat(row: Row) -> Sequence[Values]:
    return ({"messages": fields.required(row, "messages")},)


def _rated(row: Row) -> tuple[str, list[tuple[str, float]]]:
    """UltraFeedback's completions, each with the mean of its ratings (`fine-grained_score`)."""
    rated = []
    for index, item in enumerate(fields.items(row, "completions")):
        place = f"completions[{index}]"
        inner = Row(values=item if isinstance(item, Mapping) else {}, origin=row.origin, typed=row.typed)
        field = next(
            (name for name in ("fine-grained_score", "overall_score") if inner.values.get(name) is not None),
            "fine-grained_score",
        )
        try:
            rated.append((fields.text(inner, "response"), fields.number(inner, field)))
        except RowError as error:
            raise RowError(f"{place}.{error.field}", error.value, str(error), error.remedy) from None
    return fields.text(row, "instruction"), rated


def _rated_pairs(row: Row) -> Sequence[Values]:
    return pairs(*_rated(row))


def _rated_scores(row: Row) -> Sequence[Values]:
    prompt, rated = _rated(row)
    return [{"prompt": prompt, "completion": text, "score": value} for text, value in rated]


def pairs(prompt: Any, rated: Sequence[tuple[str, float]]) -> Sequence[Values]:
    """All comparisons of completions with different numbers, the higher chosen, the difference as margin."""
    return [
        {"prompt": prompt, "chosen": better, "rejected": worse, "margin": high - low}
        for one, other in combinations(rated, 2)
        for (better, high), (worse, low) in [(one, other) if one[1] > other[1] else (other, one)]
        if high > low and better != worse
    ]


def _shp(row: Row) -> Sequence[Values]:
    return _better(row, "history", "human_ref_A", "human_ref_B", first=_one_of(row, "labels", (0, 1)) == 1)


def _pku(field: str) -> Make:
    return lambda row: _better(
        row, "prompt", "response_0", "response_1", first=_one_of(row, field, (0, 1)) == 0
    )


def _helpsteer(row: Row) -> Sequence[Values]:
    return (
        {
            "prompt": _turns(fields.text(row, "prompt")),
            "completion": fields.text(row, "response"),
            "score": fields.number(row, "helpfulness"),
        },
    )


def _helpsteer_preference(row: Row) -> Sequence[Values]:
    return _by_strength(
        row, _turns(fields.text(row, "prompt")), "response_1", "response_2", "preference_strength"
    )


def _helpsteer3(row: Row) -> Sequence[Values]:
    return _by_strength(row, fields.items(row, "context"), "response1", "response2", "overall_preference")


def _by_strength(row: Row, prompt: Any, first: str, second: str, field: str) -> Sequence[Values]:
    """-3 to 3: how much better the second response is than the first; at 0 neither is."""
    strength = _one_of(row, field, range(-3, 4))
    if not strength:
        return ()
    better, worse = (second, first) if strength > 0 else (first, second)
    return (
        {
            "prompt": prompt,
            "chosen": row.values.get(better),
            "rejected": row.values.get(worse),
            "margin": float(abs(strength)),
        },
    )


def _nectar(row: Row) -> Sequence[Values]:
    ranked = []
    for index, item in enumerate(fields.items(row, "answers")):
        inner = Row(values=item if isinstance(item, Mapping) else {}, origin=row.origin, typed=row.typed)
        try:
            ranked.append((fields.number(inner, "rank"), fields.text(inner, "answer")))
        except RowError as error:
            raise RowError(f"answers[{index}].{error.field}", error.value, str(error), error.remedy) from None
    ranked.sort(key=lambda pair: pair[0])
    if len({rank for rank, _ in ranked}) < len(ranked):
        raise RowError(
            "answers",
            show([rank for rank, _ in ranked]),
            "two answers have the same rank",
            "give every answer its own rank, or leave the row out",
        )
    asked = fields.text(row, "prompt")
    if is_transcript(asked):  # it ends with an empty turn, the assistant's
        turns = parse_transcript(asked.rstrip().removesuffix("Assistant:").rstrip(), "prompt")
        return ({"prompt": [turn.to_json() for turn in turns], "completions": [text for _, text in ranked]},)
    return ({"prompt": asked, "completions": [text for _, text in ranked]},)


def _orca_pair(question: str) -> Make:
    def make(row: Row) -> Sequence[Values]:
        return (
            {
                "prompt": _chat(fields.optional_text(row, "system"), [_user(fields.text(row, question))]),
                **_pair(row),
            },
        )

    return make


def _open_orca(row: Row) -> Sequence[Values]:
    prompt = _chat(fields.optional_text(row, "system_prompt"), [_user(fields.text(row, "question"))])
    return ({"prompt": prompt, "completion": fields.text(row, "response")},)


def _openai_preference(row: Row) -> Sequence[Values]:
    asked = fields.required(row, "input")
    if not isinstance(asked, Mapping) or not isinstance(asked.get("messages"), list):
        raise RowError("input", show(asked), "it has no messages", 'write {"messages": [...]}')
    return (
        {
            "prompt": asked["messages"],
            "tools": asked.get("tools"),
            "chosen": fields.required(row, "preferred_output"),
            "rejected": fields.required(row, "non_preferred_output"),
        },
    )


def _pair(row: Row) -> Values:
    return {"chosen": fields.required(row, "chosen"), "rejected": fields.required(row, "rejected")}


def _better(row: Row, prompt: str, one: str, other: str, *, first: bool) -> Sequence[Values]:
    better, worse = (one, other) if first else (other, one)
    return (
        {
            "prompt": fields.text(row, prompt),
            "chosen": fields.text(row, better),
            "rejected": fields.text(row, worse),
        },
    )


def _one_of(row: Row, field: str, values: Collection[int]) -> int:
    value = fields.number(row, field)
    if value not in values:
        raise RowError(
            field, show(value), "it is not one of " + ", ".join(map(str, values)), "write one of these"
        )
    return int(value)


def _user(text: str) -> Values:
    return {"role": "user", "content": text}


def _chat(system: str, turns: Sequence[Any]) -> list[Any]:
    return [*([{"role": "system", "content": system}] if system.strip() else []), *turns]


def _turns(text: str) -> str | list[Values]:
    """HelpSteer's prompt: a text, or turns between marks, the first the user's."""
    pieces = _TURN.split(text)
    if len(pieces) == 1:
        return text
    roles = ["user", *(role.lower() for role in pieces[1::2])]
    turns = [{"role": role, "content": text} for role, text in zip(roles, pieces[::2], strict=True)]
    return turns if turns[0]["content"].strip() else turns[1:]


LAYOUTS: dict[str, RowLayout] = {
    "alpaca": RowLayout(
        columns=("instruction", "output"), reads=("input", "system", "history"), makes={"demonstration": _alpaca},
        about="Alpaca: instruction, input and output",
    ),
    "alpaca_preference": RowLayout(
        columns=("instruction", "chosen", "rejected"), reads=("input", "system", "history"), makes={"comparison": _alpaca_preference},
        about="Alpaca's instruction and input with two outputs",
    ),
    "dolly": RowLayout(
        columns=("instruction", "response"), reads=("context",), makes={"demonstration": _dolly}, about="Dolly: instruction, context and response"
    ),
    "openorca": RowLayout(
        columns=("system_prompt", "question", "response"), makes={"demonstration": _open_orca}, about="OpenOrca: system prompt, question and response"
    ),
    "sharegpt": RowLayout(
        columns=("conversations",), reads=("system", "tools"), makes={"messages": _conversations}, about="ShareGPT: chats of `from` and `value`"
    ),
    "sharegpt_preference": RowLayout(
        columns=("conversations", "chosen", "rejected"), reads=("system", "tools"), makes={"comparison": _conversations_preferred},
        about="ShareGPT chats with two last answers",
    ),
    "ultrachat": RowLayout(
        columns=("prompt", "messages"), reads=("tools",), makes={"messages": _ultrachat}, about="UltraChat: a prompt and the chat that begins with it"
    ),
    "ultrafeedback": RowLayout(
        columns=("instruction", "completions"), makes={"comparison": _rated_pairs, "score": _rated_scores},
        about="UltraFeedback: completions with their mean rating",
    ),
    "ultrafeedback_binarized": RowLayout(
        columns=("prompt", "chosen", "rejected", "messages"), reads=("score_chosen", "score_rejected"),
        makes={"comparison": _binarized, "messages": _binarized_chat}, about="UltraFeedback, binarized",
    ),
    "shp": RowLayout(
        columns=("history", "human_ref_A", "human_ref_B", "labels"), makes={"comparison": _shp}, about="SHP: two comments on a post"
    ),
    "helpsteer": RowLayout(
        columns=("prompt", "response", "helpfulness"), makes={"score": _helpsteer}, about="HelpSteer and HelpSteer2: a response and its helpfulness"
    ),
    "helpsteer_preference": RowLayout(
        columns=("prompt", "response_1", "response_2", "preference_strength"), makes={"comparison": _helpsteer_preference},
        about="HelpSteer2-Preference: two responses",
    ),
    "helpsteer3": RowLayout(
        columns=("context", "response1", "response2", "overall_preference"), makes={"comparison": _helpsteer3}, about="HelpSteer3: two responses to a chat"
    ),
    "nectar": RowLayout(columns=("prompt", "answers"), makes={"ranking": _nectar}, about="Nectar: seven ranked answers"),
    "pku_saferlhf": RowLayout(
        columns=("prompt", "response_0", "response_1", "better_response_id"), makes={"comparison": _pku("better_response_id")},
        about="PKU-SafeRLHF, the more helpful response chosen",
    ),
    "pku_saferlhf_safer": RowLayout(
        columns=("prompt", "response_0", "response_1", "safer_response_id"), makes={"comparison": _pku("safer_response_id")},
        about="PKU-SafeRLHF, the safer response chosen", told=False,
    ),
    "orca_dpo": RowLayout(
        columns=("system", "question", "chosen", "rejected"), makes={"comparison": _orca_pair("question")}, about="Orca pairs: system, question and two answers"
    ),
    "distilabel_orca": RowLayout(
        columns=("system", "input", "chosen", "rejected"), makes={"comparison": _orca_pair("input")}, about="Orca pairs by distilabel: system, input and two answers"
    ),
    "openai_preference": RowLayout(
        columns=("input", "preferred_output", "non_preferred_output"), makes={"comparison": _openai_preference}, about="OpenAI's preference fine-tuning"
    ),
}  # fmt: skip


def layouts_of(columns: Collection[str], wanted: Collection[str]) -> list[str]:
    """Layouts that the columns tell and that make a format wanted, less those with a richer one there too."""
    there = set(columns)
    fit = [
        name
        for name, layout in LAYOUTS.items()
        if layout.told and set(layout.columns) <= there and not layout.makes.keys().isdisjoint(wanted)
    ]
    return [
        name
        for name in fit
        if not any(set(LAYOUTS[name].columns) < set(LAYOUTS[other].columns) for other in fit)
    ]
