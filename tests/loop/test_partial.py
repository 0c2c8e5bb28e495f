"""New weights interrupt completions that are under way: each goes on with them, and each token has the version that drew it."""

# ruff: noqa: F811  the fixtures of another file are named as the arguments that take them

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import LoRA
from prefloop.configs.engine import OnlineSampling
from prefloop.errors import EngineLost, InputError
from prefloop.loop.sources import PromptSource
from prefloop.rollout.engine.client import RequestGate, request_seed
from tests.algorithms.small import metrics_of, train
from tests.loop.test_engine import engine, grpo, impatient, project  # noqa: F401  fixtures
from tests.rollout.engine_double import EngineDouble

LONGEST = 5


class Interrupted:
    """Completions of the third batch stop after two tokens and come back when they are interrupted."""

    def __init__(self, double: EngineDouble, draws: str, interrupts: str) -> None:
        self.pieces: list[dict[str, Any]] = []
        """Requests that were interrupted."""
        self._event, self._draws = threading.Event(), draws
        self._seeds = {request_seed(1, key, index) for key in (6, 7, 8) for index in range(3)}
        double.at_once = True
        double.faults = {draws: self._draw, interrupts: self._end}

    def _end(self, double: EngineDouble, body: dict[str, Any]) -> None:
        self._event.set()

    def _draw(self, double: EngineDouble, body: dict[str, Any]) -> tuple[int, Any] | None:
        parameters = body.get("sampling_params", body)
        if parameters.get("seed", parameters.get("sampling_seed")) not in self._seeds:
            return None
        status, answer = double.routed(self._draws, body)
        self._event.wait(10)
        self.pieces.append(body)
        stops = parameters["stop_token_ids"]
        if "choices" in answer:
            (choice,) = answer["choices"]
            ids = choice["token_ids"] = choice["token_ids"][:2]
            choice["logprobs"]["token_logprobs"] = choice["logprobs"]["token_logprobs"][:2]
            choice["finish_reason"] = "stop" if ids[-1] in stops else "abort"
        else:
            about = answer["meta_info"]
            drawn = about["output_token_logprobs"] = about["output_token_logprobs"][:2]
            about["finish_reason"] = {"type": "stop" if drawn[-1][1] in stops else "abort"}
        return status, answer


@pytest.mark.parametrize("way", ["adapter", "disk", "gloo"])
def test_a_completion_goes_on_with_the_new_weights(
    project: Path, tmp_path: Path, engine: EngineDouble, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    drawn = PromptSource.draw

    def watched(self: PromptSource, *given: Any, **named: Any) -> Any:
        seen.append(drawn(self, *given, **named))
        return seen[-1]

    monkeypatch.setattr(PromptSource, "draw", watched)
    interrupted = Interrupted(engine, "/v1/completions", "/abort_requests")
    lora = LoRA(rank=2, alpha=8.0) if way == "adapter" else LoRA()
    config = grpo(project, tmp_path / "run", engine, steps=4, lora=lora)
    sampling = replace(config.sampling, staleness=2, partial=True, sync=way)
    train(replace(config, sampling=sampling))
    third = seen[2]
    versions = [tokens for row in third.versions for tokens in row]
    lengths = [len(ids) for group in third.groups for ids in group.completions]
    assert [len(tokens) for tokens in versions] == lengths
    mixed = [tokens for tokens in versions if len(set(tokens)) > 1]
    assert mixed
    assert all(tokens == [0, 0] + [1] * (len(tokens) - 2) for tokens in mixed)
    rows = metrics_of(tmp_path / "run")
    assert rows[2]["engine_interrupted"] == pytest.approx(len(mixed) / 9)
    behind = [2 - version for tokens in versions for version in tokens]
    assert rows[2]["staleness"] == pytest.approx(sum(behind) / len(behind))
    # What came after was asked for from where it stopped, with the new weights and another seed.
    rests = [body for body in engine.asked("/v1/completions") if body["max_tokens"] == LONGEST - 2]
    assert len(rests) == len(mixed)
    begun = {tuple(body["prompt"]): body for body in interrupted.pieces}
    for rest in rests:
        first = begun[tuple(rest["prompt"][:-2])]
        assert rest["seed"] != first["seed"]
        assert (rest["model"] == first["model"]) == (way != "adapter")
    assert all(row["engine_gap_max"] < 1e-4 for row in rows if "engine_gap_max" in row)


def test_tokens_of_both_versions_have_the_log_probabilities_of_what_drew_them(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    """With a learning rate of almost nothing both are the trainer's."""
    Interrupted(engine, "/v1/completions", "/abort_requests")
    config = grpo(project, tmp_path / "run", engine, steps=4)
    sampling = replace(config.sampling, staleness=2, partial=True)
    train(replace(config, sampling=sampling, optim=replace(config.optim, lr=1e-12)))
    rows = metrics_of(tmp_path / "run")
    assert rows[2]["engine_interrupted"] > 0
    assert all(row["sampler_gap_max"] < 1e-4 for row in rows)


def test_an_engine_that_does_not_let_go_stops_the_run(
    project: Path, tmp_path: Path, engine: EngineDouble
) -> None:
    Interrupted(engine, "/v1/completions", "/never")
    engine.faults["/abort_requests"] = lambda double, body: (200, "done")
    config = grpo(project, tmp_path / "run", engine, steps=4)
    sampling = replace(config.sampling, staleness=2, partial=True, engine_minutes=0.02)
    with pytest.raises(EngineLost, match=r"engine_minutes = 0\.02"):
        train(replace(config, sampling=sampling))


def test_a_gate_that_has_failed_turns_all_away() -> None:
    gate = RequestGate()
    gate.close()
    gate.fail("over")
    with pytest.raises(EngineLost, match="over"), gate.inside(lambda: True):
        pass
    assert gate.is_empty()


def test_it_needs_something_under_way() -> None:
    with pytest.raises(
        InputError, match=r"sampling\.partial is set, but with sampling\.staleness 1 nothing is"
    ):
        OnlineSampling(engine="http://x", staleness=1, partial=True)
