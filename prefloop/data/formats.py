"""The field's formats: which columns each has, and how one of its rows becomes a record.

Every row of a source must be of its one format: nothing is decided row by row, so a broken row is reported and never read as something else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from prefloop.data import fields
from prefloop.data import messages as chats
from prefloop.data.rows import Row, RowError, show
from prefloop.data.transcripts import is_transcript, parse_transcript, shared_prompt
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Label,
    Message,
    Prompt,
    Ranking,
    Score,
    Steps,
    Text,
)

FormatName = Literal[
    "text",
    "prompt",
    "demonstration",
    "messages",
    "comparison",
    "implicit",
    "hh",
    "ranking",
    "steps",
    "label",
    "score",
]
Record = Text | Prompt | Demonstration | Conversation | Comparison | Ranking | Steps | Label | Score
"""What one row of a source can be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One way to write records down, a row each."""

    columns: tuple[str, ...]
    """Columns every row has."""
    optional: tuple[str, ...] = ()
    """Columns that are read where they are."""
    parse: Callable[[Row], Record]
    """The row's record; raises `RowError`."""
    about: str

    @property
    def read(self) -> tuple[str, ...]:
        """All columns that are read; a chat may have `tools` beside it."""
        return self.columns + self.optional + (("tools",) if self.columns != ("text",) else ())


def _text(row: Row) -> Text:
    return Text(text=fields.filled(fields.required(row, "text"), "text", "text"), origin=row.origin)


def _prompt(row: Row) -> Prompt:
    return chats.prompt(row)


def _demonstration(row: Row) -> Demonstration:
    prompt, completion = _answered(row)
    return Demonstration(prompt=prompt, completion=completion, origin=row.origin)


def _conversation(row: Row) -> Conversation:
    turns = chats.chat(row, fields.items(row, "messages"), "messages")
    first = next((index for index, turn in enumerate(turns) if turn.role == "assistant"), None)
    if first is None:
        roles = ", ".join(turn.role for turn in turns)
        raise RowError(
            "messages", f"messages of {roles}", "no turn is the assistant's", "add the assistant's answer"
        )
    if first == 0 or turns[first - 1].role != "user":
        raise RowError(
            "messages",
            f"messages of {', '.join(turn.role for turn in turns)}",
            "the first answer has no user's message before it",
            "begin the chat with a user message",
        )
    return Conversation(messages=turns, origin=row.origin)


def _comparison(row: Row) -> Comparison:
    """Prompt and two completions. Where the completions hold the whole dialogue, the prompt is taken out of them, never kept twice."""
    chosen, rejected = fields.required(row, "chosen"), fields.required(row, "rejected")
    if isinstance(chosen, list) and isinstance(rejected, list) and max(len(chosen), len(rejected)) > 1:
        pair = shared_prompt(chats.chat(row, chosen, "chosen"), chats.chat(row, rejected, "rejected"))
        _agree(row, pair[0])
        return _judged(row, *pair)
    if is_transcript(chosen) and is_transcript(rejected):
        pair = shared_prompt(parse_transcript(chosen, "chosen"), parse_transcript(rejected, "rejected"))
        _agree(row, pair[0], transcript=chosen)
        return _judged(row, *pair)
    prompt = chats.prompt(row)
    _same_kind(prompt, chosen, "chosen")
    _same_kind(prompt, rejected, "rejected")
    return _judged(row, prompt, chats.completion(chosen, "chosen"), chats.completion(rejected, "rejected"))


def _implicit(row: Row) -> Comparison:
    """Two dialogues as messages, the same up to the last turn; or two texts, whose shared beginning is the prompt."""
    chosen, rejected = fields.required(row, "chosen"), fields.required(row, "rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _judged(
            row,
            *shared_prompt(chats.chat(row, chosen, "chosen"), chats.chat(row, rejected, "rejected")),
        )
    pair: list[str] = []
    for field, value in (("chosen", chosen), ("rejected", rejected)):
        if is_transcript(value):
            raise RowError(
                field,
                show(value),
                "it is a transcript, and most rows of this source are not",
                "keep transcripts in a file of their own",
            )
        pair.append(fields.filled(value, field, "completion"))
    _differ(*pair)
    return _judged(row, *split_at_shared_words(*pair))


