"""Tests make hundreds of new stores. In each process the first on each database is made by the migrations, the others by the statements of its schema."""

from typing import Any

from sqlalchemy import event, text

from prefloop.data.store.database import BULK_LOCK, HEAD, VERSION_TABLE, Database, _schema_of
from prefloop.data.store.models import Base

MIGRATE = Database.migrate
"""What the program does."""
_schemas: dict[str, list[str]] = {}
"""For each kind of database, what makes the tables."""


def quickly(self: Database, revision: str = HEAD) -> None:
    """In place of `Database.migrate`."""
    if revision != HEAD or self.schema() is not None:
        MIGRATE(self, revision)
    elif self.dialect in _schemas:
        _repeat(self)
    else:
        said: list[str] = []
        event.listen(self._engine, "before_cursor_execute", hear := _hears(said))
        MIGRATE(self)
        event.remove(self._engine, "before_cursor_execute", hear)
        _schemas[self.dialect] = _schema(self, said)


def _hears(said: list[str]) -> Any:
    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    return hear


def _schema(made: Database, said: list[str]) -> list[str]:
    """What makes this database's tables, which have no rows."""
    with made.read() as session:
        assert not any(
            session.execute(table.select().limit(1)).all() for table in Base.metadata.sorted_tables
        )
        if made.dialect == "sqlite":
            # Its migrations rebuild tables many times.
            made_by = text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
            statements = list(session.scalars(made_by))
        else:
            statements = [one for one in said if one.split()[0] in ("CREATE", "ALTER", "DROP")]
    return [*statements, f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')"]


def _repeat(new: Database) -> None:
    with new._writing.connect() as connection, connection.begin():
        if new.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BULK_LOCK})
        if _schema_of(connection, new.label) is None:  # another thread may have made it
            for statement in _schemas[new.dialect]:
                connection.exec_driver_sql(statement)
