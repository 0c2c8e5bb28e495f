"""Tests make hundreds of new stores. On PostgreSQL the first of a process is made by the migrations, the others by the statements of its schema;
a statement that was compiled for one serves all; and nothing waits for the disk.
"""

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from prefloop.data.store import database
from prefloop.data.store.database import BULK_LOCK, HEAD, VERSION_TABLE, Database, _schema_of
from prefloop.data.store.models import Base

MIGRATE = Database.migrate
SET_UP, BEGIN = database._set_up_sqlite, database._begin_sqlite
"""What the program does, here and above."""
_schema: list[str] = []
"""What makes the tables on PostgreSQL."""


def install() -> None:
    """For all tests of this process."""
    Database.migrate = quickly
    database._set_up_sqlite, database._begin_sqlite = _set_up, _begin
    database.create_engine = _with_compiled(database.create_engine)
    for dialect in (SQLiteDialect_pysqlite, PGDialect_psycopg):
        # Equal, for they are part of a statement's key.
        setattr(dialect, "__eq__", lambda self, other: type(self) is type(other))  # noqa: B010
        setattr(dialect, "__hash__", lambda self: hash(type(self)))  # noqa: B010


def _with_compiled(create: Any) -> Any:
    compiled: dict[Any, Any] = {}

    def created(*args: Any, **kwargs: Any) -> Engine:
        return create(*args, execution_options={"compiled_cache": compiled}, **kwargs)

    return created


def _set_up(connection: sqlite3.Connection, record: object) -> None:
    """A commit does not wait until the disk has it: nobody cuts the power while tests run."""
    SET_UP(connection, record)
    connection.execute("PRAGMA synchronous=OFF")


def _begin(connection: Connection) -> None:
    """Where the program changes what a commit waits for, it is told that this is done."""
    at_once = connection.get_execution_options().get(database._AT_ONCE, True)
    connection.info[database._AT_ONCE] = "FULL" if at_once else "NORMAL"
    BEGIN(connection)


def quickly(self: Database, revision: str = HEAD, *, steps: bool = False) -> None:
    """In place of `Database.migrate`, which makes a new SQLite store as quickly."""
    if self.dialect == "sqlite" or steps or revision != HEAD or self.schema() is not None:
        MIGRATE(self, revision, steps=steps)
    elif _schema:
        _repeat(self)
    else:
        said: list[str] = []
        event.listen(self._engine, "before_cursor_execute", hear := _hears(said))
        MIGRATE(self)
        event.remove(self._engine, "before_cursor_execute", hear)
        _keep(self, said)


def _hears(said: list[str]) -> Any:
    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    return hear


def _keep(made: Database, said: list[str]) -> None:
    """What makes this database's tables, which have no rows."""
    with made.read() as session:
        assert not any(
            session.execute(table.select().limit(1)).all() for table in Base.metadata.sorted_tables
        )
    _schema.extend(one for one in said if one.split()[0] in ("CREATE", "ALTER", "DROP"))
    _schema.append(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')")


def _repeat(new: Database) -> None:
    with new._writing.connect() as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BULK_LOCK})
        if _schema_of(connection, new.label) is None:  # another thread may have made it
            # All in one message: the answers to hundreds cost more than the tables. Without parameters "%" stands for itself.
            cursor = connection.connection.cursor()
            cursor.execute(";\n".join(_schema).replace("%%", "%"))
            cursor.close()
