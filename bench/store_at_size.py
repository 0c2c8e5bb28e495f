"""What the studio's pages cost in a store with millions of judgements on PostgreSQL, and which of them read more the more there is.

    python -m bench.store_at_size --judgements 100000 1000000
    python -m bench.store_at_size --judgements 1000000 10000000 --keep FOLDER --plans plans.txt --export

For each size a database of a server of Debian's package is filled: a thousand annotators, pairs of replies of about 300 characters, three answers each, and
a tenth of the items still open. The rows are made by the server and loaded with COPY, without the checks that rows of the studio pass, by a server that
does not wait for its disk; then VACUUM and ANALYZE, as autovacuum would, and the server is started with `shared_buffers` of 2 GB and all other
settings as they come. `--keep` leaves it in a folder, whose databases are not filled again: 10 million judgements take 19 GB. Every page is asked for over HTTP in this process; printed are the median of `--times`, its statements, and the blocks of
8 kB that PostgreSQL touched for them, which no other work on the machine changes. A page that reads more blocks in the larger store grows with it.
`--plans` writes the plans of the statements of the largest store.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

from fastapi.testclient import TestClient
from sqlalchemy import event, text

from bench.studio_load import postgresql
from prefloop.data.store import Filters, Store
from prefloop.studio import accounts
from prefloop.studio.app import make_app
from prefloop.studio.security import COOKIE, Hosts
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings

LOADING = (
    *(
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "wal_level=minimal",
        "max_wal_senders=0",
    ),
    *("max_wal_size=8GB", "checkpoint_timeout=1h", "maintenance_work_mem=1GB", "autovacuum=off"),
)
SERVING = ("shared_buffers=2GB",)
SUMS: tuple[str, ...] = import_module("prefloop.data.store.migrations.versions.0021_tally").FILL
PEOPLE = 1000
OVERLAP = 3
CHUNK = 500_000
"""Rows that one COPY loads."""
AT_ONCE = 2
"""Tables that are loaded at a time, and indexes that are made."""
WORDS = "(SELECT string_agg('w' || (({n} * 7919::bigint + word * word * 31) % 5000), ' ') FROM generate_series(1, 50) word)"


def rows(judgements: int, project: int, first_person: int) -> dict[str, tuple[int, str]]:
    """Table -> how many rows, and the SELECT that makes them from the numbers `n`. Items come first that have all answers, then the open ones."""
    items = judgements // OVERLAP * 10 // 9
    judged = judgements // OVERLAP
    at = "timestamptz '2026-01-01' + n * interval '1 second'"
    person = f"{first_person} + ((n - 1) / {OVERLAP} * 7 + (n - 1) % {OVERLAP} * 331) % {PEOPLE}"
    item = f"(n - 1) / {OVERLAP} + 1"
    return {
        "prompt (id, sha256, content, tags, origin, created_at)": (
            items,
            f"SELECT n, lpad(n::text, 64, '0'), to_json('question ' || n || ' ' || left({WORDS.format(n='n')}, 100)), '[]'::json, '', {at}",
        ),
        "completion (id, prompt_id, checkpoint_id, text, text_sha256, logprob, tokens, ended, temperature, top_p, top_k, seed, sample_index, created_at)": (
            2 * items,
            f"SELECT n, (n + 1) / 2, 1 + n % 2, {WORDS.format(n='n')} || CASE n WHEN {items} THEN ' needle' ELSE '' END, lpad(n::text, 64, '0'), "
            f"0, 50, true, 1, 1, 0, 0, n % 2, {at}",
        ),
        "item (id, key, prompt_id, kind, strategy, round, created_at)": (
            items,
            f"SELECT n, lpad(n::text, 64, '0'), n, 'pair', 'random', n % 10, {at}",
        ),
        "item_completion (item_id, slot, completion_id)": (2 * items, "SELECT (n + 1) / 2, (n + 1) % 2, n"),
        "task (id, project_id, item_id, queue, position, overlap, taken, open, gold, stage, gold_note, archived, audience)": (
            items,
            f"SELECT n, {project}, n, 0, (n * 7919::bigint) % 1000003, {OVERLAP}, CASE WHEN n <= {judged} THEN {OVERLAP} ELSE 0 END, n > {judged}, "
            "'', '', '', false, ''",
        ),
        "judgement (id, item_id, annotator_id, order_shown, choice, strength, margin, ranking, duration_ms, guideline_version, idempotency_key, created_at)": (
            judged * OVERLAP,
            f"SELECT n, {item}, {person}, '[0, 1]'::json, CASE WHEN n % 5 < 3 THEN 'a' ELSE 'b' END, 0, 0, '[]'::json, 9000, '', "
            f"'studio ' || lpad(n::text, 22, 't') || ' ' || lpad(n::text, 32, 'k'), {at}",
        ),
        "assignment (id, token, task_id, project_id, annotator_id, state, order_shown, leased_at, expires_at, finished_at, judgement_id, draft)": (
            judged * OVERLAP,
            f"SELECT n, lpad(n::text, 22, 't'), {item}, {project}, {person}, 'submitted', '[0, 1]'::json, {at}, {at}, {at}, n, '{{}}'::json",
        ),
        "judgement_detail (judgement_id, assignment_id, rationale, flags, ratings, edited)": (
            judged * OVERLAP,
            "SELECT n, n, '', '[]'::json, '{}'::json, ''",
        ),
        "audit_event (at, annotator_id, action, entity, entity_id, detail)": (
            judged * OVERLAP,
            f"SELECT {at}, {person}, 'submit', 'assignment', n, '{{\"project\": {project}}}'::json",
        ),
    }


def fill(where: str, judgements: int) -> tuple[int, str, str]:
    """Fill a new store; the number of its project, a token of one of its annotators, and one of an admin."""
    import psycopg

    with Store.open(where) as store:
        studio = Studio(store)
        project = studio.create_project(ProjectSettings(name="large", overlap=OVERLAP, access="everyone")).id
        for name in ("one", "other"):
            store.add_checkpoint(name)
        nobody, made = accounts.no_password(), []
        with studio.write() as session:
            for number in range(PEOPLE):
                made.append(
                    accounts.add_account(session, f"p{number}", nobody, "annotator", studio.clock()).id
                )
            boss = accounts.add_account(session, "boss", nobody, "admin", studio.clock()).id
        one = accounts.who_of(studio, made[0])
        token = accounts.new_token(studio, one, "bench", ["annotate", "read"])
        boss_token = accounts.new_token(
            studio, accounts.who_of(studio, boss), "bench", ["annotate", "read", "admin"]
        )
    made_by = rows(judgements, project, one.annotator)
    indexes = _without_indexes(where)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for told in pool.map(lambda table: _copy(where, table, *made_by[table]), made_by):
            print(told, flush=True)
        began = time.monotonic()
        for _ in pool.map(lambda index: _execute(where, index), indexes):
            pass
        # Triggers did not run either.
        for _ in pool.map(lambda sums: _execute(where, sums), SUMS):
            pass
    print(f"  {len(indexes)} indexes and {len(SUMS)} sums in {time.monotonic() - began:.0f} s", flush=True)
    with psycopg.connect(where, autocommit=True) as connection:
        for table in rows(judgements, project, one.annotator):
            name = table.split()[0]
            last = f"(SELECT max(id) FROM {name})"
            if "(id," in table:
                connection.execute(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), {last})".encode())
        connection.execute("VACUUM ANALYZE")
    return project, token, boss_token


def _without_indexes(where: str) -> list[str]:
    """Drop the indexes that are no constraint of a table; how each is made again. An index that is made of all rows at once takes a fraction of the time."""
    import psycopg

    with psycopg.connect(where) as connection:
        found = connection.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE relnamespace = 'public'::regnamespace AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)"
        ).fetchall()
        for name, _ in found:
            connection.execute(f"DROP INDEX {name}".encode())
    return [made for _, made in found]


def _copy(where: str, table: str, count: int, made_by: str) -> str:
    """Load a table; what was done, in words."""
    import psycopg

    began = time.monotonic()
    with psycopg.connect(where) as reads, psycopg.connect(where) as writes:
        # As a superuser: no foreign key is looked up for millions of rows that fit by construction.
        writes.execute("SET session_replication_role = replica")
        for start in range(1, count + 1, CHUNK):
            numbers = f"generate_series({start}, {min(start + CHUNK - 1, count)}) n"
            with (
                reads.cursor().copy(f"COPY ({made_by} FROM {numbers}) TO STDOUT".encode()) as source,
                writes.cursor().copy(f"COPY {table} FROM STDIN".encode()) as target,
            ):
                for block in source:
                    target.write(block)
    return f"  {table.split()[0]}: {count} rows in {time.monotonic() - began:.0f} s"


def _execute(where: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(statement.encode())


@dataclass
class Heard:
    """The statements of a page."""

    said: list[tuple[str, Any]] = field(default_factory=list)

    def hear(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self.said.append((statement, parameters))


def blocks(studio: Studio, said: Sequence[tuple[str, Any]]) -> tuple[int, list[str]]:
    """Blocks that the reading statements touch, each run once more in a transaction that is taken back, and their plans."""
    total, plans = 0, []
    engine = studio.store.database._engine
    for statement, parameters in said:
        if not statement.lstrip().startswith(("SELECT", "(SELECT", "WITH")):
            continue
        with engine.connect() as connection:
            plan = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
            ).scalar_one()[0]["Plan"]
            total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            lines = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
            plans.append(f"{statement}\n\n" + "\n".join(row[0] for row in lines))
            connection.rollback()
    return total, plans


def pages(project: int, items: int, pseudonym: str) -> dict[str, tuple[str, str, str, object]]:
    """Name -> who asks, and the request."""
    at = f"/api/v1/projects/{project}"
    find = f"{at}/items/find"
    return {
        "an annotator's projects": ("one", "GET", "/api/v1/projects", None),
        "own answers, newest 50": ("one", "GET", "/api/v1/me/history", None),
        "progress of a project": ("boss", "GET", at, None),
        "items, newest 50": ("boss", "POST", find, {}),
        "items, 50 in the middle": ("boss", "POST", f"{find}?before={items // 2}", {}),
        "items, a word in many": ("boss", "POST", find, {"text": "w31"}),
        "items, a word in one": ("boss", "POST", find, {"text": "needle"}),
        "items, one person's": ("boss", "POST", find, {"annotator": pseudonym}),
        "one item, every answer": ("boss", "GET", f"{at}/items/5", None),
        "audit log, newest": ("boss", "GET", "/api/v1/audit", None),
        "people": ("boss", "GET", "/api/v1/people", None),
        "page: projects": ("one", "GET", "/", None),
        "page: own answers": ("one", "GET", "/history", None),
        "page: a project": ("boss", "GET", f"/admin/projects/{project}", None),
        "page: people at work": ("boss", "GET", f"/admin/projects/{project}/people", None),
        "page: items": ("boss", "GET", f"/admin/projects/{project}/items", None),
        "page: one annotator": ("boss", "GET", f"/admin/annotators/{pseudonym}", None),
        "page: quality": ("boss", "GET", "/admin/quality", None),
        "page: rounds": ("boss", "GET", "/admin", None),
    }


def measure(
    where: str, judgements: int, filled: tuple[int, str, str], times: int, but: Sequence[str]
) -> tuple[dict[str, tuple[float, int, int]], list[str]]:
    """Page -> milliseconds, statements and blocks; and the plans of them all. `filled`: what `fill` gave. `but`: pages that are not asked for."""
    project, token, boss_token = filled
    found: dict[str, tuple[float, int, int]] = {}
    plans: list[str] = []
    with Store.open(where) as store:
        studio, heard = Studio(store), Heard()
        app = make_app(studio, hosts=Hosts.of("127.0.0.1"))
        who, boss = accounts.of_token(studio, token), accounts.of_token(studio, boss_token)
        assert who is not None
        assert boss is not None
        cookies = {
            "one": {"Cookie": f"{COOKIE}={accounts.open_session(studio, who.account)}"},
            "boss": {"Cookie": f"{COOKIE}={accounts.open_session(studio, boss.account)}"},
        }
        with studio.read() as session:
            pseudonym = session.scalar(text(f"SELECT name FROM annotator WHERE id = {who.annotator}"))
            size = session.scalar(text("SELECT pg_database_size(current_database())"))
        event.listen(store.database._engine, "before_cursor_execute", heard.hear)
        with TestClient(app, base_url="http://127.0.0.1") as client:
            ask = {
                "one": {"Authorization": f"Bearer {token}"},
                "boss": {"Authorization": f"Bearer {boss_token}"},
            }

            def next_and_answer() -> None:
                body = {"project": project}
                got = client.post("/api/v1/assignments/next", json=body, headers=ask["one"])
                at = f"/api/v1/assignments/{got.json()['assignment']['token']}/submit"
                key = {"Idempotency-Key": uuid4().hex}
                said = client.post(at, json={"choice": "first"}, headers=ask["one"] | key)
                assert said.status_code == 200, said.text

            def page(by: str, method: str, address: str, body: object) -> Callable[[], None]:
                def get() -> None:
                    head = ask[by] if address.startswith("/api") else cookies[by]
                    said = client.request(method, address, json=body, headers=head)
                    assert said.status_code == 200, f"{address}: {said.status_code} {said.text[:300]}"

                return get

            asked = {"the next item and an answer": next_and_answer} | {
                name: page(*how)
                for name, how in pages(project, judgements // OVERLAP, str(pseudonym)).items()
            }
            for name, do in asked.items():
                if name in but:
                    continue
                do()  # what is compiled and read from disk once
                took = []
                for _ in range(times):
                    heard.said.clear()
                    began = time.perf_counter()
                    do()
                    took.append(1000 * (time.perf_counter() - began))
                said = list(heard.said)
                touched, of_page = blocks(studio, said)
                found[name] = (statistics.median(took), len(said), touched)
                plans += [f"## {name}\n\n{each}" for each in of_page]
                print(
                    f"  {name}: {found[name][0]:.0f} ms, {len(said)} statements, {touched} blocks", flush=True
                )
        print(f"  {judgements} judgements: {(size or 0) / 2**20:.0f} MiB of database", flush=True)
    return found, plans


def export_memory(where: str) -> str:
    """How much memory an export of everything takes beyond what a process has with the store open, and its time."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_export, where).result()


