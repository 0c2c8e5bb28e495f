"""Fifty annotators at once, and a server that is killed again and again: is anything that was acknowledged lost, or counted twice?

    python -m bench.studio_load
    python -m bench.studio_load --postgresql --workers 2
    python -m bench.studio_load --modes killed --seconds 60 --kills 10
    python -m bench.studio_load --store postgresql://user@host/database

Each person does what the labelling page does: while they read an item the next one is asked for, and an answer is sent again until it is acknowledged.
There are three modes, one after the other, each in a project of its own:

- `reading`: they read for `--think` seconds (half to one and a half times, uniformly) before they answer. 30 s is two comparisons a minute: adults read
  238 words a minute (Brysbaert 2019, doi:10.1016/j.jml.2019.104047), so that is time for a prompt and two replies of 119 words in all, read once. 5 s
  is faster than people compare texts; two clips of a second or two took Christiano et al. (arXiv:1706.03741) 3.6 s, 5,000 labels in five hours;
- `saturated`: they answer at once, so every request waits in a queue of all the others;
- `killed`: as saturated, and the server with its workers is killed with SIGKILL at random moments and started again, `--kills` times.

At the end of each every acknowledged answer must be in the store exactly once, and no item may have more answers than the overlap. One line for each
mode: answers per second while the server was there, percentiles in milliseconds until the next item is there and until an answer is acknowledged,
undisturbed by kills, and the processor time of the server, of PostgreSQL and of the people themselves for an answer and the item before it, which other
work on the machine changes less than the waiting. `--people 1 --modes saturated` is the cost without a queue. The numbers are of this machine, all of
them together on it. `--postgresql` starts a server of Debian's package for this run, with its settings as they come (`fsync` on).
"""

import argparse
import asyncio
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
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
from sqlalchemy import func, select, text

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
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise SystemExit("the server did not start within five minutes")

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


class Line:
    """A connection that asks one thing after the other. As little as possible, so that the processor is the server's."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.head = (
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        )
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: object, *, key: str = "") -> tuple[int, bytes]:
        """Status and body. `OSError`, or the `EOFError` of a half answer, where the server has gone."""
        sent = json.dumps(body).encode()
        more = f"Idempotency-Key: {key}\r\n" if key else ""
        head = f"POST /api/v1{path} HTTP/1.1\r\n{self.head}{more}Content-Length: {len(sent)}\r\n\r\n"
        try:
            if self.writer is None or self.reader is None or self.reader.at_eof():
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.writer.write(head.encode() + sent)
            told = await self.reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in told.split(b"\r\n")[1:-2])
            answer = await self.reader.readexactly(int(fields[b"content-length"]))
            if fields.get(b"connection") == b"close":
                self.close()
            return int(told.split(b" ", 2)[1]), answer
        except (OSError, EOFError):
            self.close()
            raise

    def close(self) -> None:
        """The next request makes a new connection."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def person(
    port: int, token: str, project: int, results: Results, until: float, seed: int, think: float = 0.0
) -> None:
    """Ask and answer as the page does: while an item is read, the next one is asked for. A request that fails is sent again."""
    draw = random.Random(seed)
    line = Line(port, token)
    await asyncio.sleep(draw.uniform(0, think))  # they do not all begin at once
    try:
        item = await _next(line, project, [], results, until)
        while item is not None and time.monotonic() < until:
            read = time.monotonic() + think * draw.uniform(0.5, 1.5)
            following = await _next(line, project, [item], results, until)
            await asyncio.sleep(max(0.0, read - time.monotonic()))
            if not await _answer(line, item, draw, results):
                return
            item = following
    finally:
        line.close()


async def _next(line: Line, project: int, have: list[str], results: Results, until: float) -> str | None:
    """The token of the next item; None if there is none, or the time is over."""
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            status, body = await line.post("/assignments/next", {"project": project, "have": have})
        except (OSError, EOFError):
            status, body = 503, b""
        if status >= 500 or status == 429:
            await asyncio.sleep(0.1)
            continue
        if status != 200:
            results.wrong.append(f"asking: {status} {body[:200]!r}")
            return None
        results.asked.append(time.monotonic() - began)
        item = json.loads(body)["assignment"]
        return None if item is None else item["token"]
    return None


async def _answer(line: Line, token: str, draw: random.Random, results: Results) -> bool:
    key, began, requests = uuid4().hex, time.monotonic(), 0
    body = {"choice": draw.choice(["first", "second", "tie"]), "duration_ms": 1000}
    while True:
        requests += 1
        try:
            status, said = await line.post(f"/assignments/{token}/submit", body, key=key)
        except (OSError, EOFError):
            status, said = 503, b""
        if status < 500 and status != 429:
            break
        await asyncio.sleep(0.1)
    took = time.monotonic() - began
    if status != 200:
        results.wrong.append(f"{status} {said[:200]!r}")
        return False
    results.acknowledged.append((token, key))
    results.took_with_kills.append(took)
    if requests == 1:
        results.took.append(took)
    return True


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
        nobody = accounts.no_password()  # they have tokens; hashing a password for each would take a minute
        tokens = []
        for number in range(given.people):
            with studio.write() as session:
                login = f"p{number}-{uuid4().hex[:6]}"
                account = accounts.add_account(session, login, nobody, "annotator", studio.clock()).id
            who = accounts.who_of(studio, account)
            tokens.append(accounts.new_token(studio, who, "load", ["annotate"]))
    return project, tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Processor seconds since some moment."""

    server: float
    database: float
    """0 for SQLite, whose work is in the server, and for a server of somebody else's."""
    client: float
    wal: float
    """Bytes that PostgreSQL wrote to its log; 0 for SQLite."""

    def since(self, before: "Spent") -> "Spent":
        """The seconds between two moments."""
        return Spent(
            server=self.server - before.server,
            database=self.database - before.database,
            client=self.client - before.client,
            wal=self.wal - before.wal,
        )


