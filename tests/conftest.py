"""Fixtures for all tests. While tests run, the shapes in signatures and dataclasses are checked at every call."""

import gc
import os
import re
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings as hypothesis_settings
from jaxtyping import install_import_hook

gc.disable()  # until all is collected

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # nothing is downloaded, and a name that is nowhere fails at once
os.fsync = lambda _: None  # nobody cuts the power while tests run
os.environ.setdefault("PREFLOOP_MATMUL", "usual")  # the same bits whatever a measurement says

_SHAPED = re.compile(r"\b(Float|Int|UInt|Bool|Shaped|Num)\d*\[")
_check = beartype(
    conf=BeartypeConf(is_pep484_tower=True)
)  # a whole number is fine where a float is asked for


def _promises_shapes(function: Callable[..., Any]) -> bool:
    """Whether a function has a tensor's shape in its signature."""
    return any(_SHAPED.search(str(hint)) for hint in getattr(function, "__annotations__", {}).values())


def _checked_once(*, typechecker: Any) -> Callable[[Any], Any]:
    """In place of `jaxtyping.jaxtyped`, for what promises shapes. That checks arguments twice: half the time of a small training step."""

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            if is_dataclass(target) and "__init__" in vars(target):  # not its parent's
                target.__init__ = decorate(target.__init__)
            return target
        return _in_its_own_axes(target, typechecker(target)) if _promises_shapes(target) else target

    return decorate


def _in_its_own_axes(plain: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    """A call's letters, `B` and `T`, mean the same sizes in all its arguments and its result."""

    @wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return plain(*args, **kwargs)
        with _AXES:
            return checked(*args, **kwargs)

    return call


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
        from prefloop.data.store.database import Database
        from tests import quick_stores

        Database.migrate = quick_stores.quickly
    gc.collect()
    gc.freeze()
    gc.enable()


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


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: `PREFLOOP_DATA`, or `shared/data` beside the repository; skips where there is none."""
    named = os.environ.get("PREFLOOP_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: PREFLOOP_DATA is {named!r} and {folder} is not a folder")
    return folder
