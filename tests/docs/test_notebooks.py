"""The notebooks run from top to bottom, and are kept without outputs."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.tiny_project import make_model

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_of(notebook: Path) -> list[dict[str, Any]]:
    """Its cells of code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the names of a notebook stand for after its last cell."""
    module = ModuleType(notebook.stem)
    monkeypatch.setitem(sys.modules, notebook.stem, module)
    for number, cell in enumerate(code_of(notebook), start=1):
        exec(compile("".join(cell["source"]), f"{notebook.name}[{number}]", "exec"), vars(module))
    return vars(module)


@pytest.fixture(autouse=True)
def _tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("PREFLOOP_MODEL", str(make_model(tmp_path / "start")))
    monkeypatch.chdir(tmp_path)


def test_there_are_two() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["align", "own_algorithm"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_outputs_are_not_kept(notebook: Path) -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_of(notebook))


def test_align(monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(FOLDER / "align.ipynb", monkeypatch)
    losses = names["run"].metrics.column("loss")
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < losses[0]


def test_own_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(FOLDER / "own_algorithm.ipynb", monkeypatch)
    scores = names["run"].metrics.column("score")
    assert len(scores) == 12
    assert sum(scores[-3:]) / 3 > scores[0]
