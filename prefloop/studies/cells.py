"""Cells done in parallel: worker processes that leave the cores to each other, and a finished cell on disk as soon as there is one.

A worker is a process of this module: it reads a cell a line from standard input, does it, and answers with a line. What a cell prints goes into its
own log. A worker ends when its input does, so a study that is killed leaves nothing running, and loses the cells that were being done.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from prefloop.configs.load import load_config
from prefloop.evaluation.json_files import read_json, write_json
from prefloop.studies.known import find_study
from prefloop.studies.study import Place

SETTINGS = "settings.yaml"
PREPARE = ""
"""In place of a cell's name: what the cells of a seed share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellTask:
    """A cell with a seed, or what a seed's cells share."""

    study: str
    out: str
    cell: str
    seed: int
    data: str
    model: str

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return f"{self.cell or 'what the cells share'}, seed {self.seed}"

    @property
    def stem(self) -> Path:
        """Its files, without their endings."""
        name = "".join(
            letter if letter.isalnum() or letter in ".-" else "-" for letter in self.cell or "shared"
        )
        return Path(self.out) / "cells" / f"{name}-seed-{self.seed}"

    @property
    def result(self) -> Path:
        """Its numbers; there once it is finished."""
        return self.stem.with_name(f"{self.stem.name}.json")

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.stem.with_name(f"{self.stem.name}.log")


def do(task: CellTask) -> float:
    """Do a task and write its numbers; the processor seconds it took."""
    study = find_study(task.study)
    settings = load_config(study.settings, Path(task.out) / SETTINGS)
    prepared = Path(task.out) / "shared" / f"seed-{task.seed}"
    folder = prepared if task.cell == PREPARE else task.stem
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir(parents=True)
    place = Place(seed=task.seed, folder=folder, prepared=prepared, data=task.data, model=task.model)
    began, clock = time.process_time(), time.monotonic()
    if task.cell == PREPARE:
        assert study.prepare is not None
        study.prepare(settings, place)
        numbers: Any = {}
    else:
        cell = next(one for one in study.cells(settings) if one.name == task.cell)
        numbers = study.work(settings, cell, place)
        shutil.rmtree(folder)
    took = time.process_time() - began
    found = {
        "cell": task.cell,
        "seed": task.seed,
        "numbers": numbers,
        "processor_seconds": round(took, 2),
        "seconds": round(time.monotonic() - clock, 2),
        "commit": commit(),
    }
    write_json(task.result, found)
    return took


def commit() -> str:
    """The commit that this code is of, with a plus where it was changed since; empty outside a checkout."""
    head = _git("rev-parse", "--short", "HEAD").stdout.strip()
    return head + ("+" if _git("status", "--porcelain", "--", ".").stdout.strip() else "")


def lost_commits(commits: Sequence[str]) -> list[str]:
    """Those that are no longer part of this branch's history, as after a rebase; none outside a checkout."""
    if not commit():
        return []
    own = (name.removesuffix("+") for name in commits)
    return [name for name in own if _git("merge-base", "--is-ancestor", name, "HEAD").returncode]


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    """What git answers about this code; nothing where there is no git."""
    try:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return subprocess.CompletedProcess(words, 1, "", "")


def do_all(
    tasks: Sequence[CellTask], *, jobs: int, cores: int, done: Callable[[CellTask, float], None]
) -> list[str]:
    """Do the tasks, `jobs` at a time; what failed, a line a task. `done` is called with each that was finished."""
    failed: list[str] = []
    if jobs == 1:
        for task in tasks:
            try:
                with task.log.open("w", encoding="utf-8") as log, _into(log):
                    took = do(task)
            except Exception as error:
                _add_traceback(task)
                failed.append(_line(task, error))
            else:
                done(task, took)
        return failed
    queue: SimpleQueue[CellTask] = SimpleQueue()
    for task in tasks:
        queue.put(task)
    workers: list[subprocess.Popen[str]] = []

    def serve() -> None:
        worker = None
        while True:
            try:
                task = queue.get_nowait()
            except Empty:
                break
            if worker is None or worker.poll() is not None:
                worker = _start(max(1, cores // jobs))
                workers.append(worker)
            answer = _ask(worker, task)
            if "failed" in answer:
                failed.append(answer["failed"])
            else:
                done(task, answer["seconds"])

    with ThreadPoolExecutor(jobs) as pool:
        try:
            serving = [pool.submit(serve) for _ in range(min(jobs, len(tasks)))]
            wait(serving, return_when=FIRST_EXCEPTION)
        finally:
            while not queue.empty():
                queue.get_nowait()
            for worker in workers:
                worker.kill()
    for worker in workers:
        worker.communicate()
    for cell in serving:
        cell.result()
    return failed


def _start(threads: int) -> subprocess.Popen[str]:
    """A worker that uses so many threads. It is in a session of its own: Ctrl-C is for the process that gives out the cells."""
    own = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        [sys.executable, "-m", "prefloop.studies.cells"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | own,
        start_new_session=True,
    )


def _ask(worker: subprocess.Popen[str], task: CellTask) -> dict[str, Any]:
    """What a worker answers; that it died, where it did."""
    assert worker.stdin
    assert worker.stdout
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.write(json.dumps(asdict(task)) + "\n")
        worker.stdin.flush()
    line = worker.stdout.readline()
    if line:
        return json.loads(line)
    return {"failed": f"{task.label}: its process was killed ({worker.wait()}); see {task.log}"}


def work() -> None:
    """Be a worker."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        orders: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=_listen, args=(orders,), daemon=True).start()
        while line := orders.get():
            task = CellTask(**json.loads(line))
            try:
                with task.log.open("w", encoding="utf-8") as log, _into(log):
                    answer: dict[str, Any] = {"seconds": do(task)}
            except Exception as error:
                _add_traceback(task)
                answer = {"failed": _line(task, error)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _listen(orders: SimpleQueue[str]) -> None:
    """Pass orders on, and end the process when nobody gives them any more: who would read its answer?"""
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)


@contextlib.contextmanager
def _into(log: Any):
    """Send what is printed into a file."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def _add_traceback(task: CellTask) -> None:
    with task.log.open("a", encoding="utf-8") as log:
        traceback.print_exc(file=log)


def _line(task: CellTask, error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return f"{task.label}: {lines[0]}; see {task.log}"


def finished(task: CellTask) -> bool:
    """Whether a task was done before."""
    return task.result.exists() and "numbers" in read_json(task.result)


if __name__ == "__main__":
    work()
