"""What `test_world.py` runs in two processes: every check asserts on every rank; files in the folder given are compared by the test."""

import math
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from prefloop.configs.common import Optim, RunSettings
from prefloop.errors import InputError
from prefloop.runtime.metrics import Metrics
from prefloop.runtime.optim import ParameterGroup
from prefloop.runtime.state import save_state
from prefloop.runtime.update import Updater
from prefloop.runtime.world import World, start_world
from tests.runtime.example import Config, train


def collectives(world: World) -> None:
    one = torch.tensor([1.0, 10.0]) * (world.rank + 1)
    assert world.sum(one).tolist() == [3.0, 30.0]
    assert one.tolist() == [1.0 * (world.rank + 1), 10.0 * (world.rank + 1)]
    assert world.sum_float(0.1 * (world.rank + 1)) == 0.1 + 0.2
    assert world.max_float(float(world.rank)) == 1.0
    assert world.gather_objects({"rank": world.rank}) == [{"rank": 0}, {"rank": 1}]
    assert world.broadcast_object(f"from {world.rank}") == "from 0"
    assert world.share(range(5)) == ([0, 2, 4] if world.is_main else [1, 3])
    world.barrier()


def errors(world: World) -> None:
    done: list[int] = []
    assert world.on_main(lambda: done.append(world.rank) or "result") == "result"
    assert done == ([0] if world.is_main else [])

    def fail_on(rank: int) -> str:
        if world.rank == rank:
            raise InputError(f"disk full on {rank}")
        return "fine"

    assert raised(lambda: world.on_main(lambda: fail_on(0))) == "disk full on 0"
    assert raised(lambda: world.together(lambda: fail_on(1))) == "disk full on 1"
    assert world.together(lambda: fail_on(2)) == "fine"


def raised(work) -> str:
    try:
        work()
    except (InputError, RuntimeError) as error:
        return str(error)
    return "nothing"


def gradients(world: World) -> None:
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad = torch.tensor([1.0, 2.0]) * (world.rank + 1)
    if world.is_main:
        b.grad = torch.tensor([5.0, 6.0])
    world.sum_gradients([a, b, c])
    assert [p.grad.tolist() for p in (a, b, c) if p.grad is not None] == [[3.0, 6.0], [5.0, 6.0], [0.0, 0.0]]
    half = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    half.grad = torch.tensor([256.0 if world.is_main else 1.0], dtype=torch.bfloat16)
    wide = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    wide.grad = torch.tensor([1e-12 + world.rank], dtype=torch.float64)
    world.sum_gradients([half, wide])
    assert abs(wide.grad.item() - (1 + 2e-12)) < 1e-15


def modules(world: World) -> None:
    torch.manual_seed(world.rank)
    linear = nn.Linear(3, 2)
    linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)  # not contiguous
    linear.register_buffer("mean", torch.full((2,), float(world.rank)))
    module = nn.Sequential(linear)
    own = linear.weight.detach().clone()
    assert "differ in 0.weight" in raised(lambda: world.check_equal(module))
    world.broadcast_module(module)
    world.check_equal(module)
    assert torch.equal(linear.weight, own) == world.is_main
    assert linear.get_buffer("mean").tolist() == [0.0, 0.0]
    other = nn.Linear(2, 1 + world.rank)
    assert "different modules" in raised(lambda: world.broadcast_module(other))


def metrics(world: World) -> None:
    both = Metrics()
    both.add("shared", 2.0 if world.is_main else 10.0, 1 if world.is_main else 3)
    both.add(f"only on {world.rank}", torch.tensor(6.0), 2)
    both.add("nothing", 0.0, 0)
    means = both.reduce(world)
    assert list(means) == ["nothing", "only on 0", "only on 1", "shared"]
    assert [means[name] for name in list(means)[1:]] == [3.0, 3.0, 3.0]
    assert math.isnan(means["nothing"])
    assert Metrics().reduce(world) == {}


def uneven_updates(world: World, folder: Path) -> None:
    """Rank 0 has all rows but one, then all; a step's rows are those of the test, which does the same in one process."""
    torch.manual_seed(world.rank)
    model = nn.Linear(3, 1)
    world.broadcast_module(model)
    updater = make_updater(model, world, folder)
    for step in range(3):
        rows = batch(step)
        mine = (
            ([rows[:4], rows[4:5]] if world.is_main else [rows[5:]]) if step < 2 else [rows] * world.is_main
        )
        updater.step(mine, lambda m: model(m).square().sum() / 6, replay=dict)
    world.check_equal(model)
    if world.is_main:
        save_state(dict(model.state_dict()), folder / "uneven")


def make_updater(model: nn.Module, world: World, folder: Path) -> Updater:
    group = ParameterGroup.of(model, Optim(lr=0.1, max_grad_norm=0.5))
    return Updater([group], total_steps=9, world=world, dump_folder=folder / "nonfinite", max_nonfinite=2)


def batch(step: int) -> torch.Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(step))


def not_finite_on_one(world: World, folder: Path) -> None:
    model = nn.Linear(3, 1)
    world.broadcast_module(model)
    updater = make_updater(model, world, folder)
    before = model.weight.detach().clone()
    factor = 1.0 if world.is_main else math.nan
    replay = partial(dict, rank=world.rank)
    result = updater.step([batch(0)], partial(spoiled, model, factor), replay=replay)
    assert result.skipped
    assert torch.equal(model.weight, before)
    loss = partial(spoiled, model, factor)
    assert "2 in a row" in raised(lambda: updater.step([batch(0)], loss, replay=replay))


def spoiled(model: nn.Module, factor: float, rows: torch.Tensor) -> torch.Tensor:
    return model(rows).sum() * factor


def trained(world: World, folder: Path) -> None:
    """The example; and with dropout, once in one go and once broken off after three steps and resumed."""

    def settings(name: str, *, resume: bool = False) -> RunSettings:
        return RunSettings(out=str(folder / name), save_every=1, keep=99, resume=resume)

    train(Config(run=settings("run"), dropout=0.0), world)
    assert "already holds a run" in raised(lambda: train(Config(run=settings("run"), dropout=0.0), world))
    train(Config(run=settings("unbroken")), world)
    real = Updater.step

    def dying(self: Updater, *args, **kwargs):
        if self.steps == 3:
            raise RuntimeError("dying")
        return real(self, *args, **kwargs)

    Updater.step = dying
    assert raised(lambda: train(Config(run=settings("broken")), world)) == "dying"
    Updater.step = real
    train(Config(run=settings("broken", resume=True)), world)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with start_world("cpu") as world:
        assert world.size == 2
        collectives(world)
        errors(world)
        gradients(world)
        modules(world)
        metrics(world)
        uneven_updates(world, folder)
        not_finite_on_one(world, folder)
        trained(world, folder)
    # A thread of gloo's that outlives the group aborts the process now and then while Python is torn down.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


if __name__ == "__main__":
    main()
