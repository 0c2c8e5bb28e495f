"""The example loop: what a run leaves, and that a resumed run is the uninterrupted one, bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefloop.configs.common import RunSettings
from prefloop.runtime import update
from prefloop.runtime.checkpoint import Checkpoints
from prefloop.runtime.journal import read_metrics
from prefloop.runtime.state import load_state
from prefloop.runtime.world import World
from tests.runtime.example import Config, train

STEPS = 6  # 2 passes over 11 examples, 4 a step
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the code may catch it."""


def run(
    folder: Path, *, resume: bool = False, save_every: int = 1, keep: int = 100, **settings: float
) -> Path:
    config = Config(
        run=RunSettings(out=str(folder), resume=resume, save_every=save_every, keep=keep, tune=False),
        **settings,  # pyright: ignore[reportArgumentType]
    )
    return train(config, ALONE)


def run_until(folder: Path, step: int, monkeypatch: pytest.MonkeyPatch, *, save_every: int = 1) -> None:
    """Run, and die in the update after `step`."""
    real = update.Updater.step

    def dying(self: update.Updater, *args, **kwargs):
        if self.steps == step:
            raise Killed
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(update.Updater, "step", dying)
        with pytest.raises(Killed):
            run(folder, save_every=save_every)


def metrics_of(folder: Path) -> list[dict[str, float]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def assert_same_bits(a: object, b: object) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys()
        for key in a:
            assert_same_bits(a[key], b[key])
    else:
        assert a == b


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run(folder)
    return folder


def test_a_run_leaves_what_it_says(unbroken: Path) -> None:
    assert Checkpoints(unbroken / "checkpoints", keep=1).steps() == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in metrics_of(unbroken)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (unbroken / "final").iterdir()) == [
        "manifest.json",
        "model.safetensors",
    ]
    assert_same_bits(
        load_file(unbroken / "final/model.safetensors"),
        load_file(unbroken / "checkpoints/step-6/model.safetensors"),
    )
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["finished"]
    assert summary["steps"] == STEPS
    assert summary["peak_rss_mb"] > 10
    assert summary["metrics"]["error"] == metrics_of(unbroken)[-1]["error"]
    assert list((unbroken / "tensorboard").iterdir())


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_resumed_equals_uninterrupted_bit_for_bit_at_every_step(  # R1 R5
    step: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    if step < STEPS:
        run_until(folder, step, monkeypatch)
    else:
        run(folder)
    run(folder, resume=True)
    assert_same_bits(
        load_file(folder / "final/model.safetensors"), load_file(unbroken / "final/model.safetensors")
    )
    assert metrics_of(folder) == metrics_of(unbroken)
    for number in range(max(step, 1), STEPS + 1):
        mine = load_state(folder / f"checkpoints/step-{number}/resume")
        theirs = load_state(unbroken / f"checkpoints/step-{number}/resume")
        assert_same_bits(mine["algorithm"], theirs["algorithm"])
        assert_same_bits(mine["random"][0]["torch"], theirs["random"][0]["torch"])


def test_resume_at_epoch_boundary_trains_the_next_epoch(  # R2
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run_until(folder, STEPS // 2, monkeypatch)  # exactly one pass is done
    before = load_file(folder / f"checkpoints/step-{STEPS // 2}/model.safetensors")
    run(folder, resume=True)
    after = load_file(folder / "final/model.safetensors")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert_same_bits(after, load_file(unbroken / "final/model.safetensors"))


def test_finished_run_may_be_resumed_and_extended(unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder)
    run(folder, resume=True)  # nothing is left to do
    assert metrics_of(folder) == metrics_of(unbroken)
    run(folder, resume=True, epochs=3.0)
    assert [row["step"] for row in metrics_of(folder)] == list(range(1, 10))
    first, longer = (
        load_file(unbroken / "final/model.safetensors"),
        load_file(folder / "final/model.safetensors"),
    )
    assert not torch.equal(first["0.weight"], longer["0.weight"])
    log = (folder / "log.txt").read_text()
    assert "Nothing is left to do" in log
    assert "changed since the checkpoint: epochs: 2.0 -> 3.0" in log


def test_killed_run_says_how_many_steps_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    run_until(folder, 5, monkeypatch, save_every=3)
    assert [row["step"] for row in metrics_of(folder)] == [1, 2, 3, 4, 5]
    run(folder, resume=True, save_every=3)
    assert (
        "step 3 of 6; the 2 steps after it were not saved and are repeated"
        in (folder / "log.txt").read_text()
    )
    assert [row["step"] for row in metrics_of(folder)] == [1, 2, 3, 4, 5, 6]


def test_run_killed_before_its_first_checkpoint_starts_over(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run_until(folder, 2, monkeypatch, save_every=0)
    run(folder, resume=True, save_every=0)
    assert_same_bits(
        load_file(folder / "final/model.safetensors"), load_file(unbroken / "final/model.safetensors")
    )
    assert (
        "starting from the beginning; 2 steps were not saved and are repeated"
        in (folder / "log.txt").read_text()
    )


def test_logged_error_is_that_of_the_whole_batch(unbroken: Path, tmp_path: Path) -> None:  # N9
    folder = tmp_path / "run"
    run(folder, micro_batch_size=1, dropout=0.0)
    for row in metrics_of(folder):
        assert row["error"] == pytest.approx(row["loss"], rel=1e-6)
