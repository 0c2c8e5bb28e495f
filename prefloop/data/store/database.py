"""Opening the store's database: where it is, how its connections behave, which schema it has, and what went wrong in plain words.

SQLite: write-ahead log, so readers and the one writer do not block each other; every writing transaction begins with BEGIN IMMEDIATE,
because one that starts as a reader and then writes is refused at once whatever the timeout; `synchronous=FULL`, because a judgement that
was acknowledged must survive a power cut.
"""

import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    MetaData,
    create_engine,
    event,
    exists,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from prefloop.addresses import MASK, without_passwords
from prefloop.data.store.event_models import (
    Base,  # with all tables: those of the studio and those it builds on
)
from prefloop.errors import InputError

BUSY_SECONDS = 30
"""How long a SQLite connection waits for another process to finish writing."""
CONNECT_SECONDS = 10
CONNECTIONS = 15
"""To PostgreSQL, of one process, at most. All stay open: a new one costs a process there, and everything is parsed and planned again for it."""
IDLE_SECONDS = 1.0
"""After this time a connection to PostgreSQL may have been cut, and is tried before it is used."""
HEAD = "0021"
"""The newest schema that this code knows, so that opening a store that has it needs no Alembic."""
VERSION_TABLE = "prefloop_schema"
SQLITE_SCHEMA = Path(__file__).with_name("sqlite.sql")
"""What all migrations make of an empty SQLite database, for running them takes most of a second. `python -m tests.store_schema` writes it."""
BULK_LOCK = 7_235_001
"""PostgreSQL advisory lock of bulk writers and migrations: rows that two of them add in different orders would deadlock."""

_WRITES = "prefloop_writes"
_AT_ONCE = "prefloop_synchronous"
_USED_AT = "prefloop_used_at"


class Unavailable(InputError):
    """The database could not be asked: busy, full, damaged, or not there."""


