"""A run that is stopped and goes on ends, bit for bit, where the unbroken one does."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefloop.errors import InputError
from prefloop.runtime import Run
from prefloop.runtime.interrupt import Interrupted
from tests.algorithms.killed import KILLS, STAGES_KILLED
from tests.algorithms.small import (
    STAGES,
    assert_same,
    interrupt,
    metrics_of,
    resumed,
    settings,
    train,
    weights_of,
)
from tests.runtime.processes import run_module


def train_with_a_stop_after_every_step(config: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Ctrl-C in each step, the last one too; every step is done by a run that has just been opened. The number of stops."""
    return train_with_stops(config, monkeypatch, after=None)


def train_with_stops(config: Any, monkeypatch: pytest.MonkeyPatch, *, after: Sequence[int] | None) -> int:
    """Ctrl-C in these steps (None: in each), and on with a run that has just been opened. The number of stops."""
    real = Run.log
    stops = 0

    def log_and_interrupt(self: Run, step: int, *args: Any, **kwargs: Any) -> None:
        real(self, step, *args, **kwargs)
        if after is None or step in after:
            interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log_and_interrupt)
        while True:
            try:
                train(resumed(config))
            except Interrupted:
                stops += 1
            else:
                return stops


AT_EVERY_STEP = ("pretrain", "sft", "reward_lora", "dpo", "ppo", "grpo", "dapo", "ilql")
"""Stages that are stopped in each step. The others, which share their loops, are stopped around the end of an epoch."""


@pytest.mark.parametrize("name", AT_EVERY_STEP)
def test_resumed_at_every_step_equals_uninterrupted(
    name: str, project: Path, unbroken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:  # R1 R2 R5 R6
    whole = unbroken(name)
    broken = settings(name, project, out=f"broken-{name}")
    # Each is at least one epoch and a step long, so stops fall on an epoch's boundary and on both sides of it.
    assert train_with_a_stop_after_every_step(broken, monkeypatch) == metrics_of(whole)[-1]["step"]
    assert_same(Path(broken.run.out), whole)


@pytest.mark.parametrize("name", [name for name in STAGES if name not in AT_EVERY_STEP])
def test_resumed_before_and_at_the_end_of_an_epoch_equals_uninterrupted(
    name: str, project: Path, unbroken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unbroken(name)
    broken = settings(name, project, out=f"broken-{name}")
    assert train_with_stops(broken, monkeypatch, after=(2, 3)) == 2  # an epoch has three steps
    assert metrics_of(whole)[-1]["step"] > 3
    assert_same(Path(broken.run.out), whole)


def test_the_controller_and_running_moments_do_change(unbroken: Callable[[str], Path]) -> None:  # R6
    # Otherwise the test above would not see them forgotten.
    coefs = [row["kl_coef"] for row in metrics_of(unbroken("ppo"))]
    assert len(set(coefs)) == len(coefs)


@pytest.fixture(scope="module")
def killed(project: Path) -> Path:
    """The project, after runs in it were killed again and again in child processes, and in the end left to finish."""
    run_module("tests.algorithms.killed", str(project), timeout=240)
    return project


@pytest.mark.parametrize("name", STAGES_KILLED)
def test_killed_run_ends_as_the_unbroken_one(
    name: str, killed: Path, unbroken: Callable[[str], Path]
) -> None:  # R1 R7
    out = killed / f"killed-{name}"
    assert (out.with_suffix(".kills")).read_text() == str(KILLS)
    assert_same(out, unbroken(name))


def of_two_steps(config: Any) -> Any:
    """The same run, finished after its second step: a critic that is warmed up needs one more."""
    return replace(config, **({"steps": 2} if hasattr(config, "steps") else {"epochs": 0.0, "max_steps": 2}))


@pytest.mark.parametrize("name", ["sft", "reward_lora", "ppo"])
def test_nothing_left_to_do_trains_nothing(name: str, project: Path) -> None:  # R2
    config = of_two_steps(settings(name, project, out=f"again-{name}"))
    final = train(config)
    before, rows = weights_of(final), metrics_of(Path(config.run.out))
    train(resumed(config))
    after = weights_of(final)
    assert all(torch.equal(before[key], after[key]) for key in before | after)
    assert metrics_of(Path(config.run.out)) == rows


def test_more_epochs_go_on_from_the_end(project: Path) -> None:  # R2 R4
    config = settings("sft", project, out="longer")
    train(config)
    steps = metrics_of(Path(config.run.out))[-1]["step"]
    train(resumed(replace(config, epochs=3)))
    assert metrics_of(Path(config.run.out))[-1]["step"] == steps * 3 // 2


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("sft", {"model": "other"}, "model: "),
        ("sft", {"batch_size": 5}, "batch_size: 4 -> 5"),
        ("dpo", {"beta": 0.4}, "beta: 0.5 -> 0.4"),
        ("ppo", {"gamma": 0.9}, "gamma: 1.0 -> 0.9"),
        ("ppo", {"ptx": "short.jsonl"}, "ptx: "),
    ],
)
def test_resuming_with_another_setting_names_it(
    name: str, changes: dict[str, Any], named: str, project: Path, unbroken: Callable[[str], Path]
) -> None:
    whole = unbroken(name)
    files = {key: str(project / value) for key, value in changes.items() if isinstance(value, str)}
    config = settings(name, project, out=whole.name)
    before = weights_of(whole)
    with pytest.raises(InputError, match=named):
        train(resumed(replace(config, **(changes | files))))
    after = weights_of(whole)
    assert all(torch.equal(before[key], after[key]) for key in before | after)


