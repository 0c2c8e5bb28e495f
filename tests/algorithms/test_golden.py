"""The first steps of every stage on the small project, number by number, as they were when the formulas were checked by hand and against
float64 references (`tests/losses`, `tests/models`). A change of formula, data order, seed or default shows here.

`python -m tests.algorithms.test_golden FOLDER` runs every stage in FOLDER and prints what differs from `golden.json`, to the last bit: nothing,
after a change that only moves code. If a change of numbers is meant, add `--write` and say in the change log why they moved.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.algorithms.prefer_settings import SHARED, shared_settings
from tests.algorithms.small import STAGES, close, make_project, metrics_of, settings, train

FILE = Path(__file__).with_name("golden.json")
"""Stage -> metric -> its values in the first steps, null where a step has not logged it, as the policy's while only the critic learns."""
STEPS = 4
TOLERANCE = 1e-4
NOISY = {"trpo": 1e-2}
"""Stages that enlarge float noise: TRPO's Fisher products are differences of gradients that lie close together."""
NOISE = ("ratio", "ratio_mean", "step", "sampler_gap", "sampler_gap_max")
"""Metrics that are float noise themselves, or say nothing."""
OBJECTIVES = tuple(f"prefer-{loss}" for loss in SHARED)
GOLDEN: dict[str, dict[str, list[float | None]]] = json.loads(FILE.read_text()) if FILE.exists() else {}


def test_every_stage_has_its_numbers() -> None:
    assert set(GOLDEN) == {*STAGES, *OBJECTIVES}
    assert all(GOLDEN.values())


@pytest.mark.parametrize("name", STAGES)
def test_first_steps(name: str, unbroken: Callable[[str], Path]) -> None:  # N5 N7 K15
    assert not wrong(name, values_of(unbroken(name)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_first_steps_of_objectives(name: str, project: Path) -> None:  # N5 N7 K15
    assert not wrong(name, values_of(train(config_of(name, project, out=f"golden-{name}")).parent))


def wrong(name: str, observed: dict[str, list[float | None]]) -> dict[str, Any]:
    """Metric -> observed and expected values, where they are further apart than float noise; a metric that only one side has."""
    expected, tolerance = GOLDEN[name], NOISY.get(name, TOLERANCE)
    return {
        metric: (observed.get(metric), expected.get(metric))
        for metric in observed.keys() | expected.keys()
        if metric not in observed
        or metric not in expected
        or not all(
            same(a, b, tolerance) or (metric == "accuracy" and undecided(expected, step))
            for step, (a, b) in enumerate(zip(observed[metric], expected[metric], strict=True))
        )
    }


def same(a: float | None, b: float | None, tolerance: float) -> bool:
    return a is b if a is None or b is None else close(a, b, tolerance)


def undecided(expected: dict[str, list[float | None]], step: int) -> bool:
    """Whether all margins are zero, as before the first update from the reference: which is larger is then noise."""
    margin = expected.get("margin", [None] * STEPS)[step]
    return margin is not None and abs(margin) < TOLERANCE


def values_of(out: Path) -> dict[str, list[float | None]]:
    """Every metric of a run in its first steps."""
    rows = metrics_of(out)[:STEPS]
    names = dict.fromkeys(name for row in rows for name in row if name not in NOISE)
    return {name: [number(row.get(name)) for row in rows] for name in names}


def number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else value


def config_of(name: str, project: Path, *, out: str) -> Any:
    """The configuration of a stage, or of the objective behind `prefer-`."""
    if name in OBJECTIVES:
        return shared_settings(project, project / out, name.removeprefix("prefer-"))
    return settings(name, project, out=out)


def measured(folder: Path) -> Iterator[tuple[str, dict[str, list[float | None]]]]:
    """Every stage, run from the start."""
    project = make_project(folder)
    for name in (*STAGES, *OBJECTIVES):
        train(config_of(name, project, out=f"golden-{name}"))
        yield name, values_of(project / f"golden-{name}")


def main(folder: Path, *, write: bool) -> int:
    """Compare to the last bit, or write. The number of stages that differ."""
    torch.set_num_threads(1)
    found = dict(measured(folder))
    if write:
        rows = (f"{json.dumps(name)}: {lines(metrics)}" for name, metrics in found.items())
        FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
        return 0
    moved = {name: metrics for name, metrics in found.items() if metrics != GOLDEN.get(name)}
    for name, metrics in moved.items():
        before = GOLDEN.get(name, {})
        for metric in dict.fromkeys([*metrics, *before]):
            if metrics.get(metric) != before.get(metric):
                print(f"{name} {metric}: {before.get(metric)} -> {metrics.get(metric)}")
    print(f"{len(moved)} of {len(found)} stages differ")
    return len(moved)


def lines(metrics: dict[str, list[float | None]]) -> str:
    return (
        "{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in metrics.items())
        + "\n}"
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), write="--write" in sys.argv) > 0)
