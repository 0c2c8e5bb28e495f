"""Python functions that a user names as `module:function` or `file.py:function`, and what they return."""

import difflib
import hashlib
import importlib
import importlib.util
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path
from typing import Any, cast

from prefloop.configs.copies import here
from prefloop.errors import InputError

_GIVEN: dict[str, Callable[..., Any]] = {}
"""Functions that were given by value, by the name that settings have for them."""


def give_function(function: Callable[..., Any]) -> str:
    """A name that `find_function` knows a function by in this process, for settings that hold names. A later one of the same name takes its place."""
    own = getattr(function, "__qualname__", type(function).__qualname__).replace("<", "").replace(">", "")
    name = f"{getattr(function, '__module__', '__main__')}:{own}"
    _GIVEN[name] = function
    return name


def find_function(spec: str, *, what: str) -> Callable[..., Any]:
    """The function that `module:function` or `file.py:function` names; modules in the current folder are found too. `what` says in messages
    what it is for.

    A function that was given by value in this process is found by the name that `give_function` gave it.

    Raises `InputError` that says which part of `spec` is wrong: not of that form, no such module, no such function, not callable.
    """
    if spec in _GIVEN:
        return _GIVEN[spec]
    module_name, separator, name = spec.partition(":")
    if not (separator and module_name and name) or ":" in name:
        raise InputError(f"{what} {spec!r} is not of the form module:function, for example rewards:helpful")
    load = _import_file if module_name.endswith(".py") else _import
    module = load(module_name, f"{what} {spec!r}")
    if not hasattr(module, name):
        public = [
            variable
            for variable in vars(module)
            if not variable.startswith("_") and callable(vars(module)[variable])
        ]
        near = difflib.get_close_matches(name, public, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(public) or 'no functions'}"
        raise InputError(
            f"{what} {spec!r}: {getattr(module, '__file__', None) or module_name} has no {name!r}; {hint}"
        )
    function = getattr(module, name)
    if not callable(function):
        raise InputError(f"{what} {spec!r} is a {type(function).__name__}, not a function")
    return function


def call(function: Callable[..., Any], *arguments: Any, what: str, **named: Any) -> Any:
    """A user's function on these arguments. Raises `InputError` that says what it raised, and at which of its lines."""
    try:
        return function(*arguments, **named)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} raised {told(error)}; correct the function") from error


def numbers_in(
    result: object, count: int, *, what: str, unit: str, where: Callable[[int], str]
) -> list[float]:
    """What a user's function returned as finite numbers, one for each of `count` things, which `each` names ("completion"); `where` says
    of one what it is. 0.0 is a number like others.

    Raises `InputError` naming the function, what it returned (type or shape) and what is wanted; nothing is flattened, converted or cut.
    """
    wanted = f"it must return a sequence of {count} numbers, one for each {unit}"
    shape = getattr(result, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"{what} returned an array of shape {list(shape)}; {wanted}")
    if not isinstance(result, Iterable) or isinstance(result, str | bytes | dict | set | frozenset):
        raise InputError(f"{what} returned {shown(result)} of type {type(result).__name__}; {wanted}")
    values = call(list, result, what=what)
    if len(values) != count:
        raise InputError(
            f"{what} returned {len(values)} values for {count} {unit}s; it must return one for each"
        )
    return [number_in(value, what=what, where=where(index)) for index, value in enumerate(values)]


def number_in(value: object, *, what: str, where: str) -> float:
    """A value that a user's function returned as a finite float; text that reads like a number is none. Raises `InputError` that names it."""
    number = _as_float(value)
    if number is None or not math.isfinite(number):
        of_type = "" if isinstance(value, float) else f" of type {type(value).__name__}"
        raise InputError(
            f"{what} returned {shown(value)}{of_type} for {where}; every value must be a finite number"
        )
    return number


def _as_float(value: object) -> float | None:
    """A number, or an array or tensor of one element without axes, as a float; None for anything else, text that reads like one included."""
    if isinstance(value, Real) or getattr(value, "shape", None) == ():
        try:
            return float(cast(Any, value))
        except (TypeError, ValueError, OverflowError):
            return None
    return None


def shown(value: object, limit: int = 60) -> str:
    """A value on one line, shortened."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def told(error: BaseException) -> str:
    """An error on one line, with the place it came from."""
    reason = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = (
        f"{error.filename}:{error.lineno}"
        if isinstance(error, SyntaxError)
        else f"{frames[-1].filename}:{frames[-1].lineno}"
    )
    return f"{type(error).__name__}{': ' if reason else ''}{reason} ({place})"


def _import_file(name: str, what: str) -> Any:
    """Import a module by its file's path; its neighbours are found for what it imports."""
    path = Path(here(name)).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"{what}: there is no file {path}")
    unique = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if unique in sys.modules:
        return sys.modules[unique]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[unique]
        raise InputError(f"{what}: importing {name!r} raised {told(error)}; correct the module") from error
    return module


def _import(name: str, what: str) -> Any:
    """Import a module, looking in the current folder first for this one, and last for whatever it imports later."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InputError(
                f"{what}: there is no module {name!r} in {here} or among the installed packages"
            ) from error
        raise InputError(
            f"{what}: importing {name!r} failed because {error.name!r} is not installed"
        ) from error
    except Exception as error:
        raise InputError(f"{what}: importing {name!r} raised {told(error)}; correct the module") from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