class Database:
    """An open database and its transactions."""

    def __init__(self, engine: Engine, label: str) -> None:
        self.label = label
        """File or URL without password, for messages."""
        self.made = False
        """Whether it was empty, without a table, when it was opened."""
        self._engine = engine
        self._reading = self._looking = engine
        if engine.dialect.name == "postgresql":
            # One snapshot for all queries of a reading transaction; SQLite's are so by themselves.
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ")
            # One statement by itself is one snapshot, and needs no BEGIN and no COMMIT.
            self._looking = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._writing = engine.execution_options(**{_WRITES: True})
        self._later = engine.execution_options(**{_WRITES: True, _AT_ONCE: False})
        # SQLite has one writer, and those who wait look again at growing intervals; threads of one process stand in line instead.
        self._line = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    @property
    def address(self) -> str:
        """The file, or the URL with its password."""
        if self.dialect == "sqlite":
            return self.label
        return self._engine.url.render_as_string(hide_password=False)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads, from one snapshot."""
        with in_plain_words(self.label), Session(self._reading) as session, session.begin():
            yield session

    @contextmanager
    def look(self) -> Iterator[Session]:
        """For one statement that only reads: cheaper than `read`, which promises one snapshot to several."""
        with in_plain_words(self.label), Session(self._looking) as session, session.begin():
            yield session

    @contextmanager
    def write(self, *, bulk: bool = False, durable: bool = True) -> Iterator[Session]:
        """A transaction that is written whole or, on any error, not at all. `bulk` ones follow one another on PostgreSQL too.

        One that is not `durable` reaches the disk with the next one that is: a crash of the process loses none of it, a power cut may lose the
        last ones. That is for what nobody was promised, such as leases.
        """
        engine = self._writing if durable else self._later
        with in_plain_words(self.label), self._line, Session(engine) as session, session.begin():
            if not durable and self.dialect == "postgresql":
                session.connection().exec_driver_sql("SET LOCAL synchronous_commit TO off")
            if bulk and self.dialect == "postgresql":
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BULK_LOCK})
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def migrate(self, revision: str = HEAD, *, steps: bool = False) -> None:
        """Bring the schema up or down to `revision` (`base` = no tables at all), in one transaction; with `steps` always by the migrations."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "prefloop.data.store:migrations")
        with in_plain_words(self.label), self._writing.connect() as connection:
            if self.dialect == "sqlite":
                # A migration may rebuild a table that others refer to. No effect within a transaction, so before it.
                _plainly(connection, "PRAGMA foreign_keys=OFF")
            with connection.begin():
                if self.dialect == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BULK_LOCK})
                config.attributes["connection"] = connection
                current = _schema_of(connection, self.label)
                if self.dialect == "sqlite" and current is None and revision == HEAD and not steps:
                    _make_schema(connection)
                elif revision == "base" or (current or "") > revision:
                    command.downgrade(config, revision)
                elif current != revision:  # another process may have done it while this one waited
                    command.upgrade(config, revision)
            if self.dialect == "sqlite":
                broken = _plainly(connection, "PRAGMA foreign_key_check")
                assert not broken, f"the migration left rows that refer to nothing: {broken[:5]}"
                _plainly(connection, "PRAGMA foreign_keys=ON")

    def compact(self) -> bool:
        """Write the file anew, without anything that was deleted or overwritten; whether that was done. PostgreSQL's own VACUUM does it there."""
        if self.dialect != "sqlite":
            return False
        with in_plain_words(self.label), self._line, self._writing.connect() as connection:
            _plainly(connection, "VACUUM")
            ((busy, _, _),) = _plainly(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
        return not busy

    def unmake(self) -> None:
        """Take a store away that was made when it was opened and has no row, unless somebody else uses it: nothing is left of what failed."""
        with self.read() as session:
            if any(
                session.scalar(select(exists().select_from(table))) for table in Base.metadata.sorted_tables
            ):
                return
        if self.dialect == "postgresql":
            self.migrate("base")
            with self.write() as session:
                session.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
            return
        self.close()
        connection = sqlite3.connect(self.label)
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError:
            return  # another process has it open
        finally:
            connection.close()
        if mode == "delete":
            Path(self.label).unlink()

    def schema(self) -> str | None:
        """Revision of the schema, None if the database is empty. `InputError` if it is somebody else's database or of a newer prefloop."""
        with in_plain_words(self.label), self._reading.connect() as connection:
            return _schema_of(connection, self.label)


def _make_schema(connection: Connection) -> None:
    """The tables of HEAD; one that is there already, empty, names the version."""
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {VERSION_TABLE}")
    for statement in SQLITE_SCHEMA.read_text(encoding="utf-8").split("\n\n"):
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')")


def open_database(where: str | Path, *, create: bool) -> Database:
    """Open a database and bring its schema up to date. `InputError` says what is wrong with `where` and the way out."""
    url = _url(where)
    sqlite = url.get_backend_name() == "sqlite"
    label = url.database or "" if sqlite else without_passwords(url.render_as_string(hide_password=False))
    # What goes with a statement (texts, hashes of passwords) is in no traceback.
    if sqlite:
        _check_file(Path(label), create=create)
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(
            url,
            connect_args={"connect_timeout": CONNECT_SECONDS},
            hide_parameters=True,
            pool_size=CONNECTIONS,
            max_overflow=0,
        )
        _ask_whether_there(engine)
    database = Database(engine, label)
    try:
        schema = database.schema()
        if schema is None and not create:
            raise InputError(f"{label}: holds no store yet; sample or label into it first, or name another")
        database.made = schema is None
        if schema != HEAD:
            database.migrate()
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def in_plain_words(label: str) -> Iterator[None]:
    """Turn the database's complaints about its surroundings into `Unavailable`; errors of ours pass through."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InputError(
            f"text to store has {error.object[error.start : error.end]!r}, which is half a character (a lone surrogate); "
            "repair the text at its source"
        ) from error
    except (IntegrityError, sqlite3.IntegrityError):
        raise
    except NoConnection as error:
        raise Unavailable(f"{label}: all connections are in use; try again") from error
    except (OperationalError, sqlite3.Error) as error:
        raise Unavailable(f"{label}: {_explain(error)}") from error
    except DatabaseError as error:
        # sqlite3 reports a damaged file with the bare base class; subclasses are programming errors.
        if type(error) is not DatabaseError:
            raise
        raise Unavailable(f"{label}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """What happened and the way out, in one line."""
    cause = getattr(error, "orig", None) or error
    message = " ".join(str(cause).split())
    ways_out = {
        "not a database": "name a file that prefloop wrote, or one that does not exist yet",
        "malformed": "the file is damaged; restore a backup, or save what can be read with `sqlite3 FILE .recover`",
        "locked": f"another process has kept it busy for {BUSY_SECONDS} s; wait for it or stop it",
        "readonly": "give write permission to the file and its folder",
        "unable to open": "check that the folder can be written to",
        "full": "free some disk space; what was stored before is intact",
        "no password supplied": "give it in PGPASSWORD or ~/.pgpass, or in the URL (user:password@host)",
        "disk i/o error": "check the disk, and that it is a local one: SQLite needs that; use PostgreSQL otherwise",
    }
    way_out = next((out for sign, out in ways_out.items() if sign in message.lower()), None)
    if way_out is None:
        way_out = "check that the database can be reached and that host, name, user and password are right"
    return f"{message}; {way_out}"


def _url(where: str | Path) -> URL:
    """The database's URL: a plain path means a SQLite file."""
    given = str(where)
    if not given:
        raise InputError("the store is not named; give a file, for example prefloop.db, or a database URL")
    if "://" not in given:
        if given == ":memory:":
            raise InputError("store :memory: would be lost at once; name a file")
        return URL.create("sqlite", database=str(Path(given).expanduser()))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            "the store's URL cannot be read; write it as postgresql://user:password@host/database"
        ) from error
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if not url.database or url.database == ":memory:":
            raise InputError(
                f"store {without_passwords(given)} names no file; write sqlite:///path/to/prefloop.db"
            )
        return URL.create("sqlite", database=url.database)
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        if find_spec("psycopg") is None:
            raise InputError(
                f"store {without_passwords(given)} needs the driver psycopg, which is not installed; "
                "run: pip install 'prefloop[postgres]'"
            )
        return without_mask(url).set(drivername="postgresql+psycopg")
    raise InputError(
        f"store {without_passwords(given)} is of kind {url.drivername!r}; "
        "it must be a SQLite file or a postgresql:// URL"
    )


