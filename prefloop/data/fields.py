"""The fields of a row, read strictly: a value has the type its format says or is a `RowError`; nothing is converted by guesswork.

False, 0.0 and 0 are values like any other; only an absent field or a null is missing.
"""

import json
import math
from typing import Any, cast

from prefloop.data.rows import MISSING, Row, RowError, show
from prefloop.records import ROLES, Message, Prompt, Role


def required(row: Row, field: str) -> Any:
    """The value of a field that every row of the format has."""
    value = row.values.get(field)
    if value is None:
        shown = "null" if field in row.values else MISSING
        has = ", ".join(map(str, row.values)) or "no column"
        raise RowError(field, shown, f"every row needs it, and this one has: {has}", "add the value")
    return value


def text(row: Row, field: str) -> str:
    """A field that holds text, which may be empty."""
    return as_text(required(row, field), field)


def as_text(value: object, field: str) -> str:
    """The value, if it is text that can be written down."""
    if not isinstance(value, str):
        raise RowError(field, show(value), f"it must be text, not {_kind(value)}", "write a string")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(
            field, show(value), "it holds half a character (a lone surrogate)", "mend the text's encoding"
        )
    return value


def filled(value: object, field: str, what: str) -> str:
    """The value, if it is text with more in it than white space."""
    said = as_text(value, field)
    if not said or said.isspace():
        raise RowError(field, show(said), f"the {what} is empty", f"write the {what}, or leave the row out")
    return said


def annotator(row: Row) -> str:
    """Who judged; empty where the row does not say."""
    value = row.values.get("annotator")
    return "" if value is None else as_text(value, "annotator")


def number(row: Row, field: str) -> float:
    """A finite number."""
    value = required(row, field)
    if not row.typed:
        value = _number_in(value, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(field, show(value), f"it must be a number, not {_kind(value)}", "write a number")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise RowError(field, show(value), "it must be finite", "write a finite number, or leave the row out")
    return value


def optional_number(row: Row, field: str, default: float) -> float:
    """A finite number, or the default where the row does not say. A CSV file has no null: there an empty cell says nothing."""
    value = row.values.get(field)
    return default if value is None or (not row.typed and value == "") else number(row, field)


def optional_share(row: Row, field: str, default: float) -> float:
    """A number from 0 to 1, or the default where the row does not say."""
    value = optional_number(row, field, default)
    if not 0 <= value <= 1:
        raise RowError(field, show(value), "it is a probability", "write a number from 0 to 1")
    return value


def optional_text(row: Row, field: str) -> str:
    """Text, or nothing where the row does not say."""
    value = row.values.get(field)
    return "" if value is None else as_text(value, field)


def boolean(row: Row, field: str) -> bool:
    """True or false, and nothing that is merely like it: 0, 1 and -1 mean different things in different data sets."""
    value = required(row, field)
    if not row.typed and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return as_boolean(value, field)


def as_boolean(value: object, field: str) -> bool:
    """The value, if it is true or false."""
    if not isinstance(value, bool):
        raise RowError(
            field, show(value), f"it must be true or false, not {_kind(value)}", "write true or false"
        )
    return value


def items(row: Row, field: str) -> list[Any]:
    """A list; in a CSV file, a cell that holds one as JSON."""
    value = required(row, field)
    if not row.typed and isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError(field, show(value), "the cell must hold a JSON list", "write [...]") from None
    if not isinstance(value, list):
        raise RowError(field, show(value), f"it must be a list, not {_kind(value)}", "write [...]")
    return value


def messages(value: list[Any], field: str) -> tuple[Message, ...]:
    """A chat: `[{"role": ..., "content": ...}, ...]`, every turn with something in it. Other keys of a message are not read."""
    if not value:
        raise RowError(field, "[]", "the list of messages is empty", "write the messages")
    return tuple(_message(item, f"{field}[{index}]") for index, item in enumerate(value))


def prompt(row: Row) -> Prompt:
    """The field `prompt`: text (may be empty: the start of a document) or messages that end with the user's."""
    value = required(row, "prompt")
    if isinstance(value, list):
        return chat_prompt(messages(value, "prompt"), "prompt")
    if not isinstance(value, str):
        raise RowError(
            "prompt",
            show(value),
            f"it must be text or a list of messages, not {_kind(value)}",
            'write a string or [{"role": "user", "content": ...}]',
        )
    return Prompt(content=as_text(value, "prompt"))


def chat_prompt(turns: tuple[Message, ...], field: str) -> Prompt:
    """Messages that the assistant speaks next in."""
    if not turns or turns[-1].role != "user":
        raise RowError(
            field,
            f"a chat that ends with {turns[-1].role}" if turns else "a chat without a turn",
            "the assistant answers a user",
            "end the prompt with a user message",
        )
    return Prompt(content=turns)


def completion(value: object, field: str) -> str:
    """A completion: text, or one assistant message."""
    if isinstance(value, list):
        turns = messages(value, field)
        if len(turns) != 1 or turns[0].role != "assistant":
            said = ", ".join(turn.role for turn in turns)
            raise RowError(
                field,
                f"messages of {said}",
                "a completion is one assistant message",
                "move the turns before the last to the prompt",
            )
        return turns[0].content
    if not isinstance(value, str):
        raise RowError(
            field,
            show(value),
            f"it must be text or one assistant message, not {_kind(value)}",
            "write a string",
        )
    return filled(value, field, "completion")


def _message(item: object, field: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(field, show(item), "it must be a message", 'write {"role": ..., "content": ...}')
    for key in ("role", "content"):
        if item.get(key) is None:
            raise RowError(
                f"{field}.{key}", "null" if key in item else MISSING, "every message needs it", "add it"
            )
    role = item["role"]
    if role not in ROLES:
        raise RowError(f"{field}.role", show(role), "the role is not known", f"use {', '.join(ROLES)}")
    return Message(role=cast(Role, role), content=filled(item["content"], f"{field}.content", "message"))


def _number_in(value: str, field: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RowError(field, show(value), "it must be a number", "write a number") from None


def _kind(value: object) -> str:
    """A value's type in the words of JSON."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
