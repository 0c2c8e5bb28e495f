import errno
import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.errors import InputError
from prefloop.runtime.checkpoint import Content
from prefloop.runtime.interrupt import Interrupted
from prefloop.runtime.journal import Journal, read_metrics
from prefloop.runtime.run import Run, null_for_nan
from prefloop.runtime.world import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    run: RunSettings
    model: str = "tiny"
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    targets: tuple[str, ...] = ("q", "v")
    max_steps: int = 4


def open_run(
    folder: Path, *, stage: str = "sft", config: dict[str, Any] | None = None, **settings: Any
) -> Run:
    run = RunSettings(out=str(folder), **{"tune": False, **settings})
    whole = Config(run=run, **(config or {}))
    return Run.open(
        run,
        stage=stage,
        config=whole,
        total_steps=whole.max_steps,
        world=ALONE,
        headline=("loss", "accuracy"),
        reads={"data": Content(what="the data of a.jsonl", sha256="abc" * 20)},
    )


def save(folder: Path) -> None:
    (folder / "weights.txt").write_text("weights")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a b")


def go(run: Run, each: Callable[[int], None] = lambda step: None) -> list[int]:
    """Take all steps that are left, doing `each` in every one."""
    done = []
    with run:
        for step in run.steps(save=save, state=lambda: {"seen": done}):
            done.append(step)
            run.log(step, {"loss": 1 / step, "accuracy": math.nan})
            each(step)
    return done


def broken_off(run: Run, until: int) -> None:
    def each(step: int) -> None:
        if step == until:
            raise KeyError("broken off")

    with pytest.raises(KeyError, match="broken off"):
        go(run, each)


def test_folder_of_a_finished_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    run = open_run(folder)
    assert go(run) == [1, 2, 3, 4]
    assert {path.name for path in folder.iterdir()} == {
        *(
            "config.yaml",
            "environment.json",
            "metrics.jsonl",
            "log.txt",
            "tensorboard",
            "checkpoints",
            "final",
        ),
        *("summary.json", ".lock"),
    }
    assert (run.final / "weights.txt").read_text() == "weights"
    assert (run.final / "tokenizer/vocab.txt").read_text() == "a b"
    assert not (run.final / "resume").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    assert summary["metrics"] == {"loss": 0.25, "accuracy": None}
    assert summary["final"] == str(folder / "final")


def test_config_is_written_as_it_was_resolved(tmp_path: Path) -> None:
    go(open_run(tmp_path / "run", config={"optim": Optim(lr=5e-7)}, save_every=3))
    text = (tmp_path / "run/config.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["optim"]["lr"] == 5e-7
    assert values["run"]["save_every"] == 3
    assert values["targets"] == ["q", "v"]
    assert list(values) == ["run", "model", "data", "optim", "targets", "max_steps"]
    versions = json.loads((tmp_path / "run/environment.json").read_text())
    for name in ("prefloop", "torch", "transformers", "python", "processor", "cores", "memory"):
        assert f"# {name}: {versions[name]}\n" in text
    assert versions["torch"] == torch.__version__


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    go(open_run(tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(
        InputError, match=r"already holds a run .* resume it with --run.resume true, or name another"
    ):
        open_run(tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"), pytest.raises(InputError, match="is being written by another process"):
        open_run(tmp_path / "run", resume=True)
    open_run(tmp_path / "run", resume=True).__exit__(None, None, None)


def test_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write .*file: a file is in the way; name another folder"):
        open_run(tmp_path / "file")
    with pytest.raises(InputError, match=r"a part of the path is a file, not a folder"):
        open_run(tmp_path / "file" / "run")


def test_no_steps_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sft has no steps to do"):
        open_run(tmp_path / "run", config={"max_steps": 0})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "dpo"}, "stage: 'sft' -> 'dpo'"),
        ({"config": {"model": "other"}}, "model: 'tiny' -> 'other'"),
        ({"config": {"optim": Optim(lr=1.0)}}, r"optim\.lr: 1e-05 -> 1\.0"),
        ({"config": {"data": Data(source="b.jsonl")}}, r"data\.source: '' -> 'b\.jsonl'"),
        ({"seed": 1}, r"run\.seed: 0 -> 1"),
        ({"config": {"max_steps": 2}}, "has done 3 steps, more than the 2 asked for"),
    ],
)
def test_checkpoint_of_another_run_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    broken_off(open_run(tmp_path / "run", save_every=3), until=4)
    before = (tmp_path / "run/config.yaml").read_text(), (tmp_path / "run/metrics.jsonl").read_text()
    with pytest.raises(InputError, match=message):
        open_run(tmp_path / "run", resume=True, save_every=3, **change)
    assert (
        (tmp_path / "run/config.yaml").read_text(),
        (tmp_path / "run/metrics.jsonl").read_text(),
    ) == before


