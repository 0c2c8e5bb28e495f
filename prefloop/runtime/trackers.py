"""Trackers that people watch runs with besides TensorBoard: Weights & Biases, MLflow, Trackio. Each is imported where it is asked for.

What a tracker cannot do never stops a run: the first failure is said, and training goes on; `metrics.jsonl` has every step.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from prefloop.errors import InputError
from prefloop.runtime.environment import flatten
from prefloop.runtime.files import write_whole

log = logging.getLogger(__name__)

TRACKER = "tracker.json"
"""In a run's folder: the tracker, and the run's name there, so that a resumed run continues in it."""

_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


class Board(Protocol):
    """What shows metrics."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the finite ones of `values`."""

    def flush(self) -> None:
        """Wait until all of it is where it belongs."""

    def close(self) -> None:
        """No more will come."""


def check_tracker(track: str) -> None:
    """Raise `InputError` if the package of a tracker is not installed."""
    package = _PACKAGES.get(track)
    if package is not None and find_spec(package) is None:
        raise InputError(
            f"run.track is {track}, whose package is not installed: pip install 'prefloop[{track}]'"
        )


class Tracked:
    """A run in one of the trackers."""

    def __init__(self, track: str, folder: Path, settings: Mapping[str, Any], *, logged: int) -> None:
        """Start a run there, or resume it; steps up to `logged` have been sent before and are not sent twice."""
        self._track = track
        self._logged = logged
        self._failed = False
        self._service: Any = None
        file = folder / TRACKER
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and logged else {}
        before = known.get("run", "") if known.get("tracker") == track else ""
        try:
            self._service = _SERVICES[track](folder.resolve(), flatten(settings), before)
            write_whole(file, json.dumps({"tracker": track, "run": self._service.run}, indent=1) + "\n")
        except Exception as error:
            self._say(error)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Send the finite ones of `values`, unless this step was sent before a restart."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if self._service is None or step <= self._logged or not finite:
            return
        try:
            self._service.add(step, finite)
        except Exception as error:
            self._say(error)

    def flush(self) -> None:
        """Nothing: these services send by themselves."""

    def close(self) -> None:
        """Say that the run has ended there."""
        if self._service is not None:
            try:
                self._service.close()
            except Exception as error:
                self._say(error)

    def _say(self, error: Exception) -> None:
        if not self._failed:
            message = " ".join(str(error).split()) or type(error).__name__
            log.warning(
                "%s could not be reached: %s. The run continues; metrics.jsonl has all metrics.",
                self._track,
                message,
            )
        self._failed = True


class _Wandb:
    """Weights & Biases. WANDB_MODE, WANDB_PROJECT and the like are its own; offline runs lie in the run's folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run: str) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or folder.parent.name,
            name=folder.name,
            id=run or None,
            resume="allow" if run else None,
            dir=str(folder),
            config=dict(settings),
        )
        self.run = str(self._run.id)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """MLflow: the server of MLFLOW_TRACKING_URI, or `mlflow.db` in the project folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=where)
        if run:
            self._client.update_run(run, status="RUNNING")
            self.run = run
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or folder.parent.name
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self.run = self._client.create_run(experiment, run_name=folder.name).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in settings.items()]
        for first in range(0, len(params), 100):  # at most so many at once
            self._client.log_batch(self.run, params=params[first : first + 100])

    def add(self, step: int, values: Mapping[str, float]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self.run, metrics=[Metric(name, value, now, step) for name, value in values.items()]
        )

    def close(self) -> None:
        self._client.set_terminated(self.run)


class _Trackio:
    """Trackio: in TRACKIO_DIR, or on the Space that TRACKIO_SPACE_ID names."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run: str) -> None:
        import secrets

        import trackio  # pyright: ignore[reportMissingImports]  # an extra that pulls much in

        self.run = run or f"{folder.name}-{secrets.token_hex(3)}"  # its runs are known by name
        self._run = trackio.init(
            project=folder.parent.name,
            name=self.run,
            config=dict(settings),
            resume="allow" if run else "never",
            embed=False,
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_SERVICES = {"wandb": _Wandb, "mlflow": _MLflow, "trackio": _Trackio}
