"""Two gloo processes go the way of one, though no batch divides by two and the last of an epoch may be a single example."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.algorithms.online_stages import IN_ENVIRONMENT, NOISY, TOLERANCE
from tests.algorithms.small import STAGES, assert_close, samples_of
from tests.runtime.processes import run_module

WITH_ADAPTERS = (
    *("reward_lora", "dpo_lora", "ppo_lora", "ppo_lora_shared"),
    *("nash_md_lora", "ilql_lora", "distill_lora"),
)
"""Stages that are others with an adapter: `sft_lora` and `rloo_lora` show that processes add up an adapter's gradients."""
TOGETHER = [name for name in (*STAGES, *IN_ENVIRONMENT) if name not in NOISY + WITH_ADAPTERS]


@pytest.fixture(scope="module")
def two(project: Path) -> Path:
    """The project, after every stage has run in it in two processes."""
    run_module("tests.algorithms.ranks", str(project), *TOGETHER, timeout=480)
    return project


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_equal_one(name: str, two: Path, unbroken: Callable[[str], Path]) -> None:  # N3 M10
    assert_close(two / f"two-{name}", unbroken(name), tolerance=TOLERANCE.get(name, 1e-5))


@pytest.mark.parametrize("name", [name for name in TOGETHER if name.startswith("ppo") and name in STAGES])
def test_two_processes_draw_the_same_completions(
    name: str, two: Path, unbroken: Callable[[str], Path]
) -> None:  # D7
    whole = samples_of(unbroken(name))
    assert samples_of(two / f"two-{name}") == whole
    assert len(whole) == 3 + 3 + 1 + 3  # prompts of each step
    assert len({str(sample) for samples in whole.values() for sample in samples}) > 10
