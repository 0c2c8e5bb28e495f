"""Training on completions that an engine draws: kept in step with the policy, checked, and stopped where something is off."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.common import LoRA, RunSettings
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.engine import Importance, OnlineSampling
from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.errors import EngineLost, InputError
from prefloop.loop import engine_sync
from prefloop.models.load import load_policy
from prefloop.rollout.engine import client
from tests.algorithms.small import metrics_of, resumed, sharpen, train, weights_of
from tests.algorithms.tiny import CPU, FAST, prompts
from tests.algorithms.tiny import ppo as tiny_ppo
from tests.rollout.engine_double import EngineDouble
from tests.tiny_project import make_model

REWARD = "tests.algorithms.tiny:small_letters"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    sharpen(make_model(folder / "start", chat=False))
    prompts(folder / "words.jsonl", count=6)
    return folder


@pytest.fixture
def engine(project: Path) -> Iterator[EngineDouble]:
    double = EngineDouble(project / "start")
    yield double
    double.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waits between attempts."""
    monkeypatch.setattr(client, "wait_before", lambda attempt, **asked: 0.0)


def grpo(project: Path, out: Path, engine: EngineDouble, **changes: Any) -> GRPOConfig:
    sampling = OnlineSampling(max_new_tokens=5, temperature=1.3, engine=engine.url, engine_minutes=1.0)
    basic = GRPOConfig(
        run=RunSettings(out=str(out), seed=1, tune=False),
        data=tiny_ppo(project, out).data,
        model=str(project / "start"),
        reward_model=REWARD,
        sampling=sampling,
        steps=2,
        batch_prompts=3,
        completions_per_prompt=3,
        optim=FAST,
        compute=CPU,
    )
    return replace(basic, **changes)


@pytest.mark.parametrize("lora", [LoRA(), LoRA(rank=2, alpha=8.0)], ids=["disk", "adapter"])
def test_the_engine_draws_with_the_weights_of_each_step(
    project: Path, tmp_path: Path, engine: EngineDouble, lora: LoRA
) -> None:
    train(grpo(project, tmp_path / "run", engine, steps=3, lora=lora))
    rows = metrics_of(tmp_path / "run")
    for row in rows:
        assert 0 < row["engine_gap_max"] < 1e-4
        assert row["sampler_gap_max"] < 1e-4
        assert row["importance"] == pytest.approx(1, abs=1e-4)
        assert row["engine_tokens_per_second"] > 0
    drawn = [body for body in engine.asked("/v1/completions") if body["n"] == 3]
    assert len(drawn) == 3 * 3
    assert len({body["seed"] for body in drawn}) == 9
    if lora.on:
        names = [body["lora_name"] for body in engine.asked("/v1/load_lora_adapter")]
        assert [name.rpartition("-")[2] for name in names] == ["v0", "v1", "v2"]
        assert [body["model"] for body in drawn[::3]] == names
        assert engine.loras == {}  # the last one too is taken off at the end
        assert all("-v2" not in str(file) for file in (tmp_path / "run").rglob("*"))
    else:
        learned = [body["kwargs"]["weights_path"][-2:] for body in engine.asked("/collective_rpc")]
        assert learned == ["v0", "v1", "v2"]
        first = load_policy(str(project / "start"), CPU).model.state_dict()
        assert any(not torch.equal(first[name], value) for name, value in engine.model.state_dict().items())


