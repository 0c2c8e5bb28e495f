"""The page of objectives says what the code says, and every objective has its paragraph."""

from pathlib import Path

import pytest

from prefloop.loop.objective_step import find_objective
from prefloop.losses.objectives import OBJECTIVES
from tests.objectives import FAMILIES, PAGE, page

DOCS = PAGE.parent


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.objectives"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_its_paragraph(name: str) -> None:
    family = (DOCS / FAMILIES[OBJECTIVES[name].data][1]).read_text(encoding="utf-8")
    assert f"| `{name}` |" in family


def test_the_example_of_a_loss_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = DOCS.parent / "examples"
    monkeypatch.chdir(folder)
    assert len((folder / "my_loss.py").read_text(encoding="utf-8").splitlines()) < 20
    found = find_objective("my_loss:cautious")
    assert (found.data, found.needs.reference, dict(found.settings)) == (
        "comparisons",
        True,
        {"beta": 0.1, "limit": 3.0},
    )
    assert Path("my_loss.py").exists()