def _hh(row: Row) -> Comparison:
    """Two transcripts, `\\n\\nHuman: ...\\n\\nAssistant: ...`, the same up to the last turn."""
    chosen = parse_transcript(fields.text(row, "chosen"), "chosen")
    rejected = parse_transcript(fields.text(row, "rejected"), "rejected")
    return _judged(row, *shared_prompt(chosen, rejected))


def _ranking(row: Row) -> Ranking:
    values = fields.items(row, "completions")
    if len(values) < 2:
        raise RowError(
            "completions",
            f"a list of {len(values)}",
            "a ranking orders two or more completions, best first",
            "add completions, or leave the row out",
        )
    prompt = chats.prompt(row)
    completions = tuple(
        chats.completion(value, f"completions[{index}]") for index, value in enumerate(values)
    )
    first: dict[str, int] = {}
    for index, completion in enumerate(completions):
        if first.setdefault(completion, index) != index:
            raise RowError(
                f"completions[{index}]",
                show(completion),
                f"it equals completions[{first[completion]}]",
                "name each completion once",
            )
    ranks, top = _order(row, len(completions))
    return Ranking(
        prompt=prompt,
        completions=completions,
        annotator=fields.annotator(row),
        ranks=ranks,
        top=top,
        origin=row.origin,
    )


def _order(row: Row, count: int) -> tuple[tuple[int, ...], int]:
    """What a ranking says beside the order of its completions: ranks with ties, or how many of the first are in order."""
    given = fields.items(row, "ranks") if row.values.get("ranks") not in (None, "") else []
    if given and (
        len(given) != count
        or not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in given)
        or sorted(given) != given
    ):
        raise RowError(
            "ranks", show(given), f"it must be {count} whole numbers that never decrease, one per completion, best first",
            "write for example [1, 2, 2, 3]",
        )  # fmt: skip
    if given and given[0] == given[-1]:
        raise RowError("ranks", show(given), "all are tied, so none is better", "leave the row out")
    number = fields.optional_number(row, "top", 0.0)
    if not (number.is_integer() and 0 <= number < count):
        raise RowError(
            "top", show(row.values["top"]), f"it is how many of {count} completions are in order", "write 1 for the best of them, or 0 for all"
        )  # fmt: skip
    if given and number:
        raise RowError("top", show(row.values["top"]), "the row has ranks too", "write one of them")
    ranks = tuple(given) if len(set(given)) < len(given) else ()
    return ranks, int(number) if number < count - 1 else 0


def _steps(row: Row) -> Steps:
    """A completion in steps with a label each, as the field writes stepwise supervision."""
    texts, labels = fields.items(row, "completions"), fields.items(row, "labels")
    if not texts or len(texts) != len(labels):
        raise RowError(
            "labels",
            f"a list of {len(labels)} beside {len(texts)} completions",
            "every step needs its label",
            "write as many labels as completions, one or more",
        )
    return Steps(
        prompt=chats.prompt(row),
        steps=tuple(fields.filled(text, f"completions[{index}]", "step") for index, text in enumerate(texts)),
        good=tuple(fields.as_boolean(label, f"labels[{index}]") for index, label in enumerate(labels)),
        annotator=fields.annotator(row),
        origin=row.origin,
    )


def _label(row: Row) -> Label:
    prompt, completion = _answered(row)
    good = fields.boolean(row, "label")
    return Label(
        prompt=prompt,
        completion=completion,
        good=good,
        annotator=fields.annotator(row),
        origin=row.origin,
    )


def _score(row: Row) -> Score:
    prompt, completion = _answered(row)
    value = fields.number(row, "score")
    return Score(
        prompt=prompt,
        completion=completion,
        value=value,
        annotator=fields.annotator(row),
        origin=row.origin,
    )


