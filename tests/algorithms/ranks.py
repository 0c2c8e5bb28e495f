"""The stages in two processes: `python -m tests.algorithms.ranks PROJECT NAMES...`, looked at by `test_processes.py`.

Both are forked from one process that has PyTorch loaded, with the environment that torchrun would give them. The stages follow one another
in the same processes, as in a recipe.
"""

import os
import sys
from pathlib import Path

import torch

from prefloop.runtime import start_world
from tests.algorithms.small import settings, train_and_keep_samples
from tests.runtime.processes import environment, free_port
from tests.runtime.trials import ended, fork

SIZE = 2


def work(rank: int, port: int, project: Path, names: list[str]) -> None:
    """What one process does."""
    os.environ.update(environment(rank, SIZE, port))
    torch.set_num_threads(1)
    with start_world("cpu") as world:
        assert world.size == SIZE
        for name in names:
            train_and_keep_samples(settings(name, project, out=f"two-{name}"), part=str(rank))


def main() -> None:
    project, names = Path(sys.argv[1]), sys.argv[2:]
    port = free_port()
    outputs = [project / f"rank-{rank}.out" for rank in range(SIZE)]
    children = [
        fork(lambda: work(rank, port, project, names), output)  # noqa: B023
        for rank, output in enumerate(outputs)
    ]
    codes = [ended(child) for child in children]
    assert codes == [0] * SIZE, "\n".join(output.read_text() for output in outputs)


if __name__ == "__main__":
    main()
