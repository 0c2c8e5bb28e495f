"""Training on completions of a server with SGLang's routes: a double of it, written by its public source."""

# ruff: noqa: F811  the fixtures of another file are named as the arguments that take them

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import LoRA
from prefloop.errors import InputError
from tests.algorithms.small import metrics_of, train
from tests.loop.test_engine import grpo, impatient, project  # noqa: F401  fixtures
from tests.rollout.engine_double import EngineDouble, SGLangDouble


@pytest.fixture
def sglang(project: Path) -> Iterator[SGLangDouble]:
    double = SGLangDouble(project / "start")
    yield double
    double.stop()


@pytest.mark.parametrize("lora", [LoRA(), LoRA(rank=2, alpha=8.0)], ids=["disk", "adapter"])
def test_it_draws_with_the_weights_of_each_step(
    project: Path, tmp_path: Path, sglang: SGLangDouble, lora: LoRA
) -> None:
    train(grpo(project, tmp_path / "run", sglang, steps=3, lora=lora))
    rows = metrics_of(tmp_path / "run")
    assert all(0 < row["engine_gap_max"] < 1e-4 and row["sampler_gap_max"] < 1e-4 for row in rows)
    drawn = [body for body in sglang.asked("/generate") if body["sampling_params"]["max_new_tokens"] == 5]
    assert len({body["sampling_params"]["sampling_seed"] for body in drawn}) >= 3 * 3 * 3
    assert all(
        "ignore_eos" not in body["sampling_params"] for body in drawn
    )  # it would ignore our stop tokens too
    if lora.on:
        assert {body["lora_path"].rpartition("-")[2] for body in drawn} == {"v0", "v1", "v2"}
        assert sglang.loras == {}
    else:
        assert all("lora_path" not in body for body in drawn)
        assert [body["weight_version"][-2:] for body in sglang.asked("/update_weights_from_disk")] == [
            *("v0", "v1", "v2"),
        ]


def test_an_adapter_is_loaded_again_where_the_first_attempt_came_through(
    project: Path, tmp_path: Path, sglang: SGLangDouble
) -> None:
    times = []

    def spoils(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        times.append(1)
        return (500, "busy") if len(times) == 1 else None  # of the first comparison

    def loads(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        if len(double.asked("/load_lora_adapter")) > 1:
            return None
        double.loras[body["lora_name"]] = Path(body["lora_path"])
        return 500, "loaded, but the answer was lost"

    sglang.faults = {"/generate": spoils, "/load_lora_adapter": loads}
    train(grpo(project, tmp_path / "run", sglang, steps=1, lora=LoRA(rank=2)))
    assert len(sglang.asked("/load_lora_adapter")) == 2


def test_an_end_token_that_is_not_ours_is_said(project: Path, tmp_path: Path, sglang: SGLangDouble) -> None:
    """It ends completions at the model's own end tokens too, whatever a request names."""

    def ends(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any]:
        status, answer = sglang._generate(body)
        about = answer["meta_info"]
        about["output_token_logprobs"] = [[-1.0, 7, None]]
        about["finish_reason"] = {"type": "stop", "matched": 7}
        return status, answer

    sglang.faults["/generate"] = ends
    with pytest.raises(InputError, match="ends with token 7, which is not a stop token"):
        train(grpo(project, tmp_path / "run", sglang, steps=1))


def test_interrupted_completions_go_on(project: Path, tmp_path: Path, sglang: SGLangDouble) -> None:
    from tests.loop.test_partial import Interrupted

    interrupted = Interrupted(sglang, "/generate", "/abort_request")
    config = grpo(project, tmp_path / "run", sglang, steps=4)
    train(replace(config, sampling=replace(config.sampling, staleness=2, partial=True)))
    assert interrupted.pieces
    assert any(row["engine_interrupted"] > 0 for row in metrics_of(tmp_path / "run"))
