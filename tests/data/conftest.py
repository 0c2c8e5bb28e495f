"""Databases for the store's tests: SQLite always, and a real PostgreSQL server of our own where Debian's package is installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest

from prefloop.data.store import Store

SERVER_USERS = ("postgres", "nobody")
"""initdb refuses to run as root; the first of these that exists runs the server then."""


GUARDED = "guarded"
"""A user of the server who needs a password, once there is such a one; all others need none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresServer:
    """A running server. It listens on a socket in its own folder only."""

    socket_folder: Path
    port: int
    user: str

    def url(self, schema: str) -> str:
        place = f"host={self.socket_folder}&port={self.port}&options=-csearch_path%3D{schema}"
        return f"postgresql://{self.user}@/postgres?{place}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A fresh PostgreSQL server for this test session; skips, with what is missing, where there cannot be one."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's initdb is neither in /usr/lib/postgresql nor beside pg_ctl on PATH")
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (pip install 'prefloop[postgres]')")
    user = _server_user()
    if user is None:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user {' or '.join(SERVER_USERS)}")
    # Not in pytest's folder, which the other user may not enter, and whose long name a socket's path cannot hold.
    folder = Path(tempfile.mkdtemp(prefix="prefloop-pg-", dir=_quick_folder()))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = folder / "data"
        _run_as(user, [programs / "initdb", "-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale"])  # fmt: skip
        hba = data / "pg_hba.conf"
        hba.write_text(f"local all {GUARDED} scram-sha-256\n{hba.read_text()}")
        settings = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c port={port} -c fsync=off -c max_connections=30"
        _run_as(user, [programs / "pg_ctl", "-D", data, "-l", folder / "log", "-o", settings, "-w", "start"])
        try:
            yield PostgresServer(socket_folder=folder, port=port, user=user)
        finally:
            _run_as(user, [programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """Makes an empty schema in the PostgreSQL server, which is much quicker than a database, and returns the URL that leads to it."""
    import psycopg

    numbers = count()

    def new() -> str:
        name = f"test_{next(numbers)}"
        server = postgres_server
        with psycopg.connect(
            dbname="postgres",
            host=str(server.socket_folder),
            port=server.port,
            user=server.user,
            autocommit=True,
        ) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return server.url(name)

    return new


@pytest.fixture(scope="session")
def own_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """Makes an empty database in the PostgreSQL server and returns the URL that leads to it: for programs that copy whole databases."""
    import psycopg

    numbers = count()

    def new() -> str:
        name, server = f"own_{next(numbers)}", postgres_server
        place = {"host": str(server.socket_folder), "port": server.port, "user": server.user}
        with psycopg.connect(dbname="postgres", autocommit=True, **place) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://{server.user}@/{name}?host={server.socket_folder}&port={server.port}"

    return new


DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Where a new store can be opened in a database of that kind."""

    def new(kind: str) -> str:
        if kind == "sqlite":
            return str(tmp_path_factory.mktemp("store") / "prefloop.db")
        return request.getfixturevalue("new_database")()

    return new


@pytest.fixture(params=DATABASES)
def store_url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """Where a new store can be opened, on each database."""
    return new_url(request.param)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A new, empty store, on each database."""
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Store]:
    """Opens a copy of an empty SQLite store, made once: quicker than a new one for each of many examples."""
    template = tmp_path_factory.mktemp("template") / "prefloop.db"
    Store.open(template).close()

    def copy(folder: Path) -> Store:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".db", delete=False) as file:
            shutil.copyfile(template, file.name)
        return Store.open(file.name)

    return copy


@pytest.fixture
def sqlite_store(empty_store: Callable[[Path], Store], tmp_path: Path) -> Iterator[Store]:
    """A new, empty store in SQLite, for what does not depend on the database."""
    with empty_store(tmp_path) as opened:
        yield opened


def _postgres_programs() -> Path | None:
    """Folder with initdb and pg_ctl, of the newest version."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda folder: [int(part) for part in folder.parent.name.split(".") if part.isdigit()],
        reverse=True,
    )
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    return next(
        (folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None
    )


def _quick_folder() -> str | None:
    """Shared memory where there is enough: the server's many small files cost more on a disk than all the tests together."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30 and os.access(memory, os.W_OK)
    return str(memory) if roomy else None


def _server_user() -> str | None:
    import pwd

    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    users = {entry.pw_name for entry in pwd.getpwall()}
    return next((user for user in SERVER_USERS if user in users), None)


def _run_as(user: str, command: list[str | Path]) -> None:
    done = subprocess.run(
        list(map(str, command)),
        user=user if os.geteuid() == 0 else None,
        group=_group_of(user) if os.geteuid() == 0 else None,
        extra_groups=[] if os.geteuid() == 0 else None,
        cwd="/",
        # The server outlives pg_ctl and would keep a pipe open, so its output goes to a file.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, f"{command} failed with {done.returncode}"


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid
