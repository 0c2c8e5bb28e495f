"""Plain dataclasses to JSON files and back. A file that was edited or cut off is an `InputError` that says where."""

import json
import math
import os
import tempfile
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from prefloop.errors import InputError
from prefloop.records import ROLES, Message, Prompt

T = TypeVar("T")


def encode(value: Any) -> Any:
    """The value in JSON's own types. A class's `to_json` decides for itself; NaN and infinities become null."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def decode(kind: type[T], value: Any, where: str) -> T:
    """A value of type `kind` (dataclass, tuple, mapping, optional or scalar) from JSON types; null is NaN if a float belongs.

    Keys that the dataclass does not have are passed over: a later version may have written them. `where` begins the error's message: `file: `, or a
    field's place in it.
    """
    return _decode(kind, value, where)


def write_json(path: Path, value: Any) -> None:
    """Write the file whole or not at all: a reader never sees half of it."""
    write_text(path, json.dumps(encode(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 beside the file, then rename over it. Characters that UTF-8 cannot hold (lone surrogates) become `?`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8", errors="replace"))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free some space or give another folder"
        ) from error


def read_json(path: Path) -> Any:
    """The file's JSON; `InputError` if it is not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 at byte {error.start}; write it again by running the stage"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); write it again by running the stage"
        ) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is Prompt:
        return _prompt(value, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (part for part in get_args(kind) if part is not types.NoneType)
        return _decode(inner, value, where)
    if origin is tuple:
        items = _expect(list, value, where, "a list")
        return tuple(_decode(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is not None:  # Mapping[str, X]
        items = _expect(dict, value, where, "an object")
        return {key: _decode(get_args(kind)[1], item, at(where, key)) for key, item in items.items()}
    if hasattr(kind, "from_json"):
        return kind.from_json(value, where)
    if is_dataclass(kind):
        return decode_fields(kind, value, where)
    if kind is float:
        return math.nan if value is None else float(_expect(int | float, value, where, "a number"))
    return _expect(kind, value, where, {int: "a whole number", str: "a string", bool: "true or false"}[kind])


def decode_fields(kind: Any, value: Any, where: str, **given: Any) -> Any:
    """The dataclass from an object with its fields; `given` are fields that the caller has decoded already."""
    found = _expect(dict, value, where, "an object")
    hints = get_type_hints(kind)
    arguments = dict(given)
    for field in fields(kind):
        if field.name in given:
            continue
        if field.name in found:
            arguments[field.name] = _decode(hints[field.name], found[field.name], at(where, field.name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{at(where, field.name)} is missing; write the file again by running the stage")
    return kind(**arguments)


def at(where: str, name: str) -> str:
    """Where a field is: `file: a.b[2].name`."""
    return f"{where}{name}" if where.endswith(" ") else f"{where}.{name}"


def _expect(kind: Any, value: Any, where: str, expected: str) -> Any:
    # bool is an int to Python, and never what a number's place wants.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where.rstrip(': ')} is {json.dumps(value)[:80]}; it must be {expected}")
    return value


def _prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        return Prompt(content=value)
    items = _expect(list, value, where, "a string or a list of messages")
    return Prompt(content=tuple(_message(item, f"{where}[{i}]") for i, item in enumerate(items)))


def _message(value: Any, where: str) -> Message:
    found = _expect(dict, value, where, "an object")
    role, content = found.get("role"), found.get("content")
    if role not in ROLES:
        raise InputError(f"{where}.role is {role!r}; it must be one of {', '.join(ROLES)}")
    _expect(str, content, f"{where}.content", "a string")
    try:
        return Message.from_json(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where} is {json.dumps(found)[:80]}; its tool calls are not as prefloop writes them"
        ) from error
