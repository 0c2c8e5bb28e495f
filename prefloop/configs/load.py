"""Settings from YAML files and flags: every key must exist, every value must have its type, and what is wrong is said with its place.

A file has the names of the dataclass's fields, one dataclass inside another as a group of keys. Flags are laid over the file. What neither
names keeps the default that the stage gives it. The file that a run writes into its folder reads back as the same settings.
"""

import difflib
import math
import re
import reprlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from prefloop.errors import InputError

T = TypeVar("T")

MOST_INT, MOST_FLOAT = 2**53, 1e15
"""Numbers beyond these are slips: no setting means anything there, and sums with them overflow or are not exact."""
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
PLAINLY = ", in plain decimal digits without a leading zero"
"""What `is_plain` asks for."""
_SHOW = reprlib.Repr()
_SHOW.maxstring = _SHOW.maxother = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A value that somebody gave, of its setting's type."""

    value: Any
    where: str
    """`file:line`, or the flag as it was written."""


Tree = dict[str, "Given | Tree"]
"""Given values by name, in groups as the dataclasses are."""


class Mismatch(Exception):
    """A value is not of its setting's type; the message says in words what it must be."""


def load_config(cls: type[T], file: str | Path = "", flags: Tree | None = None) -> T:
    """The settings of a file (none: defaults), with flags over them.

    Raises `InputError` with the file and line, or the flag, for an unknown or repeated name, a value of the wrong type, a required
    setting that is missing, and settings that contradict each other.
    """
    given = read_file(file, cls) if file else {}
    return build(cls, overlay(given, flags or {}))


def types_of(cls: Any) -> dict[str, Any]:
    """Name -> type of a dataclass's fields, in order."""
    return dict(_types_of(cls))


@cache
def _types_of(cls: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(cls)
    return tuple((field.name, hints[field.name]) for field in fields(cls))


def names_of(cls: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> type of every setting, those of inner dataclasses included."""
    names: dict[str, Any] = {}
    for name, kind in types_of(cls).items():
        names |= names_of(kind, f"{prefix}{name}.") if is_dataclass(kind) else {f"{prefix}{name}": kind}
    return names


def read_file(file: str | Path, cls: Any) -> Tree:
    """The values that a YAML file gives for the settings of a dataclass."""
    import yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; give a YAML file of settings with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); give a YAML file of settings with --config"
        ) from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return {} if node is None else _Reader(cls, str(file), loader.construct_object).group(node, cls, "")
    except RecursionError:
        raise InputError(f"{file}: is nested too deeply; settings are names with values, in groups") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise InputError(f"{place}: is not YAML ({error.problem}); correct the line") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: is not YAML ({error}); give a text file of settings") from error


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the nodes of one file; `root` is the dataclass that the file is for."""

    root: Any
    file: str
    construct: Callable[..., Any]

    def group(self, node: Any, cls: Any, prefix: str) -> Tree:
        """A mapping's keys and values, checked against a dataclass."""
        if node.id == "scalar" and node.tag.endswith(":null"):
            return {}
        kinds = types_of(cls)
        if node.id != "mapping":
            group = f"{prefix[:-1]} is a group" if prefix else "this is a file"
            example = (
                f"{prefix[:-1]}: {{{next(iter(kinds))}: ...}}" if prefix else f"{next(iter(kinds))}: ..."
            )
            raise InputError(
                f"{self._place(node)}: {group} of settings, names with values, such as `{example}`"
            )
        tree: Tree = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, where = str(key_node.value), self._place(key_node)
            name = prefix + key
            if key not in kinds:
                raise InputError(f"{where}: {unknown(name, self.root)}")
            if key in lines:
                raise InputError(f"{where}: {name} is set in line {lines[key]} already; keep one of the two")
            lines[key] = key_node.start_mark.line + 1
            if is_dataclass(kinds[key]):
                tree[key] = self.group(value_node, kinds[key], f"{name}.")
            else:
                tree[key] = self._value(value_node, kinds[key], name, where)
        return tree

    def _value(self, node: Any, kind: Any, name: str, where: str) -> Given:
        wrong = _wrong_number(node, kind)
        if wrong:
            raise InputError(
                f"{where}: {name} is {_SHOW.repr(wrong)[1:-1]}; it must be {in_words(kind)}{PLAINLY}"
            )
        value = self.construct(node, deep=True)
        try:
            return Given(value=accept(value, kind), where=where)
        except Mismatch as expected:
            quotes = ", in quotes" if kind is str else ""
            # The short form, for a few lines of aliases can stand for more than memory holds.
            shown = value if isinstance(value, int | float) else _SHOW.repr(value)
            raise InputError(f"{where}: {name} is {shown}; it must be {expected}{quotes}") from None

    def _place(self, node: Any) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"


def _wrong_number(node: Any, kind: Any) -> str:
    """A number that YAML 1.1 reads as another one (010 is 8, 1:30 is 90), or that is too long to be one; empty if there is none."""
    if is_optional(kind):
        return _wrong_number(node, inner_of(kind))
    if get_origin(kind) is tuple and node.id == "sequence":
        return next(filter(None, (_wrong_number(item, get_args(kind)[0]) for item in node.value)), "")
    if kind not in (int, float) or node.id != "scalar" or not node.tag.endswith((":int", ":float")):
        return ""
    if node.tag.endswith(":float") and kind is float:
        return node.value if ":" in node.value else ""
    plain = is_plain(node.value) and len(node.value) < 400
    return "" if plain or node.tag.endswith(":float") else node.value


def is_plain(digits: str) -> bool:
    """Whether a whole number is written as everybody reads it: 010 is 8 to some."""
    return _DECIMAL.fullmatch(digits) is not None


def unknown(name: str, cls: Any) -> str:
    """What to say of a dotted name that no setting of a dataclass has."""
    groups = [known for known, kind in types_of(cls).items() if is_dataclass(kind)]
    near = nearest(name, [*names_of(cls), *groups])
    return f"{name} is not a setting" + (
        f"; did you mean {near}?" if near else f"; the settings are {', '.join(names_of(cls))}"
    )


def nearest(name: str, known: Sequence[str]) -> str:
    """The known dotted name that `name` most likely stands for, or nothing. One that ends alike (`lr`, `optim.lr`) is near."""
    last = name.rpartition(".")[2]
    same_end = [candidate for candidate in known if candidate.rpartition(".")[2] == last]
    if same_end:
        return difflib.get_close_matches(name, same_end, n=1, cutoff=0.0)[0]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    ends = {candidate.rpartition(".")[2]: candidate for candidate in reversed(known)}
    close = close or [ends[end] for end in difflib.get_close_matches(last, list(ends), n=1, cutoff=0.7)]
    return close[0] if close else ""


def accept(value: Any, kind: Any) -> Any:
    """A value of YAML's or JSON's types as one of the type `kind`. Raises `Mismatch`; nothing is guessed but 1 for 1.0 and 1e-5 for a number."""
    if is_optional(kind):
        return None if value is None else accept(value, inner_of(kind))
    if get_origin(kind) is Literal:
        if value in get_args(kind) and not isinstance(value, bool):
            return value
        raise Mismatch(in_words(kind, value))
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise Mismatch(in_words(kind))
        return tuple(accept(item, get_args(kind)[0]) for item in value)
    if kind is float and isinstance(value, str) and _is_number(value):
        value = float(value)  # YAML 1.1 reads 1e-5, without a point, as text
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= MOST_INT else math.inf
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Mismatch(in_words(kind))
    if isinstance(value, float) and not abs(value) <= MOST_FLOAT:
        raise Mismatch(f"a finite number, at most {MOST_FLOAT:g}")
    if isinstance(value, int) and abs(value) > MOST_INT:
        raise Mismatch(f"a whole number, at most {MOST_INT}")
    return value


def is_optional(kind: Any) -> bool:
    """Whether a type is `X | None`."""
    return get_origin(kind) in (Union, types.UnionType)


def inner_of(kind: Any) -> Any:
    """X of `X | None`."""
    (inner,) = (arg for arg in get_args(kind) if arg is not types.NoneType)
    return inner


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?", text) is not None


def in_words(kind: Any, value: Any = None) -> str:
    """What a value of a type is, in words. `value`: what was given instead, to suggest the nearest of several choices."""
    if is_optional(kind):
        return f"{in_words(inner_of(kind), value)}, or null"
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        near = difflib.get_close_matches(str(value), choices, n=1)
        return f"one of {', '.join(choices)}" + (f" (did you mean {near[0]}?)" if near else "")
    if get_origin(kind) is tuple:
        return f"a list, each of its items {in_words(get_args(kind)[0])}"
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
    }
    return words[kind]


def overlay(below: Tree, above: Tree) -> Tree:
    """Both trees as one; where both give a value, the one above."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = overlay(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def build(cls: type[T], given: Tree, *, base: T | None = None, prefix: str = "") -> T:
    """The dataclass of given values; `base` has the others, else the fields' defaults.

    Raises `InputError` if a required setting is missing and where the dataclass refuses its values.
    """
    changes: dict[str, Any] = {}
    missing: list[str] = []
    for field in fields(cast(Any, cls)):
        name, kind = field.name, types_of(cls)[field.name]
        value = given.get(name)
        if isinstance(value, Given):
            changes[name] = value.value
        elif is_dataclass(kind):
            under = getattr(base, name) if base is not None else default_of(field)
            if value or under is MISSING:
                start = None if under is MISSING else under
                changes[name] = build(cast(Any, kind), value or {}, base=start, prefix=f"{prefix}{name}.")
        elif base is None and default_of(field) is MISSING:
            missing.append(f"{prefix}{name}")
    for name, value in changes.items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 0:
            leaf = given.get(name)
            where = f"{leaf.where}: " if isinstance(leaf, Given) and not leaf.where.startswith("--") else ""
            raise InputError(f"{where}{prefix}{name} is {value}; it must be 0 or more")
    if missing:
        flags = " ".join(f"--{name} ..." for name in missing)
        raise InputError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; "
            f"give {flags}, or the name in a file of settings with --config"
        )
    try:
        return cls(**changes) if base is None else cast(T, replace(cast(Any, base), **changes))
    except InputError as error:
        where = _place(str(error), given)
        raise InputError(f"{where}: {error}" if where else str(error)) from None


def default_of(field: Any) -> Any:
    """A field's default value; `dataclasses.MISSING` if it must be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _place(message: str, given: Mapping[str, "Given | Tree"]) -> str:
    """Where the settings stand that a message names first; empty for flags, which are named by the message itself."""
    places = [
        (message.find(name), value) for name, value in _leaves(given) if re.search(rf"\b{name}\b", message)
    ]
    where = min(places, key=lambda pair: pair[0])[1].where if places else ""
    return "" if where.removeprefix("--").split("=")[0] in message else where


def _leaves(given: Mapping[str, "Given | Tree"]) -> Iterator[tuple[str, Given]]:
    for name, value in given.items():
        if isinstance(value, Given):
            yield name, value
        else:
            yield from _leaves(value)
