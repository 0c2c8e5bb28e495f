"""A studio on each database, with a clock that the test moves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from argon2 import PasswordHasher

from prefloop.data.store import Store
from prefloop.studio import accounts
from prefloop.studio.service import Studio
from tests.data.conftest import (  # noqa: F401  (fixtures)
    empty_store,
    new_database,
    new_url,
    own_database,
    postgres_server,
    store,
    store_url,
)
from tests.studio.live import opened
from tests.studio.made import fill

HASHER = accounts._hasher
"""The program's own. Tests sign so many people in that they hash passwords as cheaply as Argon2 allows."""
accounts._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
accounts._NOBODY = accounts._hasher.hash("nobody's password")


@dataclass
class Clock:
    """Stands still unless it is moved."""

    now: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for a file's tests."""
    with opened() as made:
        yield made


@pytest.fixture(autouse=True)
def pages_are_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test's pages end with it: they would go on to ask for what is not served any more."""
    if "browser" not in request.fixturenames:
        yield
        return
    browser = request.getfixturevalue("browser")
    kept = [*browser.contexts]
    yield
    for context in browser.contexts:
        if context not in kept:
            context.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def studio(empty_store: Callable[[Path], Store], tmp_path: Path, clock: Clock) -> Iterator[Studio]:  # noqa: F811
    """A studio on SQLite with six pairs in its store."""
    with empty_store(tmp_path) as opened:
        made = Studio(opened, clock=clock, random=Random(0))
        fill(opened, 6)
        yield made


@pytest.fixture
def on_each(store: Store, clock: Clock) -> Studio:  # noqa: F811
    """The same on each database; a file's `studio` may be this one."""
    fill(store, 6)
    return Studio(store, clock=clock, random=Random(0))
