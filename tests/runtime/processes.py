"""Start several processes of a module as torchrun would, without its seconds of overhead."""

import os
import socket
import subprocess
import sys
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
    """Run `python -m module` as `size` ranks and return what each printed; fails unless all end well."""
    port = free_port()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment(rank, size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        outputs = [child.communicate(timeout=timeout) for child in children]
    finally:
        for child in children:
            child.kill()
    problems = [error for child, (_, error) in zip(children, outputs, strict=True) if child.returncode != 0]
    assert not problems, "\n".join(problems)
    return [output for output, _ in outputs]
