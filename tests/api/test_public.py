"""What is public stays as it is, unless the change log says so."""

import inspect

import prefloop as pl
from tests.public_api import REPOSITORY, STUB, mark, stub


def test_the_types_are_those_of_the_settings() -> None:
    assert STUB.read_text(encoding="utf-8") == stub(), "run `python -m tests.public_api`"


def test_a_changed_signature_is_in_the_change_log() -> None:
    said = " ".join((REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").split())  # lines are wrapped
    assert f"({mark()})" in said, (
        f"a public signature has changed: say how in CHANGELOG.md, in a line that ends in ({mark()})"
    )


def test_everything_public_is_there_and_documented() -> None:
    for name in pl.__all__:
        value = getattr(pl, name)
        assert inspect.getdoc(value), name
