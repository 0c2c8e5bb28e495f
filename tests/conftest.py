"""Fixtures for all tests. While tests run, the shapes in signatures and dataclasses are checked at every call."""

import gc
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import cache, wraps
from pathlib import Path
from types import CodeType
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable
from hypothesis import settings as hypothesis_settings
from jaxtyping import install_import_hook

gc.disable()  # until all is collected

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # nothing is downloaded, and a name that is nowhere fails at once
os.fsync = lambda _: None  # nobody cuts the power while tests run
os.environ.setdefault("PREFLOOP_MATMUL", "usual")  # the same bits whatever a measurement says
os.environ.setdefault(
    "MKL_CBWR", "AUTO,STRICT"
)  # as runs set it, before anything is multiplied: later it has no effect

_SHAPED = re.compile(r"\b(Float|Int|UInt|Bool|Shaped|Num)\d*\[")
_CONF = BeartypeConf(is_pep484_tower=True)  # a whole number is fine where a float is asked for
_check = beartype(conf=_CONF)


@dataclass(frozen=True, slots=True)
class _Promise:
    """What a function's signature says of tensors, and the kinds that it was called with and were found right."""

    hints: dict[str, Any]
    result: Any
    places: list[tuple[int, str]]
    passed: dict[Any, set[Any]]


_promises: dict[CodeType, _Promise | None] = {}
"""By code, for a function within a function is made again at every call."""


def _promise_of(function: Callable[..., Any]) -> _Promise | None:
    """None for a function without a tensor's shape in its signature."""
    code = function.__code__
    if code not in _promises:
        shaped = {name: hint for name, hint in function.__annotations__.items() if _SHAPED.search(str(hint))}
        result = shaped.get("return")
        places = [
            (place, name) for place, name in enumerate(code.co_varnames[: code.co_argcount]) if name in shaped
        ]
        _promises[code] = _Promise(shaped, result, places, {}) if shaped else None
    return _promises[code]


def _checked_once(*, typechecker: Any) -> Callable[[Any], Any]:
    """In place of `jaxtyping.jaxtyped`, for what promises shapes. That checks arguments twice, and at every call: half the time of a small training step."""

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            if is_dataclass(target) and "__init__" in vars(target):  # not its parent's
                target.__init__ = decorate(target.__init__)
            return target
        promise = _promise_of(target)
        return target if promise is None else _in_its_own_axes(target, typechecker, promise)

    return decorate


def _in_its_own_axes(plain: Callable[..., Any], typechecker: Any, promise: _Promise) -> Callable[..., Any]:
    """A call's letters, `B` and `T`, mean the same sizes in all its arguments and its result.

    The check goes by kinds and shapes alone: those that have passed need not be looked at again, and a training step has the same thousands of times.
    """
    hints, places, passed = promise.hints, promise.places, promise.passed
    checked = cache(lambda: typechecker(plain))

    @wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return plain(*args, **kwargs)
        count = len(args)
        found = [_kind(args[place]) for place, _ in places if place < count]
        if kwargs:
            found += [(name, _kind(value)) for name, value in kwargs.items() if name in hints]
        kinds = tuple(found)
        seen = passed.get(kinds)
        if seen is None:
            with _AXES:
                result = checked()(*args, **kwargs)
            passed[kinds] = {_kind(result)}
            return result
        result = plain(*args, **kwargs)
        if promise.result is not None and (kind := _kind(result)) not in seen:
            given = {name: args[place] for place, name in places if place < len(args)} | kwargs
            with _AXES:
                for name in given.keys() & hints.keys():
                    die_if_unbearable(given[name], hints[name], conf=_CONF)
                die_if_unbearable(result, promise.result, conf=_CONF)
            seen.add(kind)
        return result

    return call


def _kind(value: Any) -> Any:
    """All that a check of shapes looks at."""
    try:
        return type(value), value.dtype, value.shape
    except AttributeError:
        pass
    if isinstance(value, list | tuple):
        return type(value), *map(_kind, value)
    if isinstance(value, dict):
        return type(value), *((key, _kind(each)) for key, each in value.items())
    return type(value)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's tensors. Other types are pyright's: tests hand in wrong ones on purpose, to see them refused."""
    function.__annotations__ = {
        name: hint if _SHAPED.search(str(hint)) else Any for name, hint in function.__annotations__.items()
    }
    return _check(function)


_AXES = jaxtyping.jaxtyped("context")
jaxtyping.jaxtyped = _checked_once
install_import_hook("prefloop", f"{__name__}.checked")

# How long an example takes says more about what else the machine does than about the code.
hypothesis_settings.register_profile("prefloop", deadline=None)
hypothesis_settings.load_profile("prefloop")

LONG = ("algorithms", "recipes", "end_to_end", "studio", "runtime")
"""Folders with files that take long. They go first, so that no process waits at the end for another's long file."""


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist hands files out as they are collected, not by their numbers of tests: the longest have few."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders as `LONG` has them, then the others."""
    places = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(LONG)))


def pytest_collection_finish() -> None:
    """All modules are imported, and stay to the end: the garbage collector need not look at them again."""
    if "prefloop.data.store" in sys.modules:
        from tests import quick_stores

        quick_stores.install()
    if "prefloop.loop.shown" in sys.modules:
        from prefloop.loop import shown
        from tests.algorithms.small import briefly

        shown.sample = briefly
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """The process that others were forked from ends."""
    if processes := sys.modules.get("tests.runtime.processes"):
        processes.end()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small project for all tests of the stages: data and starting models; runs go into folders of their own."""
    import torch

    from tests.algorithms.small import make_project

    torch.set_num_threads(1)  # sums in one order, and no fight over the machine's cores
    return make_project(tmp_path_factory.mktemp("project") / "small")


@pytest.fixture(scope="session")
def unbroken(project: Path) -> Callable[[str], Path]:
    """The run folder of a stage trained in one go, in one process, each step in one micro-batch; done once."""
    from tests.algorithms.small import settings, train_and_keep_samples

    @cache
    def run(name: str) -> Path:
        config = settings(name, project, out=f"unbroken-{name}")
        train_and_keep_samples(config)
        return Path(config.run.out)

    return run


@pytest.fixture
def waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that this test opens are on the disk before a commit ends, as the program's are."""
    from prefloop.data.store import database
    from tests import quick_stores

    monkeypatch.setattr(database, "_set_up_sqlite", quick_stores.SET_UP)
    monkeypatch.setattr(database, "_begin_sqlite", quick_stores.BEGIN)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: `PREFLOOP_DATA`, or `shared/data` beside the repository; skips where there is none."""
    named = os.environ.get("PREFLOOP_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: PREFLOOP_DATA is {named!r} and {folder} is not a folder")
    return folder
