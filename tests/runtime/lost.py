"""What `test_lost.py` runs in several processes, one of which ends, or does not come: `python -m tests.runtime.lost KIND FOLDER`.

Every process prints what it hears, and whether it is the one to say it.
"""

import os
import socket
import sys
import time
from pathlib import Path

from prefloop.configs.common import RunSettings
from prefloop.errors import PeerLost
from prefloop.runtime.world import World, speak, start_world
from tests.runtime.example import Config, train

SHORT = 0.2
"""Minutes."""


def dies(world: World, folder: Path) -> None:
    """Process 1 is killed in the third step."""
    from prefloop.runtime.update import Updater

    real = Updater.step

    def step(self: Updater, *args, **kwargs):
        if world.rank == 1 and self.steps == 2:
            os._exit(9)
        return real(self, *args, **kwargs)

    Updater.step = step
    train(Config(run=RunSettings(out=str(folder / "run"), save_every=1)), world)


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


KINDS = {"dies": dies, "hangs": hangs, "ends": ends, "refuses": refuses}


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if host := os.environ.get("TEST_HOST"):
        socket.gethostname = lambda: host
    try:
        with start_world("cpu", wait_minutes=SHORT) as world:
            KINDS[kind](world, folder)
    except PeerLost as error:
        print(f"{error.speaks}: {error}")
    sys.stdout.flush()
    os._exit(0)  # the others are gone: there is no group to leave


if __name__ == "__main__":
    main()
