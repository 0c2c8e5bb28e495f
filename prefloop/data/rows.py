"""A row as it was read, and what is said of one that cannot be used."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

MISSING = "missing"
"""What `BadRow.value` says where the row has no such field."""

_SHOWN = 60
_NAMED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a source: its values by column."""

    values: Mapping[str, Any]
    origin: str
    """`file:line`; in a Parquet file or a data set the number of the row, from 1."""
    typed: bool = True
    """False where every cell is text (CSV): numbers, booleans and lists are then read out of the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that cannot be used: where it is, what is wrong, and what would be right."""

    origin: str
    field: str
    value: str
    """The value as shown to people: shortened, or `missing`."""
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.origin}: `{self.field}` is {self.value}: {self.reason}; {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """The fields as JSON types."""
        return asdict(self)


class RowError(Exception):
    """Raised while a row is turned into a record; `at` makes it a `BadRow`."""

    def __init__(self, field: str, value: str, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.field, self.value, self.reason, self.remedy = field, value, reason, remedy

    def at(self, origin: str) -> BadRow:
        """The same, with the place it was found."""
        return BadRow(
            origin=origin, field=self.field, value=self.value, reason=self.reason, remedy=self.remedy
        )


def show(value: object) -> str:
    """A value on one line of at most 60 characters; a long one keeps its beginning and its end."""
    if value is None:
        return "null"
    if isinstance(value, str) and len(value) > 2 * _SHOWN:  # what is between would not be shown anyway
        value = value[:_SHOWN] + value[-_SHOWN:]
    try:
        text = ascii(value) if _half_characters(value) else repr(value)
    except (RecursionError, ValueError):  # a thousand brackets; a number of thousands of digits
        text = f"a {type(value).__name__} too deep or too long to show"
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN - 23]}...{text[-20:]}"


def names(columns: Collection[str]) -> str:
    """Names in a line; of very many the first, and how many there are."""
    first = ", ".join(map(str, list(columns)[:_NAMED]))
    return f"{first} and {len(columns) - _NAMED} more" if len(columns) > _NAMED else first


def _half_characters(value: object) -> bool:
    """Whether printing the value would fail: it holds half of a surrogate pair."""
    try:
        repr(value).encode()
    except UnicodeEncodeError:
        return True
    return False
