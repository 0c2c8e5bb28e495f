"""Flags to settings: `--optim.lr 1e-4` or `--optim.lr=1e-4`, by the dataclass's names, with the same checks as a file's values."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prefloop.configs.load import (
    PLAINLY,
    Given,
    Mismatch,
    Tree,
    accept,
    in_words,
    inner_of,
    is_optional,
    is_plain,
    names_of,
    nearest,
)
from prefloop.configs.names import short_names
from prefloop.errors import InputError

OFF = {"no_tune": "run.tune"}
"""Flags that turn a setting off; they take no value."""

CONFIG = "config"
"""The flag that names a file of settings."""

_TRUTHS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """What a command line said."""

    config: str
    """File of settings; empty for none."""
    given: Tree


def read_flags(arguments: Sequence[str], cls: Any, *, positional: Sequence[str] = ()) -> Flags:
    """The settings in a command's arguments. `positional` names the settings that may stand without a flag, in order; one that is a list takes all
    words up to the next flag. `--` ends the flags: what follows are the items of the last positional setting, if that is a list.

    Hyphens in names are read as underscores. A flag of true or false may stand alone for true; a list's items follow one another.
    Raises `InputError` for an unknown flag (with the nearest one), a value missing or of the wrong type, and a setting given twice.
    """
    kinds, short = names_of(cls), short_names(cls)
    rest, places = list(arguments), list(positional)
    found: dict[str, Given] = {}
    file = ""
    while rest:
        argument = rest.pop(0)
        if argument == "--" and places and get_origin(kinds[places[-1]]) is tuple:
            _put(found, places[-1], Given(value=tuple(rest), where="--"))
            break
        if not argument.startswith("--"):
            if not places:
                raise InputError(_unexpected(argument, short))
            name = places.pop(0)
            more = _take(rest, kinds[name], may_be_next=False) if get_origin(kinds[name]) is tuple else []
            _put(found, name, Given(value=_read([argument, *more], kinds[name], name), where=name))
            continue
        flag, equals, attached = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        name = short.get(name, name)
        if name not in kinds and name.removeprefix("data.") in kinds:
            name = name.removeprefix("data.")  # where the command is about data alone
        if OFF.get(name) in kinds and not equals:
            _put(found, OFF[name], Given(value=False, where=flag))
            continue
        if name != CONFIG and name not in kinds:
            another = found.get("command")
            raise InputError(
                f"{flag} is not a flag here; if it is one of `{another.value[0]}`, write -- before that command"
                if another is not None
                else _unknown(flag, name, cls)
            )
        kind = str if name == CONFIG else kinds[name]
        words = [attached] if equals else _take(rest, kind, may_be_next=bool(places))
        value = _read(words, kind, flag)
        if name == CONFIG:
            if file:
                raise InputError(f"--config is given twice, {file} and {value}; put both into one file")
            file = value
        else:
            _put(found, name, Given(value=value, where=flag))
    return Flags(config=file, given=_tree(found))


def _unexpected(argument: str, short: Mapping[str, str]) -> str:
    """What to say of a word that no flag stands before: files are mostly meant as data."""
    looks_like_file = Path(argument).exists() or any(mark in argument for mark in "./")
    if looks_like_file and "data" in short:
        return f"unexpected argument {argument!r}; did you mean `--data {argument}`?"
    return f"unexpected argument {argument!r}; write it after its flag, --NAME {argument} (see --help for the names)"


def _unknown(flag: str, name: str, cls: Any) -> str:
    short = short_names(cls)
    near = nearest(name, [*names_of(cls), CONFIG])
    if not near or "." in near:
        # A misspelt short name is nearer to the short one than to its long form.
        near = next(iter(difflib.get_close_matches(name, list(short), n=1, cutoff=0.7)), near)
    return f"{flag} is not a flag" + (f"; did you mean --{near}?" if near else "; --help lists them")


def _take(rest: list[str], kind: Any, *, may_be_next: bool) -> list[str]:
    """The arguments that belong to a flag: all up to the next flag for a list, one otherwise, none for a bare true-or-false flag.

    `may_be_next`: a word behind such a flag may be the command's next positional one.
    """
    if kind is bool:
        follows = (
            bool(rest) and not rest[0].startswith("--") and (rest[0].lower() in _TRUTHS or not may_be_next)
        )
        return [rest.pop(0)] if follows else ["true"]
    count = 1
    if get_origin(kind) is tuple:
        count = next((at for at, word in enumerate(rest) if word.startswith("--")), len(rest))
    words, rest[:] = rest[:count], rest[count:]
    return words


def _read(words: Sequence[str], kind: Any, flag: str) -> Any:
    """Words as a value of a setting's type."""
    if get_origin(kind) is tuple:
        (item, *_) = get_args(kind)
        return tuple(_read([word], item, flag) for word in words)
    if not words or (words[0].startswith("--") and words[0] != "--"):
        raise InputError(f"{flag} has no value; it must be {in_words(kind)}")
    (word,) = words
    try:
        return accept(_parsed(word, kind), kind)
    except Mismatch as expected:
        shown = repr(word) if len(word) <= 200 else f"{word[:200]!r}..."
        raise InputError(f"{flag} is {shown}; it must be {expected}") from None


def _parsed(word: str, kind: Any) -> Any:
    """A word as what it looks like where the setting is not text; `accept` then says whether that will do."""
    if is_optional(kind):
        return None if word == "null" else _parsed(word, inner_of(kind))
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == word), word)
    if kind is bool:
        return _TRUTHS.get(word.lower(), word)
    if kind in (int, float):
        try:
            number = int(word)
        except ValueError:
            return word
        if not is_plain(word):
            raise Mismatch(f"{in_words(kind)}{PLAINLY}")
        return number
    return word


def _put(found: dict[str, Given], name: str, given: Given) -> None:
    if name in found:
        ways = " and ".join(dict.fromkeys((found[name].where, given.where)))
        raise InputError(f"{name} is given twice, by {ways}; give it once")
    found[name] = given


def _tree(found: dict[str, Given]) -> Tree:
    """Dotted names as groups."""
    tree: Tree = {}
    for name, given in found.items():
        *groups, last = name.split(".")
        at = tree
        for group in groups:
            inner = at.setdefault(group, {})
            assert isinstance(inner, dict)
            at = inner
        at[last] = given
    return tree