def without_mask(url: URL) -> URL:
    """A URL as it was shown or written, for which PostgreSQL's own client then looks for a password (PGPASSWORD, ~/.pgpass)."""
    masked = [name for name, value in url.query.items() if value == MASK]
    return (url._replace(password=None) if url.password == MASK else url).difference_update_query(masked)


def _check_file(path: Path, *, create: bool) -> None:
    """Make the folder of a new SQLite file; say what is in the way."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file in it, for example {path / 'prefloop.db'}")
        if not path.exists():
            if not create:
                raise InputError(f"{path}: no such store; check the path, or sample or label into it first")
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: its folder cannot be used ({error.strerror}); name a file in a folder that you can write to"
        ) from error


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Settings of every new SQLite connection."""
    connection.isolation_level = (
        None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    )
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    _use_write_ahead_log(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(
        "PRAGMA recursive_triggers=ON"
    )  # else INSERT OR REPLACE deletes past the delete trigger


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL. Two processes that open a new file at once can collide here, and SQLite does not wait for this."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise InputError(
            f"the store's disk does not support SQLite's write-ahead log (it answered {mode!r}), as network disks do not; "
            "put the store on a local disk, or use PostgreSQL"
        )


def _ask_whether_there(engine: Engine) -> None:
    """Before a connection is used that has been idle, ask whether the server is still there; `pool_pre_ping` would ask each time."""

    def given_back(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = time.monotonic()

    def taken(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get(_USED_AT, math.inf) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool makes another

    event.listen(engine, "checkin", given_back)
    event.listen(engine, "checkout", taken)


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    writes = options.get(_WRITES, False)
    if writes:
        # FULL syncs the log at every commit; NORMAL only before it is copied into the file, so order is kept in either case.
        wanted = "FULL" if options.get(_AT_ONCE, True) else "NORMAL"
        if connection.info.get(_AT_ONCE, "FULL") != wanted:  # `_set_up_sqlite` made it FULL
            connection.exec_driver_sql(f"PRAGMA synchronous={wanted}")
            connection.info[_AT_ONCE] = wanted
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _plainly(connection: Connection, statement: str) -> list[tuple[object, ...]]:
    """Run a statement on SQLite's own connection, outside any transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver.execute(statement).fetchall()


def _schema_of(connection: Connection, label: str) -> str | None:
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if version is not None and str(version) > HEAD:
            raise InputError(
                f"{label}: was written by a newer prefloop (schema {version}; this one knows up to {HEAD}); upgrade prefloop"
            )
        return version
    ours: MetaData = Base.metadata
    foreign = tables if connection.dialect.name == "sqlite" else tables & set(ours.tables)
    if foreign:
        raise InputError(
            f"{label}: is another program's database (it has a table {min(foreign)!r}); name another file or database"
        )
    return None
