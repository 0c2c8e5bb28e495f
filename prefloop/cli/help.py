"""Help pages, written from the settings' own docstrings; each takes a few milliseconds."""

import ast
import inspect
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, cast, get_args, get_origin

from prefloop.configs.load import default_of, inner_of, is_optional, types_of
from prefloop.configs.names import short_names

_WORDS = {bool: "[true|false]", int: "N", float: "X", str: "TEXT"}
_LEAST_INDENT, _MOST_INDENT = 18, 34


def overview(
    name: str, about: str, commands: Mapping[str, str], notes: Sequence[str], *, examples: Sequence[str] = ()
) -> str:
    """The page of a program or of a group of commands: one line a command."""
    width = _width()
    lines = [f"usage: {name} COMMAND [...]", "", *textwrap.wrap(about, width), "", *_examples(examples)]
    rows = [(f"  {command}", summary) for command, summary in commands.items()]
    lines += _table(rows, width)
    for note in notes:
        lines += ["", *textwrap.wrap(note, width)]
    return "\n".join(lines)


def page(name: str, about: str, cls: Any, *, positional: Sequence[str], examples: Sequence[str]) -> str:
    """The page of one command: every setting with its type, its default and what it does."""
    width = _width()
    places = " ".join(place.rpartition(".")[2].upper() for place in positional)
    lines = [f"usage: {' '.join(filter(None, (name, places)))} [--config FILE] [--NAME VALUE ...]", ""]
    lines += [*textwrap.wrap(about, width), ""]
    lines += _examples(examples)
    rows = [
        (
            "  --config FILE",
            "Settings as YAML, by the names below: `a.b` is `b` under `a`. Flags override them.",
        )
    ]
    spelt = {long: short for short, long in short_names(cls).items()}
    parts = list(sections(cls, "", cls.__doc__ or "", None))
    lines += _table(rows + _rows(parts[0][2], spelt, positional), width)
    for title, doc, settings in parts[1:]:
        lines += [
            "",
            *textwrap.wrap(f"{title}: {doc}", width),
            *_table(_rows(settings, spelt, positional), width),
        ]
    return "\n".join(lines)


def _examples(examples: Sequence[str]) -> list[str]:
    return ["examples:", *(f"  {example}" for example in examples), ""] if examples else []


Setting = tuple[str, Any, Any, str]
"""Dotted name, type, default, docstring."""


def sections(cls: Any, prefix: str, doc: str, base: Any) -> Iterator[tuple[str, str, list[Setting]]]:
    """The dataclass's own settings, then those of every dataclass inside it, with the defaults that `base` has."""
    docs, inner, own = field_docs(cls), [], []
    for field in fields(cls):
        kind, name = types_of(cls)[field.name], f"{prefix}{field.name}"
        default = default_of(field) if base is None else getattr(base, field.name)
        if is_dataclass(kind):
            about = " ".join(filter(None, (inspect.cleandoc(kind.__doc__ or ""), docs.get(field.name, ""))))
            inner.append((kind, f"{name}.", about, None if default is MISSING else default))
        else:
            own.append((name, kind, default, docs.get(field.name, "")))
    yield prefix[:-1], doc, own
    for command in inner:
        yield from sections(*command)


def field_docs(cls: Any) -> dict[str, str]:
    """The docstring under each field of a dataclass and of those it inherits from, found in their source."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cast(type, base)))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docs[field.target.id] = inspect.cleandoc(below.value.value)
    return docs


def _rows(
    settings: Sequence[Setting], spelt: Mapping[str, str], positional: Sequence[str]
) -> list[tuple[str, str]]:
    rows = []
    for name, kind, default, doc in settings:
        flag = f"--{name}"
        if name in positional:
            flag = name.rpartition(".")[2].upper()
        elif name in spelt:
            flag = f"--{spelt[name]}, --{name}"
        value = "" if name in positional and kind is str else f" {metavar(kind)}"
        rows.append((f"  {flag}{value}", f"{doc} {_default(default)}".strip()))
    return rows


def metavar(kind: Any) -> str:
    if is_optional(kind):
        return metavar(inner_of(kind))
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{metavar(get_args(kind)[0])} ..."
    return _WORDS[kind]


def _default(default: Any) -> str:
    if default is MISSING:
        return "[required]"
    if isinstance(default, bool):
        return f"[{str(default).lower()}]"
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    return "" if default in ("", None) else f"[{default}]"


def _table(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Two columns; a left side that is too wide has its right side below it."""
    fitting = [len(left) for left, _ in rows if len(left) + 2 <= _MOST_INDENT]
    indent = max([_LEAST_INDENT, *(length + 2 for length in fitting)])
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, width - indent, break_on_hyphens=False) or [""]
        if len(left) + 2 > indent:
            lines.append(left)
        else:
            lines.append(f"{left:<{indent}}{wrapped.pop(0)}".rstrip())
        lines += [" " * indent + line for line in wrapped]
    return lines


def _width() -> int:
    try:  # as shutil.get_terminal_size does, whose import takes as long as a page
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):
        columns = 80
    return max(60, min(columns, 110))
