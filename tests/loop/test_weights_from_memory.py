"""Weights that go to an engine from the trainer's memory: a real gloo group between the run and a double of vLLM's server."""

# ruff: noqa: F811  the fixtures of another file are named as the arguments that take them

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.common import LoRA
from prefloop.errors import EngineLost, InputError
from prefloop.models.load import load_policy
from prefloop.rollout.engine import transfer, weights
from tests.algorithms.small import metrics_of, train
from tests.algorithms.tiny import CPU
from tests.loop.test_engine import engine, grpo, impatient, project  # noqa: F401  fixtures
from tests.rollout.engine_double import EngineDouble, SGLangDouble


def by(project: Path, out: Path, engine: EngineDouble, way: str, **changes: Any) -> Any:
    config = grpo(project, out, engine, **changes)
    return replace(config, sampling=replace(config.sampling, sync=way))


@pytest.mark.parametrize("lora", [LoRA(), LoRA(rank=2, alpha=8.0)], ids=["all", "adapter"])
def test_the_engine_draws_with_the_weights_of_each_step(
    project: Path, tmp_path: Path, engine: EngineDouble, lora: LoRA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BUCKET", 20_000)  # so that there are several
    train(by(project, tmp_path / "run", engine, "gloo", steps=3, lora=lora))
    rows = metrics_of(tmp_path / "run")
    assert all(0 < row["engine_gap_max"] < 1e-4 and row["sampler_gap_max"] < 1e-4 for row in rows)
    assert rows[-1]["kl"] > 1e-4
    updates = [
        path.removeprefix("/")
        for path, _ in engine.calls
        if path.endswith(("weight_update", "update_weights", "transfer_engine", "/pause", "/resume"))
    ]
    once = [path for place, path in enumerate(updates) if path != updates[place - 1]]
    start, update, finish = "start_weight_update", "update_weights", "finish_weight_update"
    first = ["pause", "init_weight_transfer_engine", start, update, finish, "resume"]
    later = ["pause", start, update, finish, "resume"]
    assert once == [*first, *later, *later, "shutdown_weight_transfer_engine"]
    assert updates.count(update) >= 3 * 3
    sent = [name for body in engine.asked("/update_weights") for name in body["update_info"]["names"]]
    assert sent.count("lm_head.weight") == 3  # though it is the embedding
    assert not any("lora" in name or "base_layer" in name for name in sent)
    if not lora.on:
        ours = load_policy(str(project / "start"), CPU).model.state_dict()
        assert set(sent) == set(ours)
    assert not list((tmp_path / "run/engine").glob("**/*"))


@pytest.mark.parametrize("status", [200, 500])
def test_a_half_updated_engine_is_spoiled_until_a_whole_update(
    project: Path, tmp_path: Path, engine: EngineDouble, status: int
) -> None:
    """Whether it says so or not: the second attempt joins anew."""
    times = []

    def half(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        times.append(1)
        if len(times) != 2:  # the first is the start's
            return None
        double.receive(body["update_info"], part=0.5)
        return status, "half"

    engine.faults["/update_weights"] = half
    train(by(project, tmp_path / "run", engine, "gloo"))
    assert len(times) == 3
    assert len(engine.asked("/init_weight_transfer_engine")) == (1 if status == 200 else 2)
    assert metrics_of(tmp_path / "run")[-1]["engine_gap_max"] < 1e-4
    assert len(engine.asked("/pause")) == len(engine.asked("/resume")) == 3


def test_an_update_that_a_server_never_saw_the_end_of_is_ended_first(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    """As vLLM: while one is under way, another cannot be started."""
    active = [True]  # of a run that was killed

    def starts(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        if active[0]:
            return 500, "already active"
        active[0] = True
        return None

    def finishes(double: EngineDouble, body: dict[str, Any]) -> None:
        active[0] = False
        body.setdefault("weight_version", double.version)

    engine.faults = {"/start_weight_update": starts, "/finish_weight_update": finishes}
    train(by(project, tmp_path / "run", engine, "gloo"))
    assert all(row["engine_gap_max"] < 1e-4 for row in metrics_of(tmp_path / "run"))
    assert len(engine.asked("/finish_weight_update")) == 3


def test_a_server_is_not_left_paused(project: Path, tmp_path: Path, engine: EngineDouble) -> None:
    """vLLM drops the connection after an error."""
    broken = []

    def breaks(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        if len(double.asked("/update_weights")) != 2:
            return None
        double.receive(body["update_info"], part=0.5)
        return 500, "no"

    def resumes(double: EngineDouble, body: dict[str, Any]) -> None:
        if len(double.asked("/update_weights")) == 2 and not broken:
            broken.append(True)
            raise ConnectionResetError

    engine.faults = {"/update_weights": breaks, "/resume": resumes}
    train(by(project, tmp_path / "run", engine, "gloo"))
    assert broken
    assert len(engine.asked("/resume")) == 1 + len(engine.asked("/pause"))


def test_a_tied_head_that_is_not_sent_stops_the_run(
    project: Path, tmp_path: Path, engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights.weights_of

    def without(policy: Any, dtype: torch.dtype) -> Any:
        return (item for item in whole(policy, dtype) if item[0] != "lm_head.weight")

    monkeypatch.setattr(weights, "weights_of", without)
    with pytest.raises(EngineLost, match=r"weights of step 1 after 2 attempts: log-probabilities .* differ"):
        train(by(project, tmp_path / "run", engine, "gloo"))


def test_an_engine_that_fails_before_anything_arrives_is_not_waited_for(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    engine.faults["/update_weights"] = lambda double, body: (500, "out of memory")
    with pytest.raises(EngineLost, match=r"/update_weights failed: HTTP 500: .*out of memory"):
        train(by(project, tmp_path / "run", engine, "gloo"))
    engine.faults = {"/init_weight_transfer_engine": lambda double, body: (500, "no such back end")}
    with pytest.raises(
        EngineLost, match=r"/init_weight_transfer_engine failed: HTTP 500: .*no such back end"
    ):
        train(by(project, tmp_path / "other", engine, "gloo"))


@pytest.mark.parametrize("way", ["nccl", "ipc"])
def test_what_sends_from_a_gpu_is_refused_without_one(
    project: Path, tmp_path: Path, engine: EngineDouble, way: str
) -> None:
    with pytest.raises(InputError, match=f"sync is {way}, which sends from a GPU, but the run is on cpu"):
        train(by(project, tmp_path / "run", engine, way))


def test_sglang_is_sent_folders_and_adapters_only(project: Path, tmp_path: Path) -> None:
    engine = SGLangDouble(project / "start")
    with pytest.raises(InputError, match=r"sync is gloo, but .* is SGLang"):
        train(by(project, tmp_path / "run", engine, "gloo"))
    engine.stop()


def test_a_handle_of_cuda_memory_goes_through_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch gives for a tensor on a GPU, stood in for: it comes back as it was, with the receiver's number of the GPU."""
    given = (
        *(torch.Tensor, torch.Size([2, 3]), (3, 1), 4, torch.UntypedStorage, torch.bfloat16, 7),
        *(b"\x00handle\xff", 96, 0, False, b"counter", 5, b"event", True),
    )
    monkeypatch.setattr("torch.multiprocessing.reductions.reduce_tensor", lambda tensor: (None, given))
    import json

    handle = json.loads(json.dumps(transfer.handle_of(torch.zeros(2, 3))))
    back = transfer.arguments_of(handle, 1)
    assert back == [*given[:6], 1, *given[7:]]
