"""Objectives with whole-step statistics in two processes: `python -m tests.algorithms.prefer_ranks PROJECT FOLDER`, looked at by `test_prefer.py`."""

import os
import socket
import sys
from pathlib import Path

import torch

from prefloop.algorithms import prefer, reward
from prefloop.runtime import start_world
from tests.algorithms.prefer_settings import OF_REWARD, SHARED, shared_settings
from tests.runtime.processes import environment
from tests.runtime.trials import ended, fork

SIZE = 2


def work(rank: int, port: int, project: Path, folder: Path) -> None:
    """What one process does."""
    os.environ.update(environment(rank, SIZE, port))
    torch.set_num_threads(1)
    with start_world("cpu") as world:
        assert world.size == SIZE
        for loss in SHARED:
            settings = shared_settings(project, folder / f"two-{loss}", loss)
            (reward if loss in OF_REWARD else prefer).train(settings)  # pyright: ignore[reportArgumentType]


def main() -> None:
    project, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outputs = [folder / f"rank-{rank}.out" for rank in range(SIZE)]
    children = [
        fork(lambda: work(rank, port, project, folder), output)  # noqa: B023
        for rank, output in enumerate(outputs)
    ]
    codes = [ended(child) for child in children]
    assert codes == [0] * SIZE, "\n".join(output.read_text() for output in outputs)


if __name__ == "__main__":
    main()