def spent(server: Server, where: str) -> Spent:
    """Processor seconds so far."""
    return Spent(
        server=server.cpu(), database=database_cpu(where), client=time.process_time(), wal=wal_of(where)
    )


def wal_of(where: str) -> float:
    """Bytes of PostgreSQL's log so far."""
    if not where.startswith("postgres"):
        return 0.0
    with Store.open(where, create=False) as store, store.database.read() as session:
        return float(session.scalar(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")) or 0)


def database_cpu(where: str) -> float:
    """Processor seconds of a PostgreSQL server that `postgresql` started, those of connections that have ended among them."""
    try:
        lines = (Path(where.rpartition("host=")[2]) / "data" / "postmaster.pid").read_text().split()
    except OSError:
        return 0.0
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            id, _, told = stat.read_text().partition(" ")
        except OSError:
            continue
        fields = told.rpartition(")")[2].split()
        if id == lines[0]:
            ticks += sum(map(int, fields[11:15]))
        elif fields[1] == lines[0]:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def work(
    server: Server, project: int, tokens: Sequence[str], given: argparse.Namespace, think: float, kills: int
) -> tuple[Results, float]:
    """Let everybody work at a server, and kill it now and then; what they saw, and the seconds without it."""
    results, began, away = Results(), time.monotonic(), 0.0
    people = [
        asyncio.create_task(
            person(server.port, token, project, results, began + given.seconds, number, think)
        )
        for number, token in enumerate(tokens)
    ]
    for moment in sorted(random.Random(0).uniform(0.1, 0.9) * given.seconds for _ in range(kills)):
        await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
        killed = time.monotonic()
        server.kill()
        await asyncio.to_thread(server.start)
        away += time.monotonic() - killed
    await asyncio.gather(*people)
    return results, away


def measure(where: str, mode: str, given: argparse.Namespace) -> list[str]:
    """Do one mode, print its line, and return what was wrong."""
    project, tokens = prepare(where, given)
    think, kills = given.think if mode == "reading" else 0.0, given.kills if mode == "killed" else 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(where, port, given.workers)
    print(f"{len(tokens)} people and {given.items} items are there", flush=True)
    loads = [os.getloadavg()[0]]
    with ExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        before, began = spent(server, where), time.monotonic()
        results, away = asyncio.run(work(server, project, tokens, given, think, kills))
        lasted, used = time.monotonic() - began, spent(server, where).since(before)
    loads.append(os.getloadavg()[0])
    wrong, stored = check(where, project, results)
    count = max(1, len(results.acknowledged))
    kind = "postgresql" if where.startswith("postgres") else "sqlite"
    of_server = "-" if kills else f"{1000 * used.server / count:.1f}"
    print(
        f"{kind}, {given.workers} worker{'s' * (given.workers > 1)}, {mode}: {given.people} people"
        f"{f', {60 / think:.0f} answers a minute each' if think else ''}, {lasted:.0f} s, {kills} kills, away {away:.0f} s | "
        f"acknowledged {len(results.acknowledged)}, stored {stored}, lost or doubled {len(wrong)} | "
        f"{len(results.acknowledged) / max(lasted - away, 1e-9):.1f} answers/s | "
        f"ms p50/p95/p99: next item {percentiles(results.asked)}, acknowledged {percentiles(results.took)}, with kills "
        f"{percentiles(results.took_with_kills)} | processor ms an answer and the item before it: server {of_server}, "
        f"database {1000 * used.database / count:.1f}, client {1000 * used.client / count:.1f} | "
        f"log bytes an answer {used.wal / count:.0f} | "
        f"load average {loads[0]:.1f} before, {loads[1]:.1f} after",
        flush=True,
    )
    return wrong


@contextmanager
def postgresql(folder: Path | None = None, settings: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a PostgreSQL server that is there for this long; as root it runs as the user postgres. `folder`: where its data stay, and are found again;
    without one they go with it. `settings`: as NAME=VALUE."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise SystemExit(
            "PostgreSQL is not there; install Debian's package postgresql, or name a server with --store"
        )
    place = folder or Path(tempfile.mkdtemp(prefix="studio-load-"))
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    user = "postgres" if as_user else getpass.getuser()

    def do(program: str, *arguments: str) -> None:
        subprocess.run(
            [*as_user, str(found[-1] / program), *arguments], check=True, stdout=subprocess.DEVNULL
        )

    try:
        if as_user:
            shutil.chown(place, user)
        data = str(place / "data")
        if not Path(data).exists():
            do("initdb", "-D", data, "-U", user, "-A", "trust", "-E", "UTF8")
        more = "".join(f" -c {each}" for each in settings)
        options = f"-c listen_addresses='' -k {place}{more}"
        do("pg_ctl", "-D", data, "-l", str(place / "log"), "-o", options, "-w", "-t", "300", "start")
        try:
            yield f"postgresql://{user}@/postgres?host={place}"
        finally:
            do("pg_ctl", "-D", data, "-m", "fast" if folder else "immediate", "-w", "-t", "600", "stop")
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


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
    parser.add_argument("--think", type=float, default=30.0, help="seconds that a person reads, on average")
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
