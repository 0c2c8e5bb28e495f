"""Python functions that a user names as `module:function`."""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

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
    """The function that `module:function` names; modules in the current folder are found too. `what` says in messages what it is for.

    A function that was given by value in this process is found by the name that `give_function` gave it.

    Raises `InputError` that says which part of `spec` is wrong: not of that form, no such module, no such function, not callable.
    """
    if spec in _GIVEN:
        return _GIVEN[spec]
    module_name, separator, name = spec.partition(":")
    if not (separator and module_name and name) or ":" in name:
        raise InputError(f"{what} {spec!r} is not of the form module:function, for example rewards:helpful")
    module = _import(module_name, f"{what} {spec!r}")
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_") and callable(vars(module)[each])]
        near = difflib.get_close_matches(name, public, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(public) or 'no functions'}"
        raise InputError(
            f"{what} {spec!r}: {getattr(module, '__file__', None) or module_name} has no {name!r}; {hint}"
        )
    function = getattr(module, name)
    if not callable(function):
        raise InputError(f"{what} {spec!r} is a {type(function).__name__}, not a function")
    return function


def call(function: Callable[..., Any], *arguments: Any, what: str) -> Any:
    """A user's function on these arguments. Raises `InputError` that says what it raised, and at which of its lines."""
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} raised {_told(error)}; correct the function") from error


def _told(error: Exception) -> str:
    """An error on one line, with the place it came from."""
    reason = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = (
        f"{error.filename}:{error.lineno}"
        if isinstance(error, SyntaxError)
        else f"{frames[-1].filename}:{frames[-1].lineno}"
    )
    return f"{type(error).__name__}{': ' if reason else ''}{reason} ({place})"


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
        raise InputError(f"{what}: importing {name!r} raised {_told(error)}; correct the module") from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
