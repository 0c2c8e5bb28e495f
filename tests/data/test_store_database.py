"""Opening a store: where it may be, what its connections do, its schema up and down, and every way it can be refused."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from prefloop.data.store import Store
from prefloop.data.store import database as database_module
from prefloop.data.store.database import HEAD, VERSION_TABLE, Database
from prefloop.data.store.models import Base
from prefloop.errors import InputError
from prefloop.records import Prompt
from tests import quick_stores
from tests.data.conftest import DATABASES


@pytest.fixture(autouse=True)
def migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every store is made by the migrations."""
    monkeypatch.setattr(Database, "migrate", partialmethod(quick_stores.MIGRATE, steps=True))


def test_a_new_store_is_empty_and_a_second_opening_keeps_what_is_there(store_url: str) -> None:
    with Store.open(store_url) as store:
        assert set(store.counts().values()) == {0}
        assert len(store.counts()) == 49
        store.add_prompts([Prompt(content="kept")])
    with Store.open(store_url, create=False) as store:
        assert store.prompts() == [Prompt(content="kept")]


def test_migrated_tables_are_the_models_tables(store: Store) -> None:
    with store.database.read() as session:
        options = {"version_table": VERSION_TABLE, "compare_server_default": True}
        context = MigrationContext.configure(session.connection(), opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_migrated_names_follow_the_models_convention(store: Store) -> None:
    with store.database.read() as session:
        inspector = inspect(session.connection())
        for table in Base.metadata.sorted_tables:
            named = {key["name"] for key in inspector.get_foreign_keys(table.name)}
            assert named == {constraint.name for constraint in table.foreign_key_constraints}


DEFINITIONS = {
    "sqlite": "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL",
    "postgresql": """
        SELECT table_name || '.' || column_name, data_type, is_nullable || coalesce(column_default, '')
        FROM information_schema.columns WHERE table_schema = current_schema()
        UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()
        UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
        UNION ALL SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(pg_trigger.oid)
        FROM pg_trigger JOIN pg_class ON tgrelid = pg_class.oid
        WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace
        UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
    """,
}


@pytest.mark.parametrize("kind", DATABASES)
def test_new_stores_have_the_schema_that_migrations_make(
    kind: str, new_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def definitions() -> list[list[str]]:
        with Store.open(url := new_url(kind)) as store, store.database.read() as session:
            assert session.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")).all() == [HEAD]
            schema = url.rpartition("search_path%3D")[2]  # the second store's name differs
            said = [
                "\n".join(row).replace(f"{schema}.", "") for row in session.execute(text(DEFINITIONS[kind]))
            ]
            # A table that a migration rebuilt has its constraints in any order.
            return sorted(sorted(line.strip(" ,\t") for line in each.splitlines()) for each in said)

    migrated = definitions()
    assert len(migrated) > 100
    monkeypatch.setattr(Database, "migrate", quick_stores.quickly)
    definitions()
    assert definitions() == migrated, "after a migration was added: python -m tests.store_schema"


def test_down_to_nothing_and_up_again(store: Store) -> None:
    store.database.migrate("base")
    assert store.database.schema() is None
    with store.database.read() as session:
        connection = session.connection()
        assert set(inspect(connection).get_table_names()) <= {VERSION_TABLE}
        if store.database.dialect == "postgresql":
            ours = "proname LIKE 'prefloop%' AND pronamespace = current_schema()::regnamespace"
            left = connection.execute(text(f"SELECT count(*) FROM pg_proc WHERE {ours}"))
        else:
            left = connection.execute(text("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"))
        assert left.scalar() == 0
    store.database.migrate()
    assert store.database.schema() == HEAD
    store.add_prompts([Prompt(content="after")])
    assert store.counts()["prompt"] == 1


def test_head_is_the_newest_packaged_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "prefloop.data.store:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_store_of_a_newer_prefloop_is_refused_and_untouched(store_url: str) -> None:
    with Store.open(store_url) as store, store.database.write() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(
        InputError, match=r"newer prefloop \(schema 9999; this one knows up to 0021\); upgrade"
    ):
        Store.open(store_url)


def test_many_threads_opening_a_new_store_at_once_make_it_once(store_url: str) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            Store.open(store_url).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.usefixtures("waits_for_the_disk")
def test_connections_are_set_up_for_safety(tmp_path: Path) -> None:
    Store.open(tmp_path / "s.db").close()  # so that the connection looked at is not the one that migrated
    with Store.open(tmp_path / "s.db") as store, store.database.read() as session:
        settings = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous", "recursive_triggers")
        }
    assert settings == {
        "journal_mode": "wal",
        "busy_timeout": 30_000,
        "foreign_keys": 1,
        "synchronous": 2,  # FULL
        "recursive_triggers": 1,
    }


def test_a_writing_transaction_takes_the_lock_at_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a plain BEGIN a transaction that reads first is refused when it comes to write, whatever the timeout."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    path = tmp_path / "s.db"
    with Store.open(path) as store, Store.open(path) as other, store.database.write() as session:
        session.execute(text("SELECT 1"))
        assert other.prompts() == []  # readers go on
        with pytest.raises(InputError, match=r"database is locked; another process has kept it busy"):
            other.add_prompts([Prompt(content="too late")])


def test_an_error_undoes_the_whole_transaction(store: Store) -> None:
    def write_and_fail() -> None:
        with store.database.write() as session:
            session.execute(
                text(
                    "INSERT INTO annotator (name, kind, settings, created_at) "
                    "VALUES ('x', 'human', '{}', '2026-01-01 00:00:00')"
                )
            )
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_and_fail()
    assert store.counts()["annotator"] == 0


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    with Store.open(tmp_path / "new" / "project" / "prefloop.db") as store:
        assert store.folder == tmp_path / "new" / "project"
    assert (tmp_path / "new" / "project" / "prefloop.db").exists()


def test_a_sqlite_url_is_the_same_as_its_path(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 's.db'}") as store:
        assert store.label == str(tmp_path / "s.db")
        assert (tmp_path / "s.db").exists()


def test_reading_commands_do_not_make_a_store(tmp_path: Path) -> None:
    missing = tmp_path / "typo.db"
    with pytest.raises(InputError, match=r"typo\.db: no such store; check the path"):
        Store.open(missing, create=False)
    assert not missing.exists()


def test_reading_commands_do_not_make_tables(new_database: Callable[[], str]) -> None:
    url = new_database()
    with pytest.raises(InputError, match="holds no store yet"):
        Store.open(url, create=False)
    with Store.open(url) as store:
        assert store.counts()["prompt"] == 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "the store is not named; give a file"),
        (":memory:", "would be lost at once; name a file"),
        ("sqlite://", "names no file; write sqlite:///"),
        (
            "mysql://me:secret@host/db",
            r"store mysql://me:\*\*\*@host/db is of kind 'mysql'; it must be a SQLite",
        ),
        ("postgresql://host:port/db", "URL cannot be read; write it as postgresql://"),
    ],
)
def test_a_wrong_name_is_refused(where: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Store.open(where)
    assert "secret" not in str(caught.value)


def test_a_folder_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; name a file in it, for example .*prefloop\.db"):
        Store.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="its folder cannot be used"):
        Store.open(tmp_path / "file" / "prefloop.db")
    assert (tmp_path / "file").read_text() == "mine"


