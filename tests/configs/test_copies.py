"""Names of what was sent to this machine lead to the copies."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.configs.adapters import CONFIG, adapter_of
from prefloop.configs.copies import forget_copies, here, keep_copy
from prefloop.configs.model_names import model_name


@pytest.fixture(autouse=True)
def _names_stand_for_themselves() -> Iterator[None]:
    yield
    forget_copies()


def test_a_name_and_what_is_below_it_are_at_the_copy(tmp_path: Path) -> None:
    keep_copy("runs/sft", tmp_path / "a")
    keep_copy("runs/sft/final", tmp_path / "b")
    assert here("runs/sft") == str(tmp_path / "a")
    assert here("runs/sft/log.txt") == str(tmp_path / "a/log.txt")
    assert here("runs/sft/final/adapter") == str(tmp_path / "b/adapter")  # the longer name is meant
    assert here("runs/sft2") == "runs/sft2"


def test_a_model_and_an_adapters_base_are_opened_at_their_copies(tmp_path: Path) -> None:
    base, adapter = tmp_path / "1/base", tmp_path / "2/adapter"
    for folder in (base, adapter):
        folder.mkdir(parents=True)
    (adapter / CONFIG).write_text(json.dumps({"base_model_name_or_path": "/elsewhere/base"}))
    keep_copy("/elsewhere/base", base)
    keep_copy("runs/adapter", adapter)
    assert model_name("/elsewhere/base").source == str(base)
    found = adapter_of("runs/adapter")
    assert found is not None
    assert (found.folder, found.base) == (adapter, "/elsewhere/base")
    assert model_name(found.base).source == str(base)
