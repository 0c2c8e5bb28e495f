"""Processes that die on purpose. `python -m tests.runtime.trials FOLDER` does it all in children forked from one process that has PyTorch loaded.

Leaves `FOLDER/outcomes.json`, which `test_killed.py` looks at.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from prefloop.configs.common import RunSettings
from prefloop.runtime.checkpoint import Checkpoints
from prefloop.runtime.interrupt import Interrupted
from prefloop.runtime.journal import read_metrics
from prefloop.runtime.state import load_state, save_state
from prefloop.runtime.world import World
from tests.runtime.example import Config, train

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def fork(work: Callable[[], None], output: Path) -> int:
    """Start `work` in a child whose output goes to a file; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except Interrupted as stop:
        os.write(1, f"{stop}\n".encode())
        code = stop.exit_code
    except BaseException:
        os.write(1, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a child ended: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def save_for_ever(folder: Path) -> None:
    """Checkpoints of two files whose contents must agree, as fast as the disk takes them."""
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.clean()
    latest = checkpoints.latest()
    step = latest[0] if latest else 0
    while True:
        step += 1

        def write(new: Path) -> None:
            save_state({"step": step, "tensor": torch.full((5000,), float(step))}, new / "resume")  # noqa: B023
            (new / "step.txt").write_text(str(step))  # noqa: B023

        checkpoints.save(step, write)


def kill_while_saving(folder: Path, chance: random.Random) -> dict[str, int]:
    """SIGKILL at random moments: there must always be a latest checkpoint, whole, and never older than before."""
    outcome = {"kills": 0, "leftovers": 0, "latest": 0}
    for _ in range(15):
        child = fork(lambda: save_for_ever(folder), folder.with_suffix(".out"))
        before = outcome["latest"]
        wait_for(lambda: (Checkpoints(folder, keep=1).latest() or (0,))[0] > before)  # noqa: B023
        time.sleep(chance.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        latest = Checkpoints(folder, keep=1).latest()
        assert latest is not None
        step, path = latest
        state = load_state(path / "resume")
        assert state["step"] == step == int((path / "step.txt").read_text())
        assert torch.equal(state["tensor"], torch.full((5000,), float(step)))
        assert step >= outcome["latest"]
        outcome["latest"] = step
        outcome["kills"] += 1
        outcome["leftovers"] += any(p.name.startswith(".") for p in folder.iterdir())
    return outcome


def example(
    folder: Path, *, slow: float = 0.0, epochs: float = 8.0, save_every: int = 1
) -> Callable[[], None]:
    """The example's training, going on with whatever is there."""
    settings = RunSettings(out=str(folder), resume=True, save_every=save_every, tune=False)
    return lambda: void(train(Config(run=settings, epochs=epochs), ALONE, slow=slow))


def void(_: object) -> None: ...


def kill_while_training(folder: Path, chance: random.Random) -> dict[str, int]:
    """SIGKILL a run at random moments and resume it until it has ended by itself."""
    kills, output = 0, folder.with_suffix(".out")
    while not (folder / "final").exists():
        child = fork(example(folder, slow=0.005), output)
        if kills < 5:
            time.sleep(chance.random() * 0.25)
            os.kill(child, signal.SIGKILL)
        code = ended(child)
        assert code == 0 or (kills < 5 and code == -signal.SIGKILL), output.read_text()
        kills += code != 0
    return {"kills": kills}


def interrupt(folder: Path, number: int, *, times: int, pause: float) -> dict[str, object]:
    """Send a signal to a slow run once or more; how it ended."""
    output = folder.with_suffix(".out")
    metrics = folder / "metrics.jsonl"
    child = fork(example(folder, slow=1.5 if times > 1 and pause > 1 else 0.3, save_every=0), output)
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 1)
    for _ in range(times):
        os.kill(child, number)
        time.sleep(pause)
    return {
        "code": ended(child),
        "output": output.read_text(),
        "saved": Checkpoints(folder / "checkpoints", keep=1).steps(),
        "logged": [row["step"] for row in read_metrics(metrics)],
        "final": (folder / "final").exists(),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    example(
        folder / "unbroken"
    )()  # here, so that children find everything imported that a training imports on its way
    chance = random.Random()
    outcomes = {
        "saving": kill_while_saving(folder / "saving", chance),
        "training": kill_while_training(folder / "training", chance),
        "ctrl_c": interrupt(folder / "ctrl_c", signal.SIGINT, times=1, pause=0),
        "sigterm": interrupt(folder / "sigterm", signal.SIGTERM, times=1, pause=0),
        "doubled": interrupt(folder / "doubled", signal.SIGINT, times=2, pause=0.05),
        "twice": interrupt(folder / "twice", signal.SIGINT, times=2, pause=1.1),
    }
    child = fork(example(folder / "ctrl_c"), folder / "resumed.out")
    outcomes["resumed"] = {"code": ended(child), "output": (folder / "resumed.out").read_text()}
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
