"""Runs that are killed: `python -m tests.algorithms.killed PROJECT`, looked at by `test_resume.py`.

Children are forked from one process that has PyTorch loaded. Each stage is killed by SIGKILL some time after it has saved another step,
resumed and killed again; the last child finishes. A child that is to be killed waits in its second step: however fast the machine, it cannot
finish first.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prefloop.runtime import Run
from prefloop.runtime.checkpoint import Checkpoints
from tests.algorithms.small import resumed, settings, train
from tests.runtime.trials import ended, fork

STAGES_KILLED = ("sft", "ppo")
KILLS = 2


def main() -> None:
    project = Path(sys.argv[1])
    torch.set_num_threads(1)
    chance = random.Random(os.getpid())
    for name in STAGES_KILLED:
        out = project / f"killed-{name}"
        for kill in range(KILLS + 1):
            before = latest(out)
            config = resumed(settings(name, project, out=out.name), save_every=1)
            if kill < KILLS:
                child = fork(lambda: train_until(before + 2, config), out.with_suffix(".out"))  # noqa: B023
                wait_for_step(out, before + 1)
                time.sleep(chance.random() * 0.1)
                os.kill(child, signal.SIGKILL)
                assert ended(child) == -signal.SIGKILL
            else:
                child = fork(lambda: void(train(config)), out.with_suffix(".out"))  # noqa: B023
                assert ended(child) == 0, out.with_suffix(".out").read_text()
        out.with_suffix(".kills").write_text(str(KILLS))


def train_until(last: int, config: Any) -> None:
    """Train, and wait for ever where a step would end."""
    log = Run.log

    def log_or_wait(self: Run, step: int, metrics: Mapping[str, float], *, always: bool = False) -> None:
        while step >= last:
            time.sleep(1)
        log(self, step, metrics, always=always)

    Run.log = log_or_wait
    train(config)


def latest(out: Path) -> int:
    """The last step that was saved."""
    return max(Checkpoints(out / "checkpoints", keep=1).steps(), default=0)


def wait_for_step(out: Path, step: int) -> None:
    """Wait until a step is saved."""
    end = time.monotonic() + 100
    while latest(out) < step:
        assert time.monotonic() < end, out.with_suffix(".out").read_text()
        time.sleep(0.002)


def void(_: object) -> None: ...


if __name__ == "__main__":
    main()