def test_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    broken_off(open_run(tmp_path / "run", save_every=3), until=4)
    run = RunSettings(out=str(tmp_path / "run"), resume=True)
    with pytest.raises(
        InputError,
        match=r"the data of a.jsonl \(sha256 abcabcabcabc -> defdefdefdef\) changed since the run was started; restore it",
    ):
        Run.open(
            run,
            stage="sft",
            config=Config(run=run),
            total_steps=4,
            world=ALONE,
            headline=("loss", "accuracy"),
            reads={"data": Content(what="the data of a.jsonl", sha256="def" * 20)},
        )


def test_resume_goes_on_after_the_checkpoint(tmp_path: Path) -> None:
    broken_off(open_run(tmp_path / "run", save_every=2), until=4)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ti')  # killed in the middle of a line
    run = open_run(tmp_path / "run", resume=True, save_every=1, log_every=2)
    assert run.start == 2
    assert run.resumed == {"seen": [1, 2]}
    assert run.source("hub-name") == str(tmp_path / "run/checkpoints/step-2")
    assert run.source("hub-name", "critic") == str(tmp_path / "run/checkpoints/step-2/critic")
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl")] == [1, 2]
    assert go(run) == [3, 4]
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl")] == [1, 2, 4]
    log = (tmp_path / "run/log.txt").read_text()
    assert "changed since the checkpoint: run.save_every: 2 -> 1" in log
    assert "run.resume" not in log
    assert "the 2 steps after it were not saved and are repeated" in log


