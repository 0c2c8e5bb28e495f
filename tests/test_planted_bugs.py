"""The bugs that `python -m tests.plant` plants still fit the code, and its page lists them."""

from collections import Counter
from pathlib import Path

import pytest

from tests.plant import PAGE, REPOSITORY, planted, source_of
from tests.planted_bugs import PLANTS, Plant


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_every_bug_can_be_planted(plant: Plant) -> None:
    planted(plant, source_of(plant))
    for test in plant.tests:
        assert (REPOSITORY / "tests" / test.partition("::")[0]).exists(), test


def test_they_are_many_and_each_is_one_of_its_kind() -> None:
    assert len(PLANTS) >= 60
    assert max(Counter(plant.key for plant in PLANTS).values()) == 1
    places = {Path(plant.file).parts[0] for plant in PLANTS}
    assert places >= {"algorithms", "evaluation", "feedback", "data", "rollout", "runtime"}


def test_a_bug_that_no_longer_fits_is_an_error() -> None:
    plant = Plant(file="x.py", old="a = 1", new="a = 2", tests=(), what="")
    assert planted(plant, "a = 1\n") == "a = 2\n"
    for source in ("b = 1\n", "a = 1\na = 1\n"):
        with pytest.raises(ValueError, match="it must be there once"):
            planted(plant, source)
    with pytest.raises(ValueError, match="does not compile"):
        planted(Plant(file="x.py", old="a = 1", new="a = (", tests=(), what=""), "a = 1\n")


def test_the_page_lists_every_bug() -> None:
    written = PAGE.read_text(encoding="utf-8")
    rows = [line for line in written.splitlines() if line.startswith("| `")]
    assert len(rows) == len(PLANTS)
    for plant in PLANTS:
        assert any(row.startswith(f"| `{plant.file}` | {plant.what} | ") for row in rows), plant.what
    missed = sum(row.endswith("| **not found** |") for row in rows)
    assert missed <= 0.05 * len(PLANTS)
