"""Trackers, each by its own library, without a network: what they show is what `metrics.jsonl` says, and a resumed run goes on in the same run."""

import json
import os
import sqlite3
import struct
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import RunSettings
from prefloop.errors import InputError
from prefloop.runtime import trackers
from prefloop.runtime.journal import Journal

SETTINGS = {"optim": {"lr": 0.5}, "beta": 0.1}


def _go(folder: Path, track: str) -> str:
    """Four steps, broken off after the third with a checkpoint of the second; the run's name in the tracker."""
    folder.mkdir(parents=True)
    journal = Journal(folder, start=0, track=track, settings=SETTINGS)
    for step in (1, 2, 3):
        journal.metrics(step, {"loss": 1.0 / step, "odd": float("nan")})
    journal.close()
    first = json.loads((folder / "tracker.json").read_text())
    journal = Journal(folder, start=2, track=track, settings=SETTINGS)
    assert journal.lost == 1
    for step in (3, 4):
        journal.metrics(step, {"loss": 1.0 / step, "odd": float("nan")})
    journal.close()
    assert json.loads((folder / "tracker.json").read_text()) == first
    assert not (folder / "tensorboard").exists()
    assert first["tracker"] == track
    return first["run"]


def _needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"the extra {package}")


@_needs("mlflow")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}"
    )  # a database takes seconds to make
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = _go(tmp_path / "project/dpo", "mlflow")
    client = MlflowClient(tracking_uri=f"file:{tmp_path / 'mlruns'}")
    shown = client.get_metric_history(run, "loss")
    assert [(each.step, each.value) for each in shown] == [(step, 1 / step) for step in (1, 2, 3, 4)]
    kept = client.get_run(run)
    assert kept.data.params == {"optim.lr": "0.5", "beta": "0.1"}
    assert kept.data.metrics.keys() == {"loss"}
    assert (kept.info.run_name, kept.info.status) == ("dpo", "FINISHED")
    assert [each.info.run_id for each in client.search_runs([kept.info.experiment_id])] == [run]


def _records(file: Path) -> Iterator[bytes]:
    """Records of an offline run: after a header of 7 bytes LevelDB's log format, pieces in blocks of 32 KiB with a checksum, length and kind each."""
    content, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        room = 2**15 - at % 2**15
        if room < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def _told(folder: Path, run: str) -> tuple[list[tuple[int, float]], dict[str, str]]:
    """Steps with their loss, and the settings, of all parts of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    shown, settings = [], {}
    for file in sorted(folder.glob(f"offline-run-*-{run}*/run-*.wandb")):
        for data in _records(file):
            record: Any = Record()
            record.ParseFromString(data)
            for item in record.history.item:
                if (item.key or item.nested_key[0]) == "loss":
                    shown.append((record.history.step.num, json.loads(item.value_json)))
            for item in record.run.config.update:
                settings[item.key] = item.value_json
            assert not record.run.run_id or record.run.run_id == run
    return shown, settings


@_needs("wandb")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    run = _go(tmp_path / "project/dpo", "wandb")
    until = time.monotonic() + 20
    while len((told := _told(tmp_path / "project/dpo/wandb", run))[0]) < 4 and time.monotonic() < until:
        time.sleep(0.2)  # its own process writes the file
    shown, settings = told
    assert shown == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)]
    assert json.loads(settings["optim.lr"]) == 0.5


@_needs("trackio")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = _go(tmp_path / "project/dpo", "trackio")
    (file,) = Path(os.environ["TRACKIO_DIR"]).glob("project*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert [(name, step, json.loads(values)["loss"]) for name, step, values in rows] == [
        (run, step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)
    ]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.runtime.test_run import open_run

    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'prefloop\[wandb\]'"):
        open_run(tmp_path / "run", track="wandb")
    assert not (tmp_path / "run").exists()
    assert RunSettings(out="x").track == "tensorboard"


def test_a_tracker_that_fails_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        run = "r"

        def __init__(self, *of: object) -> None: ...

        def add(self, step: int, values: object) -> None:
            raise ConnectionError("no route\nto host")

        close = add

    monkeypatch.setitem(trackers._SERVICES, "wandb", Broken)
    journal = Journal(tmp_path, start=0, track="wandb", settings={})
    for step in (1, 2):
        journal.metrics(step, {"loss": 1.0})
    journal.close()
    assert [record.getMessage() for record in caplog.records] == [
        "wandb could not be reached: no route to host. The run continues; metrics.jsonl has all metrics."
    ]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