def test_new_run_has_nothing_to_resume(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", resume=True)
    assert (run.start, run.resumed, run.source("hub-name")) == (0, {}, "hub-name")
    assert go(run) == [1, 2, 3, 4]
    assert "no checkpoint in" in (tmp_path / "run/log.txt").read_text()


def test_save_every_and_keep(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", config={"max_steps": 7}, save_every=2, keep=2)
    go(run)
    assert run.checkpoints.steps() == [6, 7]


def test_log_every(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", config={"max_steps": 5}, log_every=2)
    go(run, lambda step: run.log(step, {"heldout": 2.0}, always=True) if step == 3 else None)
    rows = [(row["step"], "heldout" in row) for row in read_metrics(tmp_path / "run/metrics.jsonl")]
    assert rows == [(2, False), (3, True), (4, False), (5, False)]


def test_metrics_are_json_with_null_for_nan(tmp_path: Path) -> None:
    go(open_run(tmp_path / "run"))
    first = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[0]
    row = json.loads(first, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["step"] == 1
    assert row["accuracy"] is None
    assert row["time"] > 1e9
    assert null_for_nan({"a": [math.inf, (1.5, math.nan)]}) == {"a": [None, [1.5, None]]}
    with (
        open_run(tmp_path / "other") as run,
        pytest.raises(ValueError, match="cannot be called step or time"),
    ):
        run.log(4, {"time": 1.0})


def test_samples_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", save_every=2)

    def each(step: int) -> None:
        run.samples(step, [{"prompt": "ü", "completion": "x\n"}, {"prompt": "b", "completion": ""}])
        if step == 3:
            raise KeyError("off")

    with pytest.raises(KeyError, match="off"):
        go(run, each)
    folder = tmp_path / "run/samples"
    assert sorted(path.name for path in folder.iterdir()) == ["step-1.jsonl", "step-2.jsonl", "step-3.jsonl"]
    lines = (folder / "step-1.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"prompt": "ü", "completion": "x\n"}
    open_run(tmp_path / "run", resume=True, save_every=2).__exit__(None, None, None)
    assert sorted(path.name for path in folder.iterdir()) == ["step-1.jsonl", "step-2.jsonl"]


def test_tensorboard_shows_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[event_pb2.Event] = []  # pyright: ignore[reportAttributeAccessIssue]
    real = EventsWriter.write_event

    def write(self: EventsWriter, event: Any) -> None:
        events.append(event)
        real(self, event)

    monkeypatch.setattr(EventsWriter, "write_event", write)
    broken_off(open_run(tmp_path / "run", save_every=2), until=3)
    go(open_run(tmp_path / "run", resume=True, save_every=2))
    shown: dict[int, float] = {}
    for event in events:
        if event.HasField("session_log"):
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            assert value.tag == "loss"  # accuracy is NaN
            assert event.step not in shown
            shown[event.step] = value.simple_value
    assert shown == {step: pytest.approx(1 / step) for step in (1, 2, 3, 4)}
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 2


def test_signal_in_a_step_saves_and_gives_the_signals_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = open_run(tmp_path / "run with space")
    with pytest.raises(Interrupted) as stop:
        go(run, lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None)
    assert signal.getsignal(signal.SIGINT) is before
    assert run.checkpoints.steps() == [2]
    assert not run.final.exists()
    assert not (run.folder / "summary.json").exists()
    assert f"prefloop sft --config '{tmp_path}/run with space/config.yaml' --run.resume true" in str(
        stop.value
    )
    assert stop.value.exit_code == 130
    assert "stopping" in capfd.readouterr().err
    assert go(open_run(tmp_path / "run with space", resume=True)) == [3, 4]


def test_signals_before_and_after_the_steps_keep_their_meaning(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with open_run(tmp_path / "run") as run:
        assert signal.getsignal(signal.SIGTERM) is before
        for _ in run.steps(save=save, state=dict):
            assert signal.getsignal(signal.SIGTERM) is not before
        assert signal.getsignal(signal.SIGTERM) is before


def test_final_appears_whole_and_last(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", save_every=1)
    seen: list[bool] = []
    go(run, lambda step: seen.append(run.final.exists()))
    assert seen == [False] * 4
    assert run.final.is_dir()
    # A process killed while it put `final` in place leaves it out; resuming a finished run puts it there.
    os.rename(run.final, run.folder / ".old-final")
    go(open_run(tmp_path / "run", resume=True, save_every=1))
    assert (run.final / "weights.txt").read_text() == "weights"


def test_summary_takes_results(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        for _ in run.steps(save=save, state=dict):
            pass
        run.summarise({"accuracy": {"value": 0.5, "low": math.nan}})
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["accuracy"] == {"value": 0.5, "low": None}
    assert summary["peak_rss_mb"] > 10


def test_disk_full_while_logging_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(tmp_path / "run", save_every=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def each(step: int) -> None:
        if step == 2:
            monkeypatch.setattr("prefloop.runtime.journal.EventFile.add", full)

    with pytest.raises(InputError, match=r"metrics.jsonl: no space is left on the device; make room"):
        go(run, each)
    assert run.checkpoints.steps() == [1, 2]


def test_a_line_of_metrics_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: not a JSON line"):
        read_metrics(path)
    with pytest.raises(InputError, match=r"metrics.jsonl:2: not a JSON line"):
        Journal(tmp_path, start=0)


def test_seeds_before_models_are_built(tmp_path: Path) -> None:  # C4
    heads = []
    for name in ("a", "b"):
        torch.manual_seed(len(name) + len(heads))
        with open_run(tmp_path / name, seed=5):
            heads.append(torch.nn.Linear(3, 1).weight.detach())
    assert torch.equal(heads[0], heads[1])
