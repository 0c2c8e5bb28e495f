"""A small recipe in two processes: `python -m tests.recipes.ranks FOLDER`, looked at by `test_toy.py`."""

import os
import sys
from pathlib import Path

import torch

from prefloop.recipes import toy
from prefloop.recipes.run import run_recipe
from tests.recipes.minimal import shrink, small_toy
from tests.runtime.processes import environment, free_port
from tests.runtime.trials import ended, fork

SIZE = 2


def work(rank: int, port: int, folder: Path) -> None:
    """What one process does."""
    os.environ.update(environment(rank, SIZE, port))
    torch.set_num_threads(1)
    real = toy.plan
    toy.plan = lambda config, project: shrink(real(config, project))
    run_recipe(small_toy(folder / "toy"))
    sys.stdout.flush()


def main() -> None:
    folder, port = Path(sys.argv[1]), free_port()
    outputs = [folder / f"rank-{rank}.out" for rank in range(SIZE)]
    children = [fork(lambda: work(rank, port, folder), output) for rank, output in enumerate(outputs)]  # noqa: B023
    codes = [ended(child) for child in children]
    assert codes == [0] * SIZE, "\n".join(output.read_text() for output in outputs)


if __name__ == "__main__":
    main()
