"""What a new SQLite store is made from: python -m tests.store_schema

It runs the migrations on an empty database and writes down what they made. Run it after a migration was added.
"""

import tempfile
from pathlib import Path

from sqlalchemy import create_engine, event, text

from prefloop.data.store import database
from prefloop.data.store.database import SQLITE_SCHEMA, Database


def statements(made: Database) -> list[str]:
    """What makes a SQLite database's tables, indexes and triggers, in the order in which it has them."""
    with made.read() as session:
        said = session.scalars(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"))
        return ["\n".join(line.rstrip(" ") for line in one.splitlines() if line.strip()) for one in said]


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "new.db"
        engine = create_engine(f"sqlite:///{file}")
        event.listen(engine, "connect", database._set_up_sqlite)
        event.listen(engine, "begin", database._begin_sqlite)
        made = Database(engine, str(file))
        made.migrate(steps=True)
        SQLITE_SCHEMA.write_text("\n\n".join(statements(made)) + "\n", encoding="utf-8")
        made.close()
    print(f"wrote {SQLITE_SCHEMA.name}")


if __name__ == "__main__":
    main()