@pytest.mark.parametrize(
    ("name", "file"),
    [("sft", "demonstrations"), ("ppo", "prompts"), ("ppo", "demonstrations"), ("dpo", "comparisons")],
)
def test_resuming_with_other_data_under_the_same_name_is_refused(
    name: str, file: str, project: Path, unbroken: Callable[[str], Path]
) -> None:
    whole = unbroken(name)
    data = project / f"{file}.jsonl"
    content = data.read_text()
    try:
        data.write_text(content.replace("!", "?").replace("tea", "sea"))
        with pytest.raises(
            InputError, match=rf"^the data of \S*{file}.jsonl \(sha256 .* changed since the run"
        ):
            train(resumed(settings(name, project, out=whole.name)))
    finally:
        data.write_text(content)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("pretrain", "model"),
        ("sft", "model"),
        ("sft_lora", "model"),
        ("reward", "model"),
        ("dpo", "model"),
        ("dpo", "reference"),
        ("ppo", "model"),
        ("ppo", "reward_model"),
        ("ppo_policy_critic", "reference"),
    ],
)
def test_resuming_from_a_model_that_was_replaced_is_refused_by_name(
    name: str, role: str, project: Path, tmp_path: Path
) -> None:
    """Trained again into the same folder, say: the run would go on half from one model and half from another."""
    config = of_two_steps(settings(name, project, out=f"replaced-{name}-{role}"))
    model = tmp_path / role
    shutil.copytree(getattr(config, role) or project / "stopping/final", model)
    config = replace(config, **{role: str(model)})
    train(config)
    final = weights_of(Path(config.run.out))
    file = model / "model.safetensors"
    before, weights = file.read_bytes(), load_file(file)
    save_file({key: value + 1e-3 for key, value in weights.items()}, file, metadata={"format": "pt"})
    said = rf"^the weights of {role} {re.escape(str(model))} \(sha256 \w{{12}} -> \w{{12}}\) changed since"
    with pytest.raises(InputError, match=said):
        train(resumed(config))
    after = weights_of(Path(config.run.out))
    assert all(torch.equal(final[key], after[key]) for key in final | after)
    file.write_bytes(before)
    train(resumed(config))