def _export(where: str) -> str:
    with Store.open(where) as store, tempfile.TemporaryDirectory() as folder:
        before, began = _peak(), time.monotonic()
        made = store.export("comparisons", Filters(), path=Path(folder) / "all.jsonl")
        took, after = time.monotonic() - began, _peak()
    return f"export of {made.rows} comparisons: {took:.0f} s, memory peaked at {after:.0f} MiB, {before:.0f} before"


def _peak() -> float:
    """MiB of memory that this process had at the most. `ru_maxrss` would begin with what its parent had."""
    told = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()
    return int(told[0]) / 1024


def database(server: str, judgements: int) -> str:
    """The address of the database of a size."""
    return server.replace("/postgres?", f"/judgements_{judgements}?")


def filled_once(folder: Path, judgements: int) -> tuple[int, str, str]:
    """What `fill` gives for a database in this folder, which is made unless it is there."""
    import psycopg

    known = folder / f"{judgements}.json"
    if not known.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        with postgresql(folder, (*LOADING, *SERVING)) as server:
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE judgements_{judgements}".encode())
            began = time.monotonic()
            made = fill(database(server, judgements), judgements)
            print(f"  filled in {time.monotonic() - began:.0f} s", flush=True)
        known.write_text(json.dumps(made))
    project, token, boss_token = json.loads(known.read_text())
    return project, token, boss_token


