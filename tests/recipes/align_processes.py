"""`align` killed, and in two processes: `python -m tests.recipes.align_processes FOLDER`, looked at by `test_align_processes.py`.

In FOLDER: `whole` was never stopped; `killed` got SIGKILL in the middle of DPO and was resumed; `shared` ran in two processes.
"""

import os
import signal
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from prefloop.recipes.align import decide
from prefloop.recipes.align.run import align
from prefloop.runtime.run import Run
from tests.recipes.align_project import aligned, make_project
from tests.recipes.test_align import MACHINE
from tests.runtime.processes import environment, free_port
from tests.runtime.trials import ended, fork

SIZE, KILLED_AT = 2, 12
"""Processes; the step at which DPO is killed, two after a checkpoint."""


def run(folder: Path, name: str, *, resume: bool = False) -> None:
    """DPO and what measures it."""
    torch.set_num_threads(1)
    decide.measure = lambda *_, **__: MACHINE
    align(aligned(folder, folder / name, resume=resume, lr=1e-3))
    sys.stdout.flush()


def killed(folder: Path) -> None:
    """The same, until a step of DPO is logged."""
    real = Run.log

    def log(self: Run, step: int, metrics: dict[str, float]) -> None:
        real(self, step, metrics)
        if self.stage == "dpo" and step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(Run, "log", log):
        run(folder, "killed")


def shared(folder: Path, rank: int, port: int) -> None:
    """One of two processes."""
    os.environ.update(environment(rank, SIZE, port))
    run(folder, "shared")


def main() -> None:
    folder, port = Path(sys.argv[1]), free_port()
    make_project(folder, count=600)
    output = folder / "output"
    assert ended(fork(lambda: run(folder, "whole"), output)) == 0, output.read_text()
    assert ended(fork(lambda: killed(folder), output)) == -signal.SIGKILL, output.read_text()
    assert ended(fork(lambda: run(folder, "killed", resume=True), output)) == 0, output.read_text()
    outputs = [folder / f"output-{rank}" for rank in range(SIZE)]
    children = [fork(lambda rank=rank: shared(folder, rank, port), outputs[rank]) for rank in range(SIZE)]
    codes = [ended(child) for child in children]
    assert codes == [0] * SIZE, "\n".join(output.read_text() for output in outputs)


if __name__ == "__main__":
    main()
