from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from prefloop.configs.common import RunSettings
from prefloop.errors import InputError
from prefloop.runtime import world as world_module
from prefloop.runtime.journal import read_metrics
from prefloop.runtime.state import load_state
from prefloop.runtime.world import World, start_world
from tests.runtime.example import Config, train
from tests.runtime.processes import run_processes
from tests.runtime.ranks import batch, make_updater

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes wrote, after all their own checks have passed."""
    folder = tmp_path_factory.mktemp("two")
    run_processes(2, "tests.runtime.ranks", str(folder))
    return folder


def test_uneven_micro_batches_on_two_processes_equal_one(two: Path, tmp_path: Path) -> None:  # N3 N1
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    updater = make_updater(model, ALONE, tmp_path)
    for step in range(3):
        updater.step([batch(step)], lambda m: model(m).square().sum() / 6, replay=dict)
    torch.testing.assert_close(load_state(two / "uneven"), dict(model.state_dict()), rtol=1e-6, atol=1e-6)


def test_example_trains_alike_on_one_and_two_processes(two: Path, tmp_path: Path) -> None:  # N3 N9
    train(Config(run=RunSettings(out=str(tmp_path / "run")), dropout=0.0), ALONE)
    expected = load_file(tmp_path / "run/final/model.safetensors")
    torch.testing.assert_close(load_file(two / "run/final/model.safetensors"), expected, rtol=1e-6, atol=1e-6)
    rows = zip(
        read_metrics(two / "run/metrics.jsonl"), read_metrics(tmp_path / "run/metrics.jsonl"), strict=True
    )
    for ours, theirs in rows:
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"time"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


def test_two_processes_resume_bit_for_bit(two: Path) -> None:  # R1
    unbroken, broken = (load_file(two / name / "final/model.safetensors") for name in ("unbroken", "broken"))
    assert all(torch.equal(unbroken[name], broken[name]) for name in unbroken)
    assert len(load_state(two / "broken/checkpoints/step-6/resume")["random"]) == 2


def test_a_step_not_finite_on_one_process_is_dumped_by_all(two: Path) -> None:
    for rank in (0, 1):
        assert load_state(two / f"nonfinite/step-2/rank-{rank}")["batch"] == {"rank": rank}
    assert (two / "nonfinite/step-2/weights").is_dir()


@given(items=st.lists(st.integers(), max_size=20), size=st.integers(1, 7))
def test_shares_take_every_item_once_and_evenly(items: list[int], size: int) -> None:  # N8 D8
    shares = [World(rank=rank, size=size, device=CPU).share(items) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_does_nothing() -> None:
    parameter = nn.Parameter(torch.ones(1))
    ALONE.sum_gradients([parameter])
    assert parameter.grad is None
    one = torch.ones(2, requires_grad=True)
    total = ALONE.sum(one)
    assert total is not one
    assert not total.requires_grad
    assert ALONE.sum_float(2) == ALONE.max_float(2) == 2.0
    assert ALONE.gather_objects("x") == ["x"]
    assert ALONE.broadcast_object("x") == "x"
    assert ALONE.on_main(lambda: 1) == ALONE.together(lambda: 1) == 1
    ALONE.barrier()
    ALONE.check_equal(nn.Linear(1, 1))
    ALONE.close()
    with pytest.raises(InputError, match="full"):
        ALONE.on_main(lambda: fail("full"))


def fail(message: str) -> None:
    raise InputError(message)


def test_buckets_hold_everything_in_order() -> None:
    tensors = [torch.zeros(n) for n in (3, 2, 9, 1, 1)]
    buckets = [[t.numel() for t in bucket] for bucket in world_module._buckets(tensors, 5)]
    assert buckets == [[3, 2], [9], [1, 1]]


def test_start_without_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    world = start_world("cpu")
    assert (world.rank, world.size, world.is_main, world.device) == (0, 1, True, CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start_world("auto").device == CPU
    with pytest.raises(InputError, match=r"compute\.device is cuda"):
        start_world("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"--nproc-per-node 2"):
        start_world("auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="RANK is not set"):
        start_world("cpu")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE is 'two'"):
        start_world("cpu")
