"""A process that ends or does not come is named in one line, within the time that was set. Real processes, over gloo."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prefloop.configs.common import Compute, RunSettings
from prefloop.errors import InputError
from prefloop.runtime.world import World
from tests.runtime.example import Config, train
from tests.runtime.processes import ROOT, environment, free_port


def heard(
    kind: str, folder: Path, *, size: int, of: int | None = None, hosts: tuple[str, ...] = ()
) -> dict[int, str]:
    """What each process printed; `of` of them are said to be started, where not all are. `hosts` are the machines that they take themselves to be on."""
    port = free_port()
    children = {
        rank: subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.lost", kind, str(folder)],
            cwd=ROOT,
            env={**environment(rank, of or size, port), "TEST_HOST": hosts[rank] if hosts else ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    }
    said: dict[int, str] = {}
    try:
        for rank, child in children.items():
            if rank == 1:
                continue
            out, err = child.communicate(timeout=90)
            assert child.returncode == 0, err
            said[rank] = out.strip()
    finally:
        for child in children.values():
            child.kill()
            with child:  # closes its pipes, and waits
                pass
    return said


def test_a_dead_process_is_named_with_the_way_to_go_on(tmp_path: Path) -> None:
    said = heard("dies", tmp_path, size=2)[0]
    assert said.startswith("True: process 1 of 2 ended while the others waited")
    out = tmp_path / "run"
    assert said.endswith(
        f"resume with: torchrun --nproc-per-node 2 -m prefloop example --config {out}/config.yaml --run.resume true"
    )
    assert "\n" not in said
    assert "process 1 of 2 ended" in (out / "log.txt").read_text()
    settings = RunSettings(out=str(out), save_every=1, resume=True)
    train(Config(run=settings), World(rank=0, size=1, device=torch.device("cpu")))  # it does go on


def test_of_three_the_one_that_does_not_come_is_named(tmp_path: Path) -> None:
    said = heard("hangs", tmp_path, size=3, hosts=("gpu-1", "gpu-2", "gpu-2"))
    assert said[0].startswith(
        "True: process 1 on gpu-2 of 3 did not come within 0.2 minutes (compute.wait_minutes)"
    )
    assert said[2].startswith("False: process 1 on gpu-2 of 3 ")


def test_of_three_the_one_that_ended_is_named(tmp_path: Path) -> None:
    said = heard("ends", tmp_path, size=3)
    assert said[0].startswith("True: process 1 of 3 ")
    assert said[2].startswith("False: process 1 of 3 ")


def test_where_the_ended_process_says_what_was_wrong_the_others_do_not(tmp_path: Path) -> None:
    assert heard("refuses", tmp_path, size=2)[0].startswith("False: process 1 of 2 ended")


def test_a_process_that_is_never_started_is_waited_for_no_longer_than_set(tmp_path: Path) -> None:
    said = heard("ends", tmp_path, size=1, of=2)[0]
    assert said.startswith("True: ")
    assert "within 0.2 minutes (compute.wait_minutes)" in said
    assert "\n" not in said


@pytest.mark.parametrize("minutes", [0.0, -1.0, 1e9, float("nan")])
def test_the_time_to_wait_is_sensible(minutes: float) -> None:
    with pytest.raises(InputError, match=r"compute\.wait_minutes"):
        Compute(wait_minutes=minutes)
