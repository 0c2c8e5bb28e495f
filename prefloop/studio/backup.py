"""Backups of a store that is in use, and bringing one back."""

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy import make_url

from prefloop.addresses import without_passwords
from prefloop.data.store import Store
from prefloop.data.store.database import open_database, without_mask
from prefloop.errors import InputError

_MINUTES = 60


def back_up(where: str, target: str | Path) -> Path:
    """Write a consistent copy of a store, in use or not: a SQLite file of its own, or pg_dump's archive. Nothing is overwritten."""
    path = Path(target)
    if path.exists():
        raise InputError(f"{path}: exists already; name another file")
    with Store.open(where, create=False) as store:
        dialect, label = store.database.dialect, store.label
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if dialect == "sqlite":
            _copy(Path(label), temporary)
        else:
            _run("pg_dump", ["--format=custom", "--no-owner", f"--file={temporary}"], where)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{path}: cannot be written ({error}); choose a folder with room in it") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def restore(backup: str | Path, where: str) -> None:
    """Bring a backup back to a place that holds no store yet. What comes back is checked before it takes its place."""
    source = Path(backup)
    if not source.is_file():
        raise InputError(f"{source}: no such backup; check the path")
    if "://" in where and not where.startswith("sqlite"):
        _refuse_store(where)
        _run("pg_restore", ["--no-owner", "--exit-on-error", "--single-transaction", str(source)], where)
        Store.open(where, create=False).close()
        return
    path = Path(where.removeprefix("sqlite:///"))
    if path.exists():
        raise InputError(f"{path}: exists already; move it away, or name another place")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, temporary)
        _check(temporary, source)
        temporary.replace(path)
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{path}: cannot be restored ({error})") from error
    finally:
        for leftover in (temporary, *(Path(f"{temporary}{end}") for end in ("-wal", "-shm"))):
            leftover.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """SQLite's own online copy: one snapshot, whatever is written meanwhile."""
    reading = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
    writing = sqlite3.connect(target)
    try:
        reading.backup(writing)
        # One file by itself, that any program may open without leaving a log beside it.
        writing.execute("PRAGMA journal_mode=DELETE")
    finally:
        writing.close()
        reading.close()


def _check(path: Path, source: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        answer = connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()
    if answer != [("ok",)]:
        raise InputError(f"{source}: is damaged ({answer[0][0]}); use an older backup")
    open_database(path, create=False).close()


def _refuse_store(where: str) -> None:
    database = open_database(where, create=True)
    try:
        with database.read() as session:
            from sqlalchemy import text

            if session.execute(text("SELECT count(*) FROM prompt")).scalar():
                raise InputError(f"{database.label}: holds a store already; restore into an empty database")
        database.migrate("base")
        with database.write() as session:
            session.execute(text("DROP TABLE IF EXISTS prefloop_schema"))
    finally:
        database.close()


def _run(program: str, arguments: list[str], where: str) -> None:
    """Run one of PostgreSQL's programs on a database. The password goes by the environment: everybody on the machine sees arguments."""
    if shutil.which(program) is None:
        raise InputError(f"{program} is not installed; it comes with PostgreSQL's client package")
    url = without_mask(make_url(where)).set(drivername="postgresql")
    given = url.password or url.query.get("password")
    plain = url._replace(password=None).difference_update_query(["password"])
    done = subprocess.run(
        [program, f"--dbname={plain.render_as_string(hide_password=False)}", *arguments],
        capture_output=True,
        text=True,
        timeout=_MINUTES * 60,
        check=False,
        env=os.environ | ({"PGPASSWORD": str(given)} if given else {}),
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{program} failed: {without_passwords(reason)}")