def main() -> int:
    """Print a row for each page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judgements", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--but", nargs="*", default=[], help="pages that are not asked for, by name")
    parser.add_argument("--keep", type=Path, help="a folder for the server's data, which stays there")
    parser.add_argument(
        "--export", action="store_true", help="also export everything, and measure its memory"
    )
    parser.add_argument("--plans", default="", help="a file for the plans of the largest store's statements")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    found: dict[int, dict[str, tuple[float, int, int]]] = {}
    plans: list[str] = []
    for size in sorted(given.judgements):
        print(f"{size} judgements", flush=True)
        with ExitStack() as stack:
            folder = given.keep or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="store-at-size-"))
            )
            filled = filled_once(folder, size)
            where = database(stack.enter_context(postgresql(folder, SERVING)), size)
            found[size], plans = measure(where, size, filled, given.times, given.but)
            if given.export:
                print(f"  {export_memory(where)}", flush=True)
    print("| page | " + " | ".join(f"{size}: ms, statements, blocks" for size in found) + " |")
    print("| -- |" + " -- |" * len(found))
    for name in found[max(found)]:
        cells = (f"{ms:.0f}, {said}, {touched}" for ms, said, touched in (of[name] for of in found.values()))
        print(f"| {name} | " + " | ".join(cells) + " |")
    if given.plans:
        Path(given.plans).write_text("\n\n".join(plans))
    return 0


if __name__ == "__main__":
    sys.exit(main())
