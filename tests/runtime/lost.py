"""What `test_lost.py` looks at: several processes, one of which ends, or does not come. `python -m tests.runtime.lost FOLDER`.

All are children of one process that has PyTorch loaded, and wait at the same time. Each leaves in FOLDER, as `CASE-RANK`, what it heard and whether
it is the one to say it; what else it said is in `CASE-RANK.out`.
"""

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from prefloop.configs.common import RunSettings
from prefloop.errors import PeerLost
from prefloop.runtime.world import World, speak, start_world
from tests.runtime.example import Config, train
from tests.runtime.processes import environment, free_port
from tests.runtime.trials import ALONE, ended, fork

SHORT = 0.2
"""Minutes."""


def dies(world: World, folder: Path, *, moved: bool = False) -> None:
    """Process 1 is killed in the third step, before its update or after it (`moved`); nobody has asked for a checkpoint."""
    from prefloop.runtime.update import Updater

    real = Updater.step

    def step(self: Updater, *args, **kwargs):
        third = world.rank == 1 and self.steps == 2
        if third and not moved:
            os._exit(9)
        result = real(self, *args, **kwargs)
        if third:
            os._exit(9)
        return result

    Updater.step = step
    train(Config(run=RunSettings(out=str(folder / "run"), save_every=0), dropout=0.0), world)


def hangs(world: World, folder: Path) -> None:
    """Process 1 does not come to the third sum; process 2, where there is one, comes later than 0."""
    world.sum_float(1.0)
    if world.rank == 2:
        time.sleep(1.5)
    if world.rank == 1:
        time.sleep(60)
    world.barrier()


def ends(world: World, folder: Path) -> None:
    """Process 1 has ended well, and does not come again."""
    if world.rank == 1:
        time.sleep(1.0)
        os._exit(0)
    world.gather_objects("here")


def refuses(world: World, folder: Path) -> None:
    """Process 1 says itself what is wrong with its input, and ends."""
    if world.rank == 1:
        speak()
        os._exit(2)
    world.barrier()


KINDS = {"dies": dies, "moves": partial(dies, moved=True), "hangs": hangs, "ends": ends, "refuses": refuses}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Some processes of a kind."""

    kind: str
    size: int
    of: int
    """How many are said to be started."""
    hosts: tuple[str, ...] = ()
    """The machines that they take themselves to be on."""


CASES = {
    "dies": Case(kind="dies", size=2, of=2),
    "moves": Case(kind="moves", size=2, of=2),
    "hangs": Case(kind="hangs", size=3, of=3, hosts=("gpu-1", "gpu-2", "gpu-2")),
    "ends": Case(kind="ends", size=3, of=3),
    "refuses": Case(kind="refuses", size=2, of=2),
    "absent": Case(kind="ends", size=1, of=2),
}


def one(name: str, rank: int, port: int, folder: Path) -> None:
    """A process of a case."""
    case, said = CASES[name], ""
    os.environ.update(environment(rank, case.of, port))
    if case.hosts:
        socket.gethostname = lambda: case.hosts[rank]
    try:
        with start_world("cpu", wait_minutes=SHORT) as world:
            KINDS[case.kind](world, folder / name)
    except PeerLost as error:
        said = f"{error.speaks}: {error}"
    (folder / f"{name}-{rank}").write_text(said)
    os._exit(0)  # the others are gone: there is no group to leave


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    train(
        Config(run=RunSettings(out=str(folder / "alone")), dropout=0.0), ALONE
    )  # children find all imported
    children: dict[tuple[str, int], int] = {}
    for name, case in CASES.items():
        port = free_port()
        for rank in range(case.size):
            output = folder / f"{name}-{rank}.out"
            children[name, rank] = fork(partial(one, name, rank, port, folder), output)
    for (name, rank), child in children.items():
        if rank != 1:
            assert ended(child) == 0, (folder / f"{name}-{rank}.out").read_text()
    for (_, rank), child in children.items():
        if rank == 1:
            os.kill(child, signal.SIGKILL)
            ended(child)


if __name__ == "__main__":
    main()
