"""How a step is cut into passes, and whether these are packed, changes nothing: not the gradients, not the metrics."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.algorithms.online_stages import NOISY, TOLERANCE
from tests.algorithms.small import CPU, STAGES, assert_close, samples_of, settings, train_and_keep_samples

WAYS = {
    "one_each": replace(CPU, micro_batch_tokens=1),
    "uneven": replace(CPU, micro_batch_tokens=30),
    "padded": replace(CPU, attention="padded"),
    "checkpointed": replace(CPU, gradient_checkpointing=True),
}


# Every stage in passes of one sequence, and in one of the other ways in turn: what these change is below the stages. `PREFLOOP_SEEDS=all` runs all.
_STAGES = [name for name in STAGES if name not in NOISY]
_CASES = [(name, way) for name in _STAGES for way in WAYS]
_IN_TURN = list(WAYS)[1:]
_FEWER = [
    case
    for at, name in enumerate(_STAGES)
    for case in ((name, "one_each"), (name, _IN_TURN[at % len(_IN_TURN)]))
]


@pytest.mark.parametrize(("name", "way"), _CASES if os.environ.get("PREFLOOP_SEEDS") == "all" else _FEWER)
def test_a_step_does_not_depend_on_its_passes(
    name: str, way: str, project: Path, unbroken: Callable[[str], Path]
) -> None:  # N1 N6 N8 M9 M11 M16 D6
    config = settings(name, project, out=f"{way}-{name}", compute=WAYS[way])
    train_and_keep_samples(config)
    out = Path(config.run.out)
    assert samples_of(out) == samples_of(unbroken(name))
    assert_close(out, unbroken(name), tolerance=TOLERANCE.get(name, 1e-5))
