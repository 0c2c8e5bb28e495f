"""Sharded models learn what one process would, though processes have different numbers of micro-batches; and their checkpoints go on exactly."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from prefloop.algorithms.sample import sample_completions
from prefloop.configs.common import Data
from prefloop.configs.sample import SampleConfig
from prefloop.errors import InputError
from tests.algorithms.online_stages import NOISY
from tests.algorithms.sharded import out_of
from tests.algorithms.small import CPU, assert_close, assert_same, weights_of
from tests.runtime.namespaces import why_not
from tests.runtime.processes import run_module

EQUAL = {
    "sft": "sft:2:full",
    "reward_lora": "reward_lora:2:full:offload",
    "dpo": "dpo:2:full:recompute",
    "ppo_lora": "ppo_lora:2:full",
    "grpo": "grpo:2:full",
    "trpo": "trpo:2:full",
    "ilql": "ilql:2:full",
}
"""The others are in `make scale-test`."""
APART = {
    "sft": "sft:2,2:full:apart",
    "dpo": "dpo:2:none:apart",
    "ppo_lora": "ppo_lora:2:full:apart",
    "grpo": "grpo:2:none:apart",
}
"""On two machines, of which the second does not have the folder: a resumed run, a cache, adapters with their base, a reward model."""
WHOLE, RESUMED = "reward:2:full:bfloat16", "reward:2,2:full:bfloat16"
CHANGED, HYBRID = "sft:2,1,3:full", "sft:4:hybrid"


@pytest.fixture(scope="module")
def sharded(project: Path) -> Path:
    """The project, after all jobs have run in it."""
    jobs = [*EQUAL.values(), WHOLE, RESUMED, CHANGED, HYBRID]
    run_module("tests.algorithms.sharded", str(project), *jobs, timeout=900)
    return project


@pytest.mark.parametrize("name", EQUAL)
def test_sharded_over_two_processes_equals_one(
    name: str, sharded: Path, unbroken: Callable[[str], Path]
) -> None:
    assert_close(sharded / out_of(EQUAL[name]), unbroken(name), tolerance=1e-3 if name in NOISY else 1e-5)


@pytest.fixture(scope="module")
def apart(project: Path) -> Path:
    """The project, after these jobs have run in it on two machines."""
    fault = why_not(project)
    if fault:
        pytest.skip(f"no folder can be hidden from a process here: {fault}")
    run_module("tests.algorithms.sharded", str(project), *APART.values(), timeout=900)
    return project


@pytest.mark.parametrize("name", APART)
def test_a_machine_without_the_folder_takes_part(
    name: str, apart: Path, unbroken: Callable[[str], Path]
) -> None:
    out = apart / out_of(APART[name])
    assert_close(out, unbroken(name))
    log = (out / "log.txt").read_text()
    assert "2 machines (" in log
    assert "the run's folder is not seen on " in log
    assert re.search(r"as it is here: process 0 sent it, [0-9.]+ [kM]B", log)


def test_sharded_over_machines_equals_one(sharded: Path, unbroken: Callable[[str], Path]) -> None:
    assert_close(sharded / out_of(HYBRID), unbroken("sft"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", EQUAL)
def test_each_process_holds_half_and_layers_stay_fused(name: str, rank: int, sharded: Path) -> None:
    seen = json.loads((sharded / f"{out_of(EQUAL[name])}.0.{rank}.json").read_text())
    assert 0.45 < seen["held"] / seen["all"] < 0.57  # a head of one row is whole on both
    assert seen["fused"] > 5  # passes of a layer; 0 if it ran as transformers has it


def test_resumed_is_equal_to_the_bit(sharded: Path) -> None:
    assert_same(sharded / out_of(RESUMED), sharded / out_of(WHOLE))


def test_other_numbers_of_processes_go_on(sharded: Path, unbroken: Callable[[str], Path]) -> None:
    assert_close(sharded / out_of(CHANGED), unbroken("sft"))


def test_a_checkpoint_holds_parts_of_the_optimiser_and_a_plain_model(sharded: Path) -> None:
    (checkpoint,) = (sharded / out_of("sft:2:full") / "checkpoints").iterdir()
    assert len(list((checkpoint / "resume/dealt").glob("*.safetensors"))) == 2
    final = sharded / out_of("sft:2:full") / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert {file.name for file in final.glob("*.safetensors")} == {"model.safetensors"}
    assert len(weights_of(final)) == len(list(model.parameters()))


def test_what_cannot_be_sharded_is_refused(project: Path, tmp_path: Path) -> None:
    config = SampleConfig(
        store=str(tmp_path / "store.db"),
        data=Data(source=str(project / "prompts.jsonl")),
        model=str(project / "start"),
        compute=replace(CPU, shard="full"),
    )
    with pytest.raises(InputError, match=r"compute\.shard is full, but this command does not shard"):
        sample_completions(config)