@contextmanager
def without_permission(folder: Path) -> Iterator[None]:
    """Nothing can be written to the folder. For root that takes being somebody else for a while."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    with without_permission(tmp_path), pytest.raises(InputError, match=r"prefloop\.db: .*folder"):
        Store.open(tmp_path / "prefloop.db")


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 100)
    with pytest.raises(
        InputError, match=r"notes\.txt: file is not a database; name a file that prefloop wrote"
    ):
        Store.open(path)
    assert path.read_text() == "dear diary, " * 100


def test_another_programs_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match=r"another program's database \(it has a table 'bookmarks'\)"):
        Store.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    connection.close()


def test_a_damaged_store_is_told(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    with Store.open(path) as store:
        store.add_prompts([Prompt(content=f"{number} " + "x" * 500) for number in range(200)])
    content = bytearray(path.read_bytes())
    content[4096 * 20 : -4096] = b"\xa5" * (len(content) - 4096 * 21)
    path.write_bytes(content)

    def read() -> None:
        with Store.open(path) as store:
            store.prompts()

    with pytest.raises(InputError, match=r"damaged\.db: .*malformed; the file is damaged; restore a backup"):
        read()


def test_a_full_disk_loses_nothing_stored_before(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store.open(path) as store:
        store.add_prompts([Prompt(content="before")])
        with store.database.write() as session:
            session.execute(
                text("PRAGMA max_page_count = 1")
            )  # of this connection, which the next call gets from the pool
        with pytest.raises(
            InputError, match=r"disk is full; free some disk space; what was stored before is intact"
        ):
            store.add_prompts([Prompt(content="x" * 3_000_000)])
        assert store.prompts() == [Prompt(content="before")]


def test_a_missing_driver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        database_module, "find_spec", lambda name: None if name == "psycopg" else find_spec(name)
    )
    with pytest.raises(
        InputError, match=r"store postgresql://me:\*\*\*@host/db needs .* pip install 'prefloop\[postgres\]'"
    ):
        Store.open("postgresql://me:secret@host/db")


@pytest.mark.skipif(find_spec("psycopg") is None, reason="psycopg is not installed")
def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    with pytest.raises(InputError, match="check that the database can be reached") as caught:
        Store.open("postgresql://me:secret@127.0.0.1:1/nothing")
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_database_that_the_server_does_not_have_is_told(new_database: Callable[[], str]) -> None:
    with pytest.raises(InputError, match=r"database .* does not exist; check that"):
        Store.open(new_database().replace("/postgres?", "/nowhere?"))


def test_opening_a_ready_store_needs_neither_torch_nor_alembic(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    Store.open(path).close()
    program = (
        "import sys; from prefloop.data.store import Store; Store.open(sys.argv[1]).close(); "
        "import prefloop.feedback.simulate; "
        "print([name for name in ('torch', 'transformers', 'alembic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_connection_that_was_cut_while_idle_is_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.database.dialect == "sqlite":
        return  # a file cuts nobody off
    monkeypatch.setattr(database_module, "IDLE_SECONDS", 0.0)
    with store.database.read() as session:
        process = session.scalar(text("SELECT pg_backend_pid()"))
    with Store.open(store.database.address) as other, other.database.write() as session:
        session.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})
    for database_use in (store.database.look, store.database.read, store.database.write):
        with database_use() as session:
            assert session.scalar(text("SELECT pg_backend_pid()")) != process
