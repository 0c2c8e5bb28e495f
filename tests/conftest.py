"""Fixtures for all tests. While tests run, the shapes in signatures and dataclasses are checked at every call."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # nothing is downloaded, and a name that is nowhere fails at once
os.environ.setdefault("PREFLOOP_MATMUL", "usual")  # the same bits whatever a measurement says

_SHAPED = re.compile(r"\b(Float|Int|UInt|Bool|Shaped|Num)\d*\[")
_check = beartype(
    conf=BeartypeConf(is_pep484_tower=True)
)  # a whole number is fine where a float is asked for


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's tensors. Other types are pyright's: tests hand in wrong ones on purpose, to see them refused."""
    function.__annotations__ = {
        name: hint if _SHAPED.search(str(hint)) else Any for name, hint in function.__annotations__.items()
    }
    return _check(function)


install_import_hook("prefloop", f"{__name__}.checked")

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("prefloop", deadline=None)
settings.load_profile("prefloop")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: `PREFLOOP_DATA`, or `shared/data` beside the repository; skips where there is none."""
    named = os.environ.get("PREFLOOP_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: PREFLOOP_DATA is {named!r} and {folder} is not a folder")
    return folder
