"""One hash for a set of records, so that a training run can say exactly what it read."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from prefloop.records import Message, Prompt

_NOTHING = object()


def content_hash(records: Iterable[Any]) -> str:
    """SHA-256 of the records in their order, as canonical JSON lines that begin with the record's type.

    Equal records give equal hashes wherever they were read (`origin` is left out); another order gives another hash.
    """
    total = ContentHash()
    for record in records:
        total.add(record)
    return total.hexdigest()


class ContentHash:
    """`content_hash` of records that come one at a time."""

    def __init__(self) -> None:
        self.records = 0
        self._total = hashlib.sha256()

    def add(self, record: Any) -> None:
        """The next record."""
        self.records += 1
        self._total.update(canonical_json(record).encode())
        self._total.update(b"\n")

    def hexdigest(self) -> str:
        """Of the records so far."""
        return self._total.hexdigest()


LATER = {"p_soft": 1.0, "context": "", "opposite_context": "", "ranks": (), "top": 0}
"""Fields that records did not always have. With this value, which says nothing, they are left out, so that older data keep their hash."""


def canonical_json(record: Any) -> str:
    """A record as one line of JSON: type and fields but its origin and a prompt's columns, keys sorted, only ASCII, no spaces. Non-finite numbers are a `ValueError`."""
    values = {
        field.name: _plain(value)
        for field in fields(record)
        if field.name not in ("origin", "columns")
        and (value := getattr(record, field.name)) != LATER.get(field.name, _NOTHING)
    }
    line = {"type": type(record).__name__, **values}
    return json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """A field as JSON types. Numbers become floats, and -0.0 becomes 0.0: records that are equal are written alike."""
    if isinstance(value, Prompt | Message):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) + 0.0
    return value
