"""Models dealt over processes go the way of one process, though these have different numbers of micro-batches; and so do their checkpoints."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from prefloop.errors import InputError
from tests.algorithms.sharded import out_of
from tests.algorithms.small import CPU, assert_close, assert_same, settings, train, weights_of
from tests.runtime.processes import ROOT

EQUAL = ("sft", "reward_lora", "dpo", "ppo_lora", "grpo")
"""The others are in `make scale-test`."""
RESUMED, CHANGED, HYBRID = "ppo_lora:2,2:full", "sft:2,1,3:full", "sft:4:hybrid"


@pytest.fixture(scope="module")
def dealt(project: Path) -> Path:
    """The project, after all jobs have run in it."""
    jobs = [f"{name}:2:full" for name in EQUAL] + [RESUMED, CHANGED, HYBRID]
    command = [sys.executable, "-m", "tests.algorithms.sharded", str(project), *jobs]
    done = subprocess.run(command, cwd=ROOT, timeout=480, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return project


@pytest.mark.parametrize("name", EQUAL)
def test_dealt_over_two_processes_equals_one(name: str, dealt: Path, unbroken: Callable[[str], Path]) -> None:
    assert_close(dealt / out_of(f"{name}:2:full"), unbroken(name))


def test_dealt_over_machines_equals_one(dealt: Path, unbroken: Callable[[str], Path]) -> None:
    assert_close(dealt / out_of(HYBRID), unbroken("sft"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", EQUAL)
def test_each_process_holds_half_and_layers_stay_fused(name: str, rank: int, dealt: Path) -> None:
    seen = json.loads((dealt / f"{out_of(f'{name}:2:full')}.0.{rank}.json").read_text())
    assert 0.45 < seen["held"] / seen["all"] < 0.57  # a head of one row is whole on both
    assert seen["fused"] > 10


def test_resumed_is_equal_to_the_bit(dealt: Path) -> None:
    assert_same(dealt / out_of(RESUMED), dealt / out_of("ppo_lora:2:full"))


def test_other_numbers_of_processes_go_on(dealt: Path, unbroken: Callable[[str], Path]) -> None:
    assert_close(dealt / out_of(CHANGED), unbroken("sft"))


def test_a_checkpoint_holds_parts_of_the_optimiser_and_a_plain_model(dealt: Path) -> None:
    (checkpoint,) = sorted((dealt / out_of("sft:2:full") / "checkpoints").iterdir())
    assert len(list((checkpoint / "resume/dealt").glob("*.safetensors"))) == 2
    final = dealt / out_of("sft:2:full") / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert {file.name for file in final.glob("*.safetensors")} == {"model.safetensors"}
    assert len(weights_of(final)) == len(list(model.parameters()))


def test_what_cannot_be_dealt_is_refused(project: Path, tmp_path: Path) -> None:
    config = settings("trpo", project, out=str(tmp_path / "trpo"), compute=replace(CPU, shard="full"))
    with pytest.raises(InputError, match=r"compute\.shard is full, but trpo does not shard"):
        train(config)
    assert not (tmp_path / "trpo").exists()
