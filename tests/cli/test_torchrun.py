"""Under torchrun: what was wrong is the last line, however much torchrun says itself, and a torchrun that waits for a lost machine is ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.processes import ROOT, free_port


def torchrun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    address = ["--master-port", str(free_port())]
    return subprocess.run(
        [*command, *address, "-m", "prefloop", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_input_error_is_the_last_line(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    done = torchrun("sft", "--model", str(tmp_path / "absent"), "--data", "rows.jsonl", "--out", out)
    assert done.returncode != 0
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("prefloop: error: ")
    assert "absent" in lines[-1]
    assert any("ChildFailedError" in line for line in lines[:-1])  # what torchrun itself had to say
    assert sum(line == lines[-1] for line in lines) == 2  # at once, and last


LAUNCHER = """
import subprocess, sys, time
subprocess.run([sys.executable, "-c", "from prefloop.cli.last_word import end_stuck; end_stuck(1)"], check=True)
print("its process has ended", flush=True)
time.sleep(60)
"""
"""Starts a process that has lost the others, and then waits, as torchrun does for a store that does not answer."""


@pytest.mark.parametrize(
    ("place", "environment", "ended"),
    [
        ("torch/distributed/run.py", {"GROUP_WORLD_SIZE": "2"}, True),
        (
            "torch/distributed/run.py",
            {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_RESTART_COUNT": "3"},
            True,
        ),
        (
            "torch/distributed/run.py",
            {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_RESTART_COUNT": "2"},
            False,
        ),
        ("torch/distributed/run.py", {"GROUP_WORLD_SIZE": "1"}, False),
        ("mine/run.py", {"GROUP_WORLD_SIZE": "2"}, False),
    ],
    ids=["no restarts", "none left", "one left", "one machine", "another launcher"],
)
def test_a_torchrun_that_waits_for_a_lost_machine_is_ended_where_nothing_is_left_to_do(
    place: str, environment: dict[str, str], ended: bool, tmp_path: Path
) -> None:
    launcher = tmp_path / place
    launcher.parent.mkdir(parents=True)
    launcher.write_text(LAUNCHER)
    process = subprocess.Popen(
        [sys.executable, str(launcher), "--nnodes", "2", "-m", "prefloop", "dpo"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if ended:
            _, told = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
            assert "still waited for the machine that it lost after 1 s; it was ended\n" in told
        else:
            assert process.stdout is not None
            assert process.stdout.readline() == "its process has ended\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=4)
    finally:
        process.kill()
        process.communicate()
