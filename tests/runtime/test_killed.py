"""Runs that are killed, and runs that are asked to stop."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefloop.runtime.journal import read_metrics
from tests.runtime.processes import run_module

STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("trials")
    run_module("tests.runtime.trials", str(where), timeout=240)
    return where


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "outcomes.json").read_text())


def test_kill_at_any_write_leaves_a_whole_latest_checkpoint(outcomes: dict[str, Any]) -> None:  # R7
    # The trials check each checkpoint; here, that the kills did fall into the middle of writing.
    assert outcomes["saving"]["kills"] == 15
    assert outcomes["saving"]["latest"] >= 15
    assert outcomes["saving"]["leftovers"] > 0


def test_run_killed_again_and_again_ends_as_the_unbroken_one(
    folder: Path, outcomes: dict[str, Any]
) -> None:  # R1
    assert outcomes["training"]["kills"] > 0
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        broken = load_file(folder / "training/final/model.safetensors")[name]
        assert torch.equal(broken, load_file(folder / "unbroken/final/model.safetensors")[name])
    rows = [read_metrics(folder / name / "metrics.jsonl") for name in ("training", "unbroken")]
    for ours, theirs in zip(*rows, strict=True):
        assert {**ours, "time": 0} == {**theirs, "time": 0}


@pytest.mark.parametrize("name", ["ctrl_c", "sigterm", "doubled"])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    name: str, folder: Path, outcomes: dict[str, Any]
) -> None:
    outcome = outcomes[name]
    assert outcome["code"] == 130, outcome["output"]
    (step,) = outcome["saved"]
    assert 1 <= step < STEPS
    assert outcome["logged"] == list(range(1, step + 1))
    assert not outcome["final"]
    assert "stopping: finishing this step" in outcome["output"]
    config = folder / name / "config.yaml"
    assert f"stopped after step {step} of {STEPS}" in outcome["output"]
    assert f"resume with: prefloop example --config {config} --run.resume true" in outcome["output"]


def test_an_interrupted_run_goes_on_to_the_same_end(folder: Path, outcomes: dict[str, Any]) -> None:  # R1
    assert outcomes["resumed"]["code"] == 0, outcomes["resumed"]["output"]
    ours, theirs = (load_file(folder / name / "final/model.safetensors") for name in ("ctrl_c", "unbroken"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_second_signal_stops_at_once(outcomes: dict[str, Any]) -> None:
    assert outcomes["twice"]["code"] == -signal.SIGINT
    assert outcomes["twice"]["saved"] == []
