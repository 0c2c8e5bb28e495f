"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: `PREFLOOP_DATA`, or `shared/data` beside the repository; skips where there is none."""
    named = os.environ.get("PREFLOOP_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: PREFLOOP_DATA is {named!r} and {folder} is not a folder")
    return folder
