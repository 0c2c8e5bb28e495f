"""Fifty annotators at once, and a server that is killed again and again: is anything that was acknowledged lost, or counted twice?

    python -m bench.studio_load --people 50 --seconds 30 --kills 5
    python -m bench.studio_load --people 50 --seconds 60 --kills 0 --think 5
    python -m bench.studio_load --store postgresql://user@host/database --workers 2

Each person is a thread that asks for an item over HTTP, answers it, and sends the same answer again until it is acknowledged. Without `--think` they answer
at once, so the server is saturated and every request waits in a queue of all the others; with it they read for that many seconds (half to one
and a half times, uniformly), as people do, if very fast ones. Meanwhile the
server is killed with SIGKILL at random moments and started again. At the end every acknowledged answer must be in the store exactly once,
and no item may have more answers than the overlap. Prints answers per second and the percentiles of how long an answer took to be
acknowledged, with the time that the server was away counted in and left out. The numbers are of this machine, client and server together on it.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
from sqlalchemy import func, select

from prefloop.data.store import Store, models, studio_models
from prefloop.feedback.studio import accounts, demo
from prefloop.feedback.studio.service import Studio
from prefloop.feedback.studio.values import ProjectSettings


@dataclass
class Server:
    """The real command in a process group of its own, so that its workers die with it."""

    store: str
    port: int
    workers: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "prefloop", "label", "serve", "--store", self.store]
        command += ["--port", str(self.port), "--workers", str(self.workers)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise SystemExit("the server did not start within two minutes")

    def kill(self) -> None:
        """SIGKILL to the server and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Results:
    """What all people saw."""

    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    """Token and key."""
    took: list[float] = field(default_factory=list)
    """Seconds until acknowledged, for answers that needed one request."""
    asked: list[float] = field(default_factory=list)
    """Seconds until the next item was there."""
    took_with_kills: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def person(
    base: str, token: str, project: int, results: Results, until: float, seed: int, think: float = 0.0
) -> None:
    """Ask, answer, until the time is over. A request that fails is sent again."""
    draw = random.Random(seed)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{base}/api/v1", headers=headers, timeout=60) as client:
        time.sleep(draw.uniform(0, think))  # they do not all begin at once
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                answer = client.post("/assignments/next", json={"project": project})
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            if answer.status_code >= 500 or answer.status_code == 429:
                time.sleep(0.1)
                continue
            if answer.status_code != 200:
                with results.lock:
                    results.wrong.append(f"asking: {answer.status_code} {answer.text[:200]}")
                return
            item = answer.json()["assignment"]
            if item is None:
                return
            with results.lock:
                results.asked.append(time.monotonic() - began)
            time.sleep(think * draw.uniform(0.5, 1.5))
            _answer(client, item["token"], draw, results)


def _answer(client: httpx.Client, token: str, draw: random.Random, results: Results) -> None:
    key, began, requests = uuid4().hex, time.monotonic(), 0
    body = {"choice": draw.choice(["first", "second", "tie"]), "duration_ms": 1000}
    while True:
        requests += 1
        try:
            said = client.post(f"/assignments/{token}/submit", json=body, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            time.sleep(0.1)
            continue
        if said.status_code < 500 and said.status_code != 429:
            break
        time.sleep(0.1)
    took = time.monotonic() - began
    with results.lock:
        if said.status_code != 200:
            results.wrong.append(f"{said.status_code} {said.text[:200]}")
            return
        results.acknowledged.append((token, key))
        results.took_with_kills.append(took)
        if requests == 1:
            results.took.append(took)


def check(where: str, project: int, results: Results) -> list[str]:
    """What is wrong with the store after all that; empty if nothing is."""
    task, assignment, judgement = studio_models.Task, studio_models.Assignment, models.Judgement
    wrong = list(results.wrong)
    with Store.open(where, create=False) as store, store.database.read() as session:
        keys = list(session.scalars(select(judgement.idempotency_key)))
        sent = [f"studio {token} {key}" for token, key in results.acknowledged]
        lost = set(sent) - set(keys)
        if lost:
            wrong.append(f"{len(lost)} acknowledged answers are lost")
        if len(set(sent)) != len(sent) or len(set(keys)) != len(keys):
            wrong.append("an answer was counted twice")
        rows = session.execute(
            select(task.taken, task.overlap, func.count(assignment.id))
            .outerjoin(
                assignment,
                (assignment.task_id == task.id) & assignment.state.in_(("leased", "submitted")),
            )
            .where(task.project_id == project)
            .group_by(task.id)
        )
        over = [row for row in rows if row[0] != row[2] or row[2] > row[1]]
        if over:
            wrong.append(f"{len(over)} items have more answers than wanted, or are miscounted")
        unheard = len(set(keys)) - len(set(sent))
        print(f"answers stored {len(keys)}, acknowledged {len(sent)}, stored but not heard of {unheard}")
    return wrong


def percentile(values: list[float], share: float) -> str:
    """In milliseconds."""
    ordered = sorted(values)
    return f"{1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.0f}" if ordered else "-"


def main() -> int:
    """Run it; 1 if anything was lost or counted twice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default="", help="a PostgreSQL URL; without it a SQLite file is made")
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--think", type=float, default=0.0, help="seconds that a person reads, on average")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where = given.store or str(Path(folder) / "prefloop.db")
        with Store.open(where) as store:
            studio = Studio(store)
            demo.fill(store, given.items)
            project = studio.create_project(
                ProjectSettings(name=f"load {uuid4().hex[:6]}", overlap=given.overlap)
            ).id
            studio.add_tasks(project, store.add_pairs().ids)
            tokens = []
            for number in range(given.people):
                login = f"p{number}-{uuid4().hex[:6]}"
                who = accounts.add_person(studio, login, "three small words", "annotator")
                tokens.append(accounts.new_token(studio, who, "load", ["annotate"]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = Server(where, port, given.workers)
        server.start()
        results, began = Results(), time.monotonic()
        until = began + given.seconds
        threads = [
            threading.Thread(
                target=person,
                args=(f"http://127.0.0.1:{port}", token, project, results, until, n, given.think),
            )
            for n, token in enumerate(tokens)
        ]
        for thread in threads:
            thread.start()
        moments = sorted(random.Random(0).uniform(0.1, 0.9) * given.seconds for _ in range(given.kills))
        away = 0.0
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            killed = time.monotonic()
            server.kill()
            server.start()
            away += time.monotonic() - killed
        for thread in threads:
            thread.join()
        lasted = time.monotonic() - began
        server.kill()
        wrong = check(where, project, results)
    count = len(results.acknowledged)
    print(
        f"{given.people} people, {len(moments)} kills, {lasted:.0f} s of which the server was away {away:.0f} s"
    )
    print(f"{count / max(lasted - away, 1e-9):.0f} answers per second while it was there")
    for name, values in (
        ("until acknowledged, undisturbed", results.took),
        ("until acknowledged, kills counted in", results.took_with_kills),
        ("until the next item is there", results.asked),
    ):
        shares = ", ".join(f"p{int(100 * share)} {percentile(values, share)}" for share in (0.5, 0.95, 0.99))
        print(f"milliseconds {name}: {shares}")
    print(json.dumps({"wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
