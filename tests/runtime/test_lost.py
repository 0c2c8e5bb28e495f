"""A process that ends or does not come is named in one line, within the time that was set. Real processes, over gloo."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefloop.configs.common import Compute, RunSettings
from prefloop.errors import InputError
from prefloop.runtime.journal import read_metrics
from tests.runtime.example import Config, train
from tests.runtime.processes import run_module
from tests.runtime.trials import ALONE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes of all cases left."""
    made = tmp_path_factory.mktemp("lost")
    run_module("tests.runtime.lost", str(made), timeout=180)
    return made


def test_a_dead_process_is_named_with_the_way_to_go_on(folder: Path) -> None:
    said = (folder / "dies-0").read_text()
    assert said.startswith("True: process 1 of 2 ended while the others waited")
    out = folder / "dies/run"
    assert said.endswith(
        f"resume with: torchrun --nproc-per-node 2 -m prefloop example --config {out}/config.yaml --run.resume true"
    )
    assert "\n" not in said
    assert "process 1 of 2 ended" in (out / "log.txt").read_text()
    assert f"the checkpoint of step 2 is in {out}/checkpoints/step-2; " in said
    train(
        Config(run=RunSettings(out=str(out), resume=True), dropout=0.0), ALONE
    )  # it does go on, where the others were lost
    steps = [row["step"] for row in read_metrics(out / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert "resuming from" in (out / "log.txt").read_text()
    ours, theirs = (load_file(run / "final/model.safetensors") for run in (out, folder / "alone"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_step_whose_update_is_done_is_no_checkpoint_until_it_has_ended(folder: Path) -> None:
    said = (folder / "moves-0").read_text()
    assert said.startswith("True: process 1 of 2 ended while the others waited")
    assert "checkpoint" not in said
    assert not (folder / "moves/run/checkpoints").exists()


def test_of_three_the_one_that_does_not_come_is_named(folder: Path) -> None:
    said = [(folder / f"hangs-{rank}").read_text() if rank != 1 else "" for rank in range(3)]
    assert said[0].startswith(
        "True: process 1 on gpu-2 of 3 did not come within 0.2 minutes (compute.wait_minutes)"
    )
    assert said[2].startswith("False: process 1 on gpu-2 of 3 ")


def test_of_three_the_one_that_ended_is_named(folder: Path) -> None:
    said = [(folder / f"ends-{rank}").read_text() if rank != 1 else "" for rank in range(3)]
    assert said[0].startswith("True: process 1 of 3 ")
    assert said[2].startswith("False: process 1 of 3 ")


def test_where_the_ended_process_says_what_was_wrong_the_others_do_not(folder: Path) -> None:
    assert (folder / "refuses-0").read_text().startswith("False: process 1 of 2 ended")


def test_a_process_that_is_never_started_is_waited_for_no_longer_than_set(folder: Path) -> None:
    said = (folder / "absent-0").read_text()
    assert said.startswith("True: ")
    assert "within 0.2 minutes (compute.wait_minutes)" in said
    assert "\n" not in said


@pytest.mark.parametrize("minutes", [0.0, -1.0, 1e9, float("nan")])
def test_the_time_to_wait_is_sensible(minutes: float) -> None:
    with pytest.raises(InputError, match=r"compute\.wait_minutes"):
        Compute(wait_minutes=minutes)
