"""`prefloop align` that is killed and resumed, or shared by two processes, says what one process says that nothing stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.align_processes import KILLED_AT
from tests.runtime.processes import run_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three projects."""
    made = tmp_path_factory.mktemp("align")
    run_module("tests.recipes.align_processes", str(made), timeout=300)
    return made


def said(project: Path) -> dict[str, Any]:
    """What a project found, without the time that it took."""
    numbers = json.loads((project / "align.json").read_text())
    return {name: value for name, value in numbers.items() if name != "stages"}


def test_killed_and_resumed_it_reports_the_same(folder: Path) -> None:
    steps = [
        json.loads(line)["step"] for line in (folder / "killed/dpo/metrics.jsonl").read_text().splitlines()
    ]
    assert len(steps) > KILLED_AT
    assert steps == sorted(set(steps))
    assert said(folder / "killed") == said(folder / "whole")
    weights = [(folder / name / "dpo/final/model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_two_processes_report_what_one_does(folder: Path) -> None:
    one, two = said(folder / "whole"), said(folder / "shared")
    assert two["judge"] == one["judge"]
    assert two["judge_quality"]["accuracy"]["n"] == one["judge_quality"]["accuracy"]["n"]
    accuracies = [each["judge_quality"]["accuracy"]["value"] for each in (one, two)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)
    assert two["policies"][0]["wins"]["n"] == one["policies"][0]["wins"]["n"]
    data = [(folder / name / "data/policy.jsonl").read_text() for name in ("whole", "shared")]
    assert data[0] == data[1]
    assert (folder / "shared/report.html").exists()
