"""A file that somebody drags into the studio: what is in it, how its columns are read, and a new project made of it."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prefloop.data import Images, load_records
from prefloop.data.detect import COLUMNS, likely_column
from prefloop.data.read import read_rows
from prefloop.data.rows import Row
from prefloop.errors import InputError
from prefloop.marks import in_words
from prefloop.studio.exchange import ENDINGS, ImportedItems, ImportOptions, import_loaded, items_in
from prefloop.studio.service import Studio
from prefloop.studio.values import ITEM_KIND, ProjectKind, ProjectSettings

SHOWN_ROWS, SHOWN_ITEMS, SHOWN_CHARACTERS = 5, 2, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a file holds."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    """The first rows, their values as short texts."""
    guesses: Mapping[str, str]
    """Column of the file -> what it probably is, where its name says so."""
    format: str
    """How it is read; empty if it cannot be."""
    problem: str
    """Why it cannot be read, or has nothing to judge; empty otherwise."""
    read: int
    bad: int
    items: int
    """How many items of the project's kind it has."""
    first: tuple[Mapping[str, Any], ...]
    """The first items: `prompt` and `completions`."""


def preview(
    content: bytes, name: str, kind: ProjectKind, *, columns: Sequence[str] = (), format: str = ""
) -> Preview:
    """Read an upload without storing anything. Only a file that cannot be read at all is an `InputError`."""
    with uploaded(content, name) as path:
        head = [row for row in islice(read_rows(path), SHOWN_ROWS) if isinstance(row, Row)]
        there = tuple(dict.fromkeys(column for row in head for column in row.values))
        known: dict[str, Any] = {
            "columns": there,
            "rows": tuple({column: _short(row.values.get(column)) for column in there} for row in head),
            "guesses": {
                column: guess
                for column in there
                if (guess := likely_column(column)) and column not in COLUMNS
            },
        }
        try:
            with Images(files=False) as images:
                loaded = load_records(path, skip_bad=True, images=images, columns=columns, format=format)
        except InputError as error:
            problem = _plain(error, path)
            return Preview(**known, format="", problem=problem, read=0, bad=0, items=0, first=())
        groups, left_out = items_in(loaded, ITEM_KIND[kind])
    summary = loaded.summary
    problem = (
        ""
        if groups
        else f"rows of format {summary.format} have nothing to judge here: {left_out} prompts have too few different completions"
    )
    return Preview(
        **known,
        format=summary.layout or summary.format,
        problem=problem,
        read=summary.read,
        bad=len(summary.bad),
        items=len(groups),
        first=tuple(
            {"prompt": _short(prompt), "completions": [_short(text) for text in texts]}
            for prompt, texts in groups[:SHOWN_ITEMS]
        ),
    )


def import_as_project(
    studio: Studio,
    content: bytes,
    name: str,
    settings: ProjectSettings,
    *,
    columns: Sequence[str] = (),
    format: str = "",
    by: int,
) -> ImportedItems:
    """Make a project of an upload: all of it or nothing."""
    with uploaded(content, name) as path:
        try:
            with Images(files=False) as images:
                loaded = load_records(path, skip_bad=True, images=images, columns=columns, format=format)
                return import_loaded(studio, settings, loaded, ImportOptions(by=by), images=images)
        except InputError as error:
            raise type(error)(_plain(error, path)) from None


@contextmanager
def uploaded(content: bytes, name: str) -> Iterator[Path]:
    """An upload as a file, while it is read."""
    if not name.lower().endswith(ENDINGS):
        raise InputError(f"{name}: the name must end in {', '.join(ENDINGS)}, which says how it is read")
    with tempfile.TemporaryDirectory(prefix="prefloop-") as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        yield path


def _plain(error: InputError, path: Path) -> str:
    """An error without where the server keeps uploads, and without the flags of the command line."""
    return re.sub(r"--data\.(columns|format)\b", r"\1", str(error).replace(f"{path.parent}/", ""))


def _short(value: object) -> str:
    text = "" if value is None else in_words(value) if isinstance(value, str) else repr(_without_bytes(value))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _without_bytes(value: object) -> object:
    """A value to print, without the bytes of images."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return {key: _without_bytes(inner) for key, inner in value.items()}
    return [_without_bytes(inner) for inner in value] if isinstance(value, list) else value
