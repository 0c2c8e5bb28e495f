"""Start processes of a module, alone or as torchrun would: forked from one that has the large libraries loaded, which takes seconds."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets for a process."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_processes(size: int, module: str, *arguments: str, timeout: float = 120) -> list[str]:
    """Run `module` as `size` ranks and return what each printed; fails unless all end well."""
    port = free_port()
    return _run([environment(rank, size, port) for rank in range(size)], module, arguments, timeout)


def run_module(module: str, *arguments: str, timeout: float) -> str:
    """Run what `python -m module` runs and return what it printed; fails unless it ends well."""
    return _run([{**os.environ}], module, arguments, timeout)[0]


def _run(
    environments: Sequence[dict[str, str]], module: str, arguments: Sequence[str], timeout: float
) -> list[str]:
    ready = _ready()
    assert ready.stdin is not None
    assert ready.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        order = {"module": module, "arguments": arguments, "environments": environments, "folder": folder}
        ready.stdin.write(f"{json.dumps(order)}\n")
        ready.stdin.flush()
        line = ""
        try:
            if select.select([ready.stdout], [], [], timeout)[0]:
                line = ready.stdout.readline()
        finally:
            if not line:
                end()
        wrote = {file.name: file.read_text() for file in sorted(Path(folder).iterdir())}
    assert line, f"{module} has not ended after {timeout} s: {wrote}"
    codes: list[int] = json.loads(line)
    problems = [wrote[f"{rank}.err"] or f"ended with {code}" for rank, code in enumerate(codes) if code]
    assert not problems, "\n".join(problems)
    return [wrote[f"{rank}.out"] for rank in range(len(codes))]


@cache
def _ready() -> "subprocess.Popen[str]":
    """The one that forks, once for all tests of this process."""
    ready = subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.ready"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert ready.stdout is not None
    assert ready.stdout.readline() == "ready\n"
    return ready


def end() -> None:
    """End it, and whatever of it still runs."""
    if _ready.cache_info().currsize:
        ready = _ready()
        _ready.cache_clear()
        os.killpg(ready.pid, signal.SIGKILL)
        ready.communicate()
