"""A worker process that does a step when it is told to, and is stopped between; see `bench.versus.pace` for its end of the line."""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from bench.versus.environment import with_ppo

ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 1800.0
"""Longest wait for an answer: a worker that is silent for so long hangs."""


def ours(stage: str, material: Path) -> list[str]:
    """The command of prefloop's worker."""
    return [sys.executable, "-m", "bench.versus.ours", stage, str(material)]


def theirs(stage: str, material: Path, peer: Path) -> tuple[list[str], dict[str, str]]:
    """The command of TRL's worker and what it needs in its environment; `peer` is the Python of one that `make_environment` made."""
    command = [str(peer), str(ROOT / "bench/versus/theirs.py"), stage, str(material)]
    return command, {"PYTHONPATH": str(with_ppo(peer.parents[1]))} if stage == "ppo" else {}


def _end_with_parent() -> None:
    """In the worker, before it runs: it is killed when its parent ends, however that ends. A stopped one would stay for ever. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class ContenderError(Exception):
    """A worker ended, or hangs; the message ends with the end of its log."""


class Contender:
    """A worker process, killed at the end of a `with` block unless it was closed.

    Between its turns it is stopped, so that its idle threads take nothing from whoever is at work; `stopped=False` leaves it running.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        patience: float = ANSWER_SECONDS,
        stopped: bool = True,
    ) -> None:
        """Start it. Its `facts` and steps are waited for at most `patience` seconds each."""
        self.name = name
        self.log = log
        self.steps: list[dict[str, Any]] = []
        self._patience, self._stopped = patience, stopped
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment, "HF_HUB_OFFLINE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                preexec_fn=_end_with_parent,
            )
        try:
            self.facts = self._answer()
            self._send(signal.SIGSTOP)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def step(self) -> None:
        """One step, waited for."""
        self._write("go\n")
        self.steps.append(self._answer())
        self._send(signal.SIGSTOP)

    def close(self) -> float:
        """End the process; its peak memory in MB."""
        self._write("stop\n")
        peak = self._answer()["peak_mb"]
        self._process.wait()
        return peak

    def kill(self) -> None:
        """End the process at once, where it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what was written and not read
                pipe.close()

    def _send(self, number: signal.Signals) -> None:
        if self._stopped:
            self._process.send_signal(number)

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._send(signal.SIGCONT)
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failed("ended") from error

    def _answer(self) -> dict[str, Any]:
        out = self._process.stdout
        assert out is not None
        # An answer is a line, and the next comes only when it is asked for: nothing waits in the buffer.
        ready, _, _ = select.select([out], [], [], self._patience)
        if not ready:
            raise self._failed(f"gave no answer for {self._patience:.0f} s")
        line = out.readline()
        if not line:
            raise self._failed("ended")
        return json.loads(line)

    def _failed(self, how: str) -> ContenderError:
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
        return ContenderError(f"{self.name} {how}; the end of {self.log}:\n{tail}")