FORMATS: dict[FormatName, Format] = {
    "text": Format(columns=("text",), parse=_text, about="documents"),
    "prompt": Format(columns=("prompt",), parse=_prompt, about="prompts alone"),
    "demonstration": Format(
        columns=("prompt", "completion"), parse=_demonstration, about="a prompt and a completion"
    ),
    "messages": Format(columns=("messages",), parse=_conversation, about="whole chats"),
    "comparison": Format(
        columns=("prompt", "chosen", "rejected"),
        optional=("margin", "annotator", "p_soft", "context", "opposite_context"),
        parse=_comparison,
        about="comparisons",
    ),
    "implicit": Format(
        columns=("chosen", "rejected"),
        optional=("margin", "annotator", "p_soft", "context", "opposite_context"),
        parse=_implicit,
        about="comparisons without a prompt of their own",
    ),
    "hh": Format(
        columns=("chosen", "rejected"),
        optional=("margin", "annotator", "p_soft", "context", "opposite_context"),
        parse=_hh,
        about="comparisons of Human/Assistant transcripts",
    ),
    "ranking": Format(
        columns=("prompt", "completions"),
        optional=("annotator", "ranks", "top"),
        parse=_ranking,
        about="completions, best first; ranks for ties, top 1 for the best of them",
    ),
    "steps": Format(
        columns=("prompt", "completions", "labels"),
        optional=("annotator",),
        parse=_steps,
        about="completions in steps, each found good (true) or bad (false)",
    ),
    "label": Format(
        columns=("prompt", "completion", "label"),
        optional=("annotator",),
        parse=_label,
        about="completions found good (true) or bad (false)",
    ),
    "score": Format(
        columns=("prompt", "completion", "score"),
        optional=("annotator",),
        parse=_score,
        about="completions with a number",
    ),
}


def split_at_shared_words(chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """Two texts without a prompt, cut after the last whole word of their shared beginning; the space goes with the completions."""
    differ = (at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    shared = chosen[: next(differ, min(len(chosen), len(rejected)))]
    words = shared if shared[-1:].isspace() else "".join(shared.rsplit(None, 1)[:-1])
    prompt = words.rstrip()
    if not prompt:
        raise RowError(
            "chosen",
            show(chosen),
            f"it shares no beginning with rejected {show(rejected)}, so the prompt is not known",
            "add a column `prompt`",
        )
    return (
        Prompt(content=prompt),
        fields.filled(chosen[len(prompt) :], "chosen", "completion"),
        fields.filled(rejected[len(prompt) :], "rejected", "completion"),
    )


def _differ(chosen: str, rejected: str) -> None:
    if chosen == rejected:
        raise RowError(
            "chosen",
            show(chosen),
            "it equals rejected",
            "write what was rejected, or leave the row out",
        )


def _judged(row: Row, prompt: Prompt, chosen: str, rejected: str) -> Comparison:
    _differ(chosen, rejected)
    return Comparison(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        margin=fields.optional_number(row, "margin", 0.0),
        annotator=fields.annotator(row),
        p_soft=fields.optional_share(row, "p_soft", 1.0),
        context=fields.optional_text(row, "context"),
        opposite_context=fields.optional_text(row, "opposite_context"),
        origin=row.origin,
    )


def _answered(row: Row) -> tuple[Prompt, str]:
    value = fields.required(row, "completion")
    prompt = chats.prompt(row)
    _same_kind(prompt, value, "completion")
    return prompt, chats.completion(value, "completion")


def _same_kind(prompt: Prompt, value: Any, field: str) -> None:
    """A completion written as messages answers a prompt written as messages."""
    if isinstance(prompt.content, str) and isinstance(value, list):
        raise RowError(
            field,
            show(value),
            "it is messages, but the prompt is text",
            'write both as text, or the prompt as [{"role": "user", "content": ...}]',
        )


def _agree(row: Row, shared: Prompt, *, transcript: str = "") -> None:
    """The prompt given must be the one that the dialogues begin with: the messages, a user's turn of them, or the transcript's beginning."""
    given = chats.prompt(row).content
    turns: tuple[Message, ...] = shared.content if isinstance(shared.content, tuple) else ()
    if isinstance(given, tuple):
        same = given == turns
    else:
        asked = {turn.content.strip() for turn in turns if turn.role == "user"}
        same = given.strip() in asked or (bool(given.strip()) and transcript.startswith(given.rstrip()))
    if not same:
        raise RowError(
            "prompt",
            show(given) if isinstance(given, str) else f"{len(given)} messages",
            "chosen and rejected hold whole dialogues, and do not begin with it",
            "leave the prompt out of the row, or the dialogue out of chosen and rejected",
        )
