"""Processes agree on settings: a machine without the files has the first one's, and one with others is refused on all."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from prefloop.configs.copies import forget_copies, here
from prefloop.configs.load import Given
from prefloop.configs.sft import SFTConfig
from prefloop.errors import InputError
from prefloop.runtime.machines import Peer
from prefloop.runtime.starting import _first, _minutes, _other

PEERS = [Peer(host=host, leads=True, launcher="") for host in ("home", "guest")]
TEXT = "model: runs/base\ndata: {source: d.jsonl}\nrun: {out: runs/x}\noptim: {lr: 0.25}\n"


@pytest.fixture(autouse=True)
def _names_stand_for_themselves() -> Iterator[None]:
    yield
    forget_copies()


def both(file: str, *, between: Callable[[], None], flags: Any) -> list[Any]:
    """What the two processes get or raise; `between` happens once the first has said its settings."""
    store = HashStore()
    found: list[Any] = [None, None]

    def first() -> None:
        try:
            found[0] = _first(store, PEERS, SFTConfig, file, {})
        except InputError as error:
            found[0] = error

    thread = threading.Thread(target=first)
    thread.start()
    store.wait(["first"])
    between()
    try:
        found[1] = _other(store, 1, SFTConfig, file, flags)
    except InputError as error:
        found[1] = error
    thread.join()
    return found


def test_a_machine_without_the_file_has_the_first_ones_settings(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(TEXT)
    ours, theirs = both(str(file), between=file.unlink, flags={})
    assert ours == theirs
    assert theirs.optim.lr == 0.25
    assert here(str(file)) != str(file)


def test_other_flags_are_an_error_that_names_process_machine_and_setting(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(TEXT)
    flags = {"optim": {"lr": Given(value=0.5, where="--optim.lr")}}
    ours, theirs = both(str(file), between=lambda: None, flags=flags)
    for error in (ours, theirs):
        assert str(error) == (
            "process 1 on guest was given other settings than process 0 on home: optim.lr is 0.5 and not 0.25; "
            "start all machines with the same"
        )


def test_a_file_of_the_same_name_with_other_settings_is_found(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(TEXT)
    _, theirs = both(str(file), between=lambda: void(file.write_text(TEXT.replace("0.25", "0.75"))), flags={})
    assert "optim.lr is 0.75 and not 0.25" in str(theirs)


def test_what_is_wrong_with_the_first_ones_settings_is_said_by_all(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(TEXT.replace("0.25", "fast"))
    ours, theirs = both(str(file), between=file.unlink, flags={})
    assert "sft.yaml:4" in str(ours)
    assert str(theirs) == str(ours)


def test_the_time_to_wait_is_known_before_all_settings_are(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(TEXT + "compute: {wait_minutes: 0.5}\n")
    assert _minutes(SFTConfig, str(file), {}) == 0.5
    flags: Any = {"compute": {"wait_minutes": Given(value=2.0, where="--compute.wait_minutes")}}
    assert _minutes(SFTConfig, str(file), flags) == 2.0
    assert _minutes(SFTConfig, str(tmp_path / "absent.yaml"), {}) == 30.0


def void(_: object) -> None: ...
