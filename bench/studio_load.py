"""Fifty annotators at once, and a server that is killed again and again: is anything that was acknowledged lost, or counted twice?

    python -m bench.studio_load
    python -m bench.studio_load --postgresql --workers 2
    python -m bench.studio_load --modes killed --seconds 60 --kills 10
    python -m bench.studio_load --store postgresql://user@host/database

Each person is a thread that asks for an item over HTTP, answers it, and sends the same answer again until it is acknowledged. There are three modes,
one after the other, each in a project of its own:

- `reading`: they read for `--think` seconds (half to one and a half times, uniformly) before they answer, as people do, if very fast ones;
- `saturated`: they answer at once, so every request waits in a queue of all the others;
- `killed`: as saturated, and the server with its workers is killed with SIGKILL at random moments and started again, `--kills` times.

At the end of each every acknowledged answer must be in the store exactly once, and no item may have more answers than the overlap. One line for each
mode: answers per second while the server was there, percentiles in milliseconds until the next item is there and until an answer is acknowledged,
undisturbed by kills, and the processor time of the server for an answer and the item before it (where it was not killed; PostgreSQL's own is not in
it). `--people 1 --modes saturated` is the cost without a queue. The numbers are of this machine, client and server together on it. `--postgresql` starts a
server of Debian's package for this run, with its settings as they come (`fsync` on).
"""

import argparse
import getpass
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
from sqlalchemy import func, select

from prefloop.data.store import Store, models, studio_models
from prefloop.studio import accounts, demo
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings

MODES = ("reading", "saturated", "killed")


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

    def cpu(self) -> float:
        """Processor seconds that the server and its workers have used so far; 0 where /proc does not say."""
        assert self.process is not None
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                told = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(told[2]) == self.process.pid:
                ticks += int(told[11]) + int(told[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """SIGKILL to the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


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


def check(where: str, project: int, results: Results) -> tuple[list[str], int]:
    """What is wrong with the store after all that, empty if nothing is; and how many answers of the project it holds."""
    task, assignment, judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow
    wrong = list(results.wrong)
    with Store.open(where, create=False) as store, store.database.read() as session:
        mine = set(
            session.scalars(
                select(assignment.token)
                .join(task, task.id == assignment.task_id)
                .where(task.project_id == project)
            )
        )
        keys = [key for key in session.scalars(select(judgement.idempotency_key)) if key.split()[1] in mine]
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
    return wrong, len(keys)


def percentiles(values: Sequence[float]) -> str:
    """p50, p95 and p99 in milliseconds."""
    ordered = sorted(values)
    shares = (
        ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 0.99) if ordered
    )
    return "/".join(f"{1000 * each:.0f}" for each in shares) or "-"


def prepare(where: str, given: argparse.Namespace) -> tuple[int, list[str]]:
    """A project with items, and a token for each person."""
    with Store.open(where) as store:
        studio = Studio(store)
        demo.fill(store, given.items)
        project = studio.create_project(
            ProjectSettings(name=f"load {uuid4().hex[:6]}", overlap=given.overlap)
        ).id
        studio.add_tasks(project, store.add_pairs().ids)
        tokens = []
        for number in range(given.people):
            who = accounts.add_person(
                studio, f"p{number}-{uuid4().hex[:6]}", "three small words", "annotator"
            )
            tokens.append(accounts.new_token(studio, who, "load", ["annotate"]))
    return project, tokens


def drive(
    server: Server, project: int, tokens: Sequence[str], given: argparse.Namespace, think: float, kills: int
) -> tuple[Results, float, float, float]:
    """Let everybody work at a server, and kill it now and then; what they saw, and seconds: of its processor, of all, without it."""
    server.start()
    cpu, results, began = server.cpu(), Results(), time.monotonic()
    until = began + given.seconds
    base = f"http://127.0.0.1:{server.port}"
    threads = [
        threading.Thread(
            target=person, args=(base, token, project, results, until, number, think), daemon=True
        )
        for number, token in enumerate(tokens)
    ]
    for thread in threads:
        thread.start()
    away = 0.0
    for moment in sorted(random.Random(0).uniform(0.1, 0.9) * given.seconds for _ in range(kills)):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        killed = time.monotonic()
        server.kill()
        server.start()
        away += time.monotonic() - killed
    for thread in threads:
        thread.join()
    lasted, cpu = time.monotonic() - began, server.cpu() - cpu
    return results, cpu, lasted, away


def measure(where: str, mode: str, given: argparse.Namespace) -> list[str]:
    """Do one mode, print its line, and return what was wrong."""
    project, tokens = prepare(where, given)
    think, kills = given.think if mode == "reading" else 0.0, given.kills if mode == "killed" else 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(where, port, given.workers)
    with ExitStack() as stack:
        stack.callback(server.kill)
        results, cpu, lasted, away = drive(server, project, tokens, given, think, kills)
    wrong, stored = check(where, project, results)
    count = len(results.acknowledged)
    kind = "postgresql" if where.startswith("postgres") else "sqlite"
    spent = "-" if kills or not count else f"{1000 * cpu / count:.1f}"
    print(
        f"{kind}, {given.workers} worker{'s' * (given.workers > 1)}, {mode}: {given.people} people, {lasted:.0f} s, {kills} kills, away {away:.0f} s | "
        f"acknowledged {count}, stored {stored}, lost or doubled {len(wrong)} | {count / max(lasted - away, 1e-9):.1f} answers/s | "
        f"ms p50/p95/p99: next item {percentiles(results.asked)}, acknowledged {percentiles(results.took)}, with kills "
        f"{percentiles(results.took_with_kills)} | server ms of processor an answer {spent}",
        flush=True,
    )
    return wrong


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that is there for this long; as root it runs as the user postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise SystemExit(
            "PostgreSQL is not there; install Debian's package postgresql, or name a server with --store"
        )
    folder = Path(tempfile.mkdtemp(prefix="studio-load-"))
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    user = "postgres" if as_user else getpass.getuser()

    def do(program: str, *arguments: str) -> None:
        subprocess.run(
            [*as_user, str(found[-1] / program), *arguments], check=True, stdout=subprocess.DEVNULL
        )

    try:
        if as_user:
            shutil.chown(folder, user)
        data = str(folder / "data")
        do("initdb", "-D", data, "-U", user, "-A", "trust", "-E", "UTF8")
        do(
            "pg_ctl",
            "-D",
            data,
            "-l",
            str(folder / "log"),
            "-o",
            f"-c listen_addresses='' -k {folder}",
            "-w",
            "start",
        )
        try:
            yield f"postgresql://{user}@/postgres?host={folder}"
        finally:
            do("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run it; 1 if anything was lost or counted twice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default="", help="a database URL; without it a SQLite file is made")
    parser.add_argument("--postgresql", action="store_true", help="start a PostgreSQL server for this run")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--think", type=float, default=5.0, help="seconds that a person reads, on average")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with ExitStack() as stack:
        where = given.store
        if given.postgresql:
            where = stack.enter_context(postgresql())
        where = where or str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "prefloop.db")
        wrong = [each for mode in given.modes for each in measure(where, mode, given)]
    if wrong:
        print(json.dumps({"wrong": wrong[:20]}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
