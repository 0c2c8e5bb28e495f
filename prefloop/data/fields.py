"""The fields of a row, read strictly: a value has the type its format says or is a `RowError`; nothing is converted by guesswork.

False, 0.0 and 0 are values like any other; only an absent field or a null is missing.
"""

import json
import math
from typing import Any

from prefloop.data.rows import MISSING, Row, RowError, names, show


def required(row: Row, field: str) -> Any:
    """The value of a field that every row of the format has."""
    value = row.values.get(field)
    if value is None:
        shown = "null" if field in row.values else MISSING
        has = names(row.values) or "no column"
        raise RowError(field, shown, f"every row needs it, and this one has: {has}", "add the value")
    return value


def text(row: Row, field: str) -> str:
    """A field that holds text, which may be empty."""
    return as_text(required(row, field), field)


def as_text(value: object, field: str) -> str:
    """The value, if it is text that can be written down."""
    if not isinstance(value, str):
        raise RowError(field, show(value), f"it must be text, not {kind_of(value)}", "write a string")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(
            field, show(value), "it holds half a character (a lone surrogate)", "fix the text's encoding"
        )
    return value


def filled(value: object, field: str, what: str) -> str:
    """The value, if it is text with more in it than white space."""
    text = as_text(value, field)
    if not text or text.isspace():
        raise RowError(field, show(text), f"the {what} is empty", f"write the {what}, or leave the row out")
    return text


def annotator(row: Row) -> str:
    """Who judged; empty if the row does not say."""
    value = row.values.get("annotator")
    return "" if value is None else as_text(value, "annotator")


def number(row: Row, field: str) -> float:
    """A finite number."""
    value = required(row, field)
    if not row.typed:
        value = _number_in(value, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(field, show(value), f"it must be a number, not {kind_of(value)}", "write a number")
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
        raise RowError(field, show(value), "it must be a probability", "write a number from 0 to 1")
    return value


def optional_text(row: Row, field: str) -> str:
    """Text, or nothing if the row does not say."""
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
            field, show(value), f"it must be true or false, not {kind_of(value)}", "write true or false"
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
        raise RowError(field, show(value), f"it must be a list, not {kind_of(value)}", "write [...]")
    return value


def _number_in(value: str, field: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RowError(field, show(value), "it must be a number", "write a number") from None


def kind_of(value: object) -> str:
    """A value's type in the words of JSON."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
