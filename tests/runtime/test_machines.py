"""What is said of several machines, and what is typed on each to go on."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from prefloop.runtime import machines
from prefloop.runtime.machines import Peer, command, differing, launcher
from prefloop.runtime.world import World


def of(*launchers: str) -> World:
    """Two processes on each machine."""
    peers = [
        Peer(host=f"gpu-{number}", leads=leads, launcher=text if leads else "")
        for number, text in enumerate(launchers)
        for leads in (True, False)
    ]
    return World(rank=0, size=len(peers), device=torch.device("cpu"), peers=peers)


def test_one_command_where_all_machines_were_started_alike() -> None:
    words = "torchrun --nnodes 2 --rdzv-endpoint gpu-0:1234"
    assert command(of(words, words), "sft --x 1") == f"{words} -m prefloop sft --x 1"


def test_each_machine_its_own_command_where_they_differ() -> None:
    assert command(of("torchrun --node-rank 0", "torchrun --node-rank 1"), "sft") == (
        "on gpu-0: torchrun --node-rank 0 -m prefloop sft; on gpu-1: torchrun --node-rank 1 -m prefloop sft"
    )


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (
            ["python", "-m", "torch.distributed.run", "--nnodes", "2", "-m", "prefloop", "sft", "--out", "x"],
            "python -m torch.distributed.run --nnodes 2",
        ),
        (
            ["python", "/x y/torchrun", "--rdzv-endpoint=a:1", "--module", "prefloop", "dpo", "-m", "y"],
            "'/x y/torchrun' --rdzv-endpoint=a:1",
        ),
        (["python", "/x/torchrun", "--nnodes=1:4", "train.py", "--lr", "1"], "/x/torchrun --nnodes=1:4"),
        (["bash", "start.sh"], ""),
    ],
)
def test_how_torchrun_was_started_is_read_from_its_command_line(
    given: list[str], found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cmdline"
    file.write_bytes(b"".join(word.encode() + b"\0" for word in given))
    monkeypatch.setattr(machines, "Path", lambda name: file if "/proc/" in str(name) else Path(name))
    assert launcher() == found


def test_torchrun_is_named_as_it_is_found_on_the_path() -> None:
    own = Path(sys.executable).with_name("torchrun")
    if shutil.which("torchrun") == str(own):
        assert machines._program(["python", str(own), "-m", "x"])[0] == ["torchrun"]
    else:
        assert machines._program(["python", str(own), "-m", "x"])[0] == [str(own)]


def test_settings_that_differ_are_named_with_both_values() -> None:
    first = {"optim.lr": 1e-4, "model": "a", "steps": float("nan")}
    assert differing(dict(first), first) == ""
    assert differing({**first, "optim.lr": 1e-5}, first) == "optim.lr is 1e-05 and not 0.0001"
    many = {str(number): 1 for number in range(8)}
    assert differing({}, many).endswith(", and 3 more")