def test_log_probabilities_at_another_temperature_stop_the_run(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:  # K1
    engine.raw_logprobs = True
    with pytest.raises(
        EngineLost, match=r"differ from the trainer's by 0\.\d+ .* where 0\.002 is allowed"
    ) as raised:
        train(grpo(project, tmp_path / "run", engine))
    assert "\n" not in str(raised.value)
    assert "--logprobs-mode processed_logprobs" in str(raised.value)
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    # What was drawn to compare is all that was drawn.
    assert {body["n"] for body in engine.asked("/v1/completions")} == {1}


@pytest.mark.parametrize("status", [200, 500])
def test_a_half_updated_engine_is_spoiled_until_a_whole_update(
    project: Path, tmp_path: Path, engine: EngineDouble, status: int
) -> None:
    """Whether it says so or not. Once is made good by the second attempt; twice stops the run."""
    halves = [0, 1]

    def half(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        if len(double.asked("/collective_rpc")) - 2 in halves:  # the first is the start's, which is whole
            double.load_weights(body["kwargs"]["weights_path"], part=0.5)
            return status, "half"
        return None

    engine.faults["/collective_rpc"] = half
    halves.remove(1)
    train(grpo(project, tmp_path / "once", engine))
    assert len(engine.asked("/collective_rpc")) == 3
    assert metrics_of(tmp_path / "once")[-1]["engine_gap_max"] < 1e-4
    assert len(engine.asked("/pause")) == len(engine.asked("/resume")) == 3

    engine.calls.clear()
    engine.restart()
    halves.append(1)
    with pytest.raises(EngineLost, match="weights of step 1 after 2 attempts"):
        train(grpo(project, tmp_path / "twice", engine))
    assert [row["step"] for row in metrics_of(tmp_path / "twice")] == [1]


def test_a_dead_engine_is_one_line_and_the_resumed_run_is_the_uninterrupted_one(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    config = grpo(project, tmp_path / "run", engine, steps=3)
    train(replace(config, run=replace(config.run, out=str(tmp_path / "whole"))))
    engine.calls.clear()
    engine.restart()

    def dies(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        if len(double.asked("/collective_rpc")) == 2 and body["n"] == 3:
            raise ConnectionResetError
        return None

    engine.faults["/v1/completions"] = dies
    with pytest.raises(
        EngineLost, match=r"/v1/completions failed: .*resume with: prefloop grpo --config"
    ) as raised:
        train(config)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "run/checkpoints/step-1").is_dir()  # though nothing is saved before the end otherwise
    engine.faults.clear()
    engine.restart()
    train(resumed(config))
    for out in ("run", "whole"):  # times differ
        rows = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        assert len(rows) == 3
    assert_same_but_times(tmp_path / "run", tmp_path / "whole")


def assert_same_but_times(ours: Path, theirs: Path) -> None:
    timed = ("engine_sync_seconds", "engine_wait_seconds", "engine_tokens_per_second")
    for row, other in zip(metrics_of(ours), metrics_of(theirs), strict=True):
        assert {k: v for k, v in row.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }
    a, b = weights_of(ours / "final"), weights_of(theirs / "final")
    assert a
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_slow_engine_is_waited_for_until_the_deadline(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    def sleeps(double: EngineDouble, body: dict[str, Any]) -> None:
        time.sleep(0.6)

    engine.faults["/v1/completions"] = sleeps
    config = grpo(project, tmp_path / "run", engine)
    with pytest.raises(EngineLost, match=r"no answer within engine_minutes = 0\.005"):
        train(replace(config, sampling=replace(config.sampling, engine_minutes=0.005)))


def test_an_engine_that_is_started_again_while_it_draws_is_not_learned_from(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    """It answers with the weights it was started with; the batch is drawn again after they are sent."""
    again = []

    def restarts(double: EngineDouble, body: dict[str, Any]) -> None:
        if len(double.asked("/collective_rpc")) == 2 and body["n"] == 3 and not again:
            again.append(len(double.calls))
            double.restart()

    engine.faults["/v1/completions"] = restarts
    train(grpo(project, tmp_path / "run", engine))
    assert again
    assert len(engine.asked("/collective_rpc")) == 3
    assert metrics_of(tmp_path / "run")[-1]["sampler_gap_max"] < 1e-4


def test_another_base_under_the_adapter_stops_the_run(project: Path, tmp_path: Path) -> None:
    sharpen(make_model(tmp_path / "other", chat=False, seed=1))
    engine = EngineDouble(tmp_path / "other")
    with pytest.raises(EngineLost, match="Does it serve this very model"):
        train(grpo(project, tmp_path / "run", engine, lora=LoRA(rank=2)))
    engine.stop()


def test_an_adapter_on_a_base_that_another_run_has_changed_stops_the_run(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    engine.version = "prefloop-12345678-v3"
    with pytest.raises(
        EngineLost,
        match=r"another run has changed all weights .*prefloop-12345678-v3.*start the engine again",
    ):
        train(grpo(project, tmp_path / "run", engine, lora=LoRA(rank=2)))


def test_no_engine_at_the_address_is_said_at_the_start(project: Path, tmp_path: Path) -> None:
    engine = EngineDouble(project / "start")
    engine.stop()
    with pytest.raises(EngineLost, match=r"sampling\.engine http://127.*/v1/models failed: ConnectError"):
        train(grpo(project, tmp_path / "run", engine))
    assert not (tmp_path / "run").exists()


def test_prompts_that_do_not_fit_are_refused_before_anything_is_drawn(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    engine.positions = 6
    with pytest.raises(InputError, match=r"reads at most 6 tokens, .* start it with --max_model_len"):
        train(grpo(project, tmp_path / "run", engine))


def test_ppo_and_online_dpo_draw_by_the_same_seam(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    sampling = grpo(project, tmp_path, engine).sampling
    train(tiny_ppo(project, tmp_path / "ppo", sampling=sampling, steps=2, batch_prompts=3))
    shared = grpo(project, tmp_path / "online_dpo", engine)
    train(
        OnlineDPOConfig(
            run=shared.run,
            data=shared.data,
            model=shared.model,
            reward_model=REWARD,
            sampling=sampling,
            steps=2,
            batch_prompts=3,
            optim=FAST,
            compute=CPU,
        )
    )
    for out in ("ppo", "online_dpo"):
        assert all(row["engine_gap_max"] < 1e-4 for row in metrics_of(tmp_path / out))
    assert metrics_of(tmp_path / "ppo")[0]["sampler_gap_max"] < 1e-4


def test_importance_weights_reach_the_loss_and_the_log(
    project: Path, tmp_path: Path, engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an engine whose log-probabilities are all half too low, every ratio is e^0.5: above the cap of 1.2, masked or cut to it."""
    route = EngineDouble._complete

    def low(self: EngineDouble, body: dict[str, Any]) -> tuple[int, Any]:
        status, answer = route(self, body)
        for choice in answer["choices"]:
            choice["logprobs"]["token_logprobs"] = [x - 0.5 for x in choice["logprobs"]["token_logprobs"]]
        return status, answer

    monkeypatch.setattr(EngineDouble, "_complete", low)
    monkeypatch.setitem(engine_sync.NOISE, "float32", 1.0)
    norms = {}
    rules = (
        Importance(rule="off"),
        Importance(rule="truncate", high=1.2),
        Importance(rule="mask", high=1.2),
    )
    for importance in rules:
        rule = importance.rule
        out = tmp_path / rule
        train(grpo(project, out, engine, steps=1, importance=importance))
        (row,) = metrics_of(out)
        norms[rule] = row["grad_norm"]
        if rule != "off":
            assert row["importance"] == pytest.approx(1.2 if rule == "truncate" else 0, abs=1e-5)
            assert row["importance_cut"] == 1
            assert row["sampler_gap"] == pytest.approx(0.5, abs=1e-4)
    assert norms["truncate"] == pytest.approx(1.2 * norms["off"], rel=1e-4)
    assert norms["mask"] < 1e-6
