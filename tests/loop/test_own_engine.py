"""An engine that a run starts for itself: with the run's settings, and ended with it. vLLM itself is stood in for by a double."""

# ruff: noqa: F811  the fixtures of another file are named as the arguments that take them

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import LoRA
from prefloop.configs.engine import EngineServeConfig
from prefloop.errors import InputError
from prefloop.loop import own_engine
from prefloop.rollout.engine.environment import EnginePython
from prefloop.rollout.engine.server import Server
from tests.algorithms.small import metrics_of, train
from tests.loop.test_engine import engine, grpo, impatient, project  # noqa: F401  fixtures
from tests.rollout.engine_double import EngineDouble


def colocated(project: Path, out: Path, engine: EngineDouble, **changes: Any) -> Any:
    config = grpo(project, out, engine, **changes)
    return replace(config, sampling=replace(config.sampling, engine="colocated", staleness=1, batch_size=7))


def test_it_is_started_with_the_runs_settings_and_ends_with_the_run(
    project: Path, tmp_path: Path, engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[EngineServeConfig] = []
    ended = []

    @contextmanager
    def serving(
        settings: EngineServeConfig, environment: EnginePython, *, takes_signals: bool
    ) -> Iterator[Server]:
        assert not takes_signals  # they are the run's
        started.append(settings)
        yield Server(url=engine.url, process=None, seconds=1.0)  # pyright: ignore[reportArgumentType]
        ended.append(len(engine.calls))

    monkeypatch.setattr(own_engine, "serving", serving)
    monkeypatch.setattr(own_engine, "find_environment", lambda named: None)
    train(colocated(project, tmp_path / "run", engine, lora=LoRA(rank=2, alpha=8.0)))
    (settings,) = started
    assert (settings.model, settings.dtype) == (str(project / "start"), "float32")
    assert (settings.max_sequences, settings.max_lora_rank, settings.max_adapters) == (7, 2, 2)
    assert settings.log == str(tmp_path / "run.engine.log")
    assert ended == [len(engine.calls)]  # after the adapters are taken off, and once
    assert engine.loras == {}
    assert all(row["sampler_gap_max"] < 1e-4 for row in metrics_of(tmp_path / "run")[:1])


def test_without_an_environment_nothing_is_started(
    project: Path, tmp_path: Path, engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFLOOP_ENGINE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no environment with vLLM in .*none.* engine install"):
        train(colocated(project, tmp_path / "run", engine))
    assert not (tmp_path / "run").exists()
