"""Batches that an engine draws while the run learns: which weights each is of, and that the two really overlap."""

# ruff: noqa: F811  the fixtures of another file are named as the arguments that take them

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import LoRA
from prefloop.configs.engine import OnlineSampling
from prefloop.errors import EngineLost, InputError
from tests.algorithms.small import metrics_of, resumed, train
from tests.loop.test_engine import engine, grpo, impatient, project  # noqa: F401  fixtures
from tests.rollout.engine_double import EngineDouble

ADAPTER = LoRA(rank=2, alpha=8.0)


def stale(project: Path, out: Path, engine: EngineDouble, by: int, **changes: Any) -> Any:
    config = grpo(project, out, engine, **changes)
    return replace(config, sampling=replace(config.sampling, staleness=by))


def drawn(engine: EngineDouble) -> list[dict[str, Any]]:
    """The requests of batches; three prompts are a batch."""
    return [body for body in engine.asked("/v1/completions") if body["n"] == 3]


def test_each_batch_is_of_the_weights_it_was_begun_with(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    loaded = []
    engine.faults["/v1/completions"] = lambda double, body: loaded.append(len(double.loras))
    train(stale(project, tmp_path / "run", engine, 2, steps=5, lora=ADAPTER))
    # Batches 1 to 3 of the first weights, 4 of those after one step, 5 of those after two; what comes after the last is not drawn.
    of = Counter(body["model"].rpartition("-")[2] for body in drawn(engine))
    assert of == {"v0": 9, "v1": 3, "v2": 3}
    rows = metrics_of(tmp_path / "run")
    assert [row.get("staleness", 0.0) for row in rows] == [0, 1, 2, 2, 2]
    assert rows[0]["sampler_gap_max"] < 1e-4
    assert rows[0]["importance"] == pytest.approx(1, abs=1e-4)
    assert all(row["sampler_gap_max"] > 1e-3 for row in rows[1:])  # the policy has moved on
    assert all(row["engine_gap_max"] < 1e-4 for row in rows[:3])  # and the engine has what it was sent
    assert max(loaded) == 3
    assert engine.loras == {}


def test_what_is_learned_from_is_what_those_weights_drew(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    """With a learning rate of almost nothing, batches drawn ahead are those drawn in turn."""
    small = {"optim": replace(grpo(project, tmp_path, engine).optim, lr=1e-12), "steps": 3, "lora": ADAPTER}
    train(grpo(project, tmp_path / "turn", engine, **small))
    in_turn = sorted((body["seed"], tuple(body["prompt"])) for body in drawn(engine))
    engine.calls.clear()
    train(stale(project, tmp_path / "ahead", engine, 2, **small))
    assert sorted((body["seed"], tuple(body["prompt"])) for body in drawn(engine)) == in_turn
    for ours, theirs in zip(metrics_of(tmp_path / "ahead"), metrics_of(tmp_path / "turn"), strict=True):
        assert ours["score"] == theirs["score"]
        assert ours["length"] == theirs["length"]


@pytest.mark.parametrize(("by", "stale_by"), [(1, [0, 1, 1]), (2, [0, 1, 2, 2])])
def test_whole_models_change_when_nothing_is_under_way(
    project: Path, tmp_path: Path, engine: EngineDouble, by: int, stale_by: list[int]
) -> None:
    engine.faults["/v1/completions"] = lambda double, body: time.sleep(0.1) if body["n"] == 3 else None
    train(stale(project, tmp_path / "run", engine, by, steps=len(stale_by)))
    routes = [
        "load" if route == "/collective_rpc" else "draw"
        for route, body in engine.calls
        if route == "/collective_rpc" or (route == "/v1/completions" and body["n"] == 3)
    ]
    assert routes == ["load", *["draw"] * 3 * (1 + by), "load", *["draw"] * 3]
    assert [row.get("staleness", 0.0) for row in metrics_of(tmp_path / "run")] == stale_by


def test_the_run_learns_while_the_engine_draws(project: Path, tmp_path: Path, engine: EngineDouble) -> None:
    log = tmp_path / "run/metrics.jsonl"
    waited = []

    def holds(double: EngineDouble, body: dict[str, Any]) -> None:
        """The second batch is drawn when the first has been learned from, and not before."""
        if body["n"] == 3 and len(drawn(double)) > 3 and not waited:
            end = time.monotonic() + 20
            while not (log.exists() and log.read_text().count("\n")) and time.monotonic() < end:
                time.sleep(0.01)
            waited.append(time.monotonic() < end)

    engine.faults["/v1/completions"] = holds
    train(stale(project, tmp_path / "run", engine, 1, steps=2, lora=ADAPTER))
    assert waited == [True]


def test_a_batch_of_an_engine_that_was_started_again_is_drawn_anew(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    again = []

    def restarts(double: EngineDouble, body: dict[str, Any]) -> None:
        if len(drawn(double)) == 5 and not again:  # in the middle of the second batch
            again.append(True)
            double.restart()

    engine.faults["/v1/completions"] = restarts
    train(stale(project, tmp_path / "run", engine, 1, steps=2))
    assert again
    assert [row.get("staleness", 0.0) for row in metrics_of(tmp_path / "run")] == [0, 0]
    assert metrics_of(tmp_path / "run")[-1]["sampler_gap_max"] < 1e-4


def test_a_resumed_run_begins_its_batches_with_the_weights_it_has(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    config = stale(project, tmp_path / "run", engine, 1, steps=4, lora=ADAPTER)

    def dies(double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        if len(drawn(double)) > 9:
            raise ConnectionResetError
        return None

    engine.faults["/v1/completions"] = dies
    with pytest.raises(EngineLost, match="resume with"):
        train(config)
    done = len(metrics_of(tmp_path / "run"))
    engine.faults.clear()
    engine.restart()
    train(resumed(config))
    rows = metrics_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert 0 < done < 4
    assert "staleness" not in rows[done]
    assert rows[3].get("staleness", 1.0) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"staleness": -1, "engine": "http://x"}, "sampling.staleness is -1; it must be 0"),
        ({"staleness": 1}, "staleness is 1, but sampling.engine is process"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OnlineSampling(**changes)
