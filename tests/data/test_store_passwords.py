"""The password of a database stays with who gave it: it is in no output, no file and no row, and a run resumes without it in its settings."""

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from prefloop.cli import main
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.judges.endpoint import Endpoint
from tests.data.conftest import GUARDED, PostgresServer
from tests.tiny_project import make_model

PASSWORD = "s3cr%40t-of-the-store"
SECRETS = (PASSWORD, "s3cr@t-of-the-store")


@pytest.fixture
def guarded(own_database: Callable[[], str], postgres_server: PostgresServer) -> Callable[[], str]:
    """Makes a database whose user needs a password, and returns its URL with it."""

    def new() -> str:
        plain = own_database()
        with psycopg.connect(plain, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [GUARDED]).fetchone():
                connection.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{SECRETS[1]}'".encode())
            connection.execute(f"ALTER SCHEMA public OWNER TO {GUARDED}".encode())
        return plain.replace(f"//{postgres_server.user}@", f"//{GUARDED}:{PASSWORD}@")

    return new


def rows(path: Path, count: int = 6) -> str:
    path.write_text(
        "".join(
            json.dumps({"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"}) + "\n"
            for i in range(count)
        )
    )
    return str(path)


def leaks(*texts: str) -> list[str]:
    return [line for text in texts for line in text.splitlines() if any(each in line for each in SECRETS)]


def test_commands_print_the_address_without_its_password(
    guarded: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, second = guarded(), guarded()
    pairs = rows(tmp_path / "pairs.jsonl")
    commands = (
        f"label import {pairs} --store {store}",
        f"data import {pairs} --store {store}",
        f"label simulate --store {store} --utility tests.data.test_store_passwords:length",
        f"label export --store {store} --out {tmp_path}/out.jsonl",
        f"data export --store {store} --out {tmp_path}/out2.jsonl",
        f"label agreement --store {store} --out {tmp_path}/agreement.json",
        f"label backup --store {store} --out {tmp_path}/copy.dump",
        f"label restore {tmp_path}/copy.dump --store {second}",
    )
    for command in commands:
        code = main(command.split())
        said = capsys.readouterr()
        assert leaks(said.out, said.err) == [], command
        assert code == 0, (command, said)
        if "store" in said.out + said.err and "postgresql:" in said.out + said.err:
            assert f"{GUARDED}:***@" in said.out + said.err
    # What cannot work says so without it too.
    for command in (
        f"label import {tmp_path}/none.jsonl --store {store}",
        f"label restore {tmp_path}/copy.dump --store {store}",
        f"label import {pairs} --store {store.replace('/own', '/no_such')}",
        f"label import {pairs} --store {store.replace('postgresql:', 'mysql:')}",
        f"data score --store {guarded()} --reward_model none --out {tmp_path}/s.jsonl",
    ):
        assert main(command.split()) == 2
        said = capsys.readouterr()
        assert leaks(said.out, said.err) == [], command
    for file in tmp_path.glob("*.json*"):
        assert leaks(file.read_text()) == []


def length(prompt: object, completion: str) -> float:
    return float(len(completion))


def test_a_password_reaches_postgresqls_programs_by_the_environment(
    guarded: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefloop.studio import backup

    store = guarded()
    Store.open(store).close()
    seen: list[str] = []
    run = backup.subprocess.run

    def watched(arguments: list[str], **settings: object) -> object:
        seen.extend(arguments)
        return run(arguments, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(backup.subprocess, "run", watched)
    backup.back_up(store, tmp_path / "copy.dump")
    assert (tmp_path / "copy.dump").stat().st_size > 0
    assert leaks(*seen) == []


def test_an_address_as_it_was_shown_opens_with_the_password_of_the_environment(
    guarded: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = guarded()
    with Store.open(store) as opened:
        shown = opened.label
    assert f"{GUARDED}:***@" in shown
    with pytest.raises(InputError, match="no password supplied; give it in PGPASSWORD"):
        Store.open(shown)
    monkeypatch.setenv("PGPASSWORD", SECRETS[1])
    Store.open(shown, create=False).close()
    monkeypatch.delenv("PGPASSWORD")
    url = make_url(store)
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"{url.query['host']}:{url.query['port']}:{url.database}:{GUARDED}:{SECRETS[1]}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    Store.open(shown, create=False).close()


def test_a_run_keeps_no_password_and_resumes_with_that_of_the_environment(
    guarded: Callable[[], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, run = guarded(), tmp_path / "sft"
    make_model(tmp_path / "start")
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"ba{i}", "completion": " so"}) + "\n" for i in range(8))
    )
    basic = f"sft --model {tmp_path}/start --data {tmp_path}/texts.jsonl --out {run} --compute.device cpu --no-tune"
    assert main([*basic.split(), "--store", store, "--max_steps", "2", "--batch_size", "4"]) == 0
    assert main(["lineage", f"{run}/final", "--store", store]) == 0
    said = capsys.readouterr()
    files = [path for path in run.rglob("*") if path.is_file()]
    assert leaks(said.out, said.err) == []
    for file in files:
        content = file.read_bytes()
        assert not any(each.encode() in content for each in SECRETS), file
    with Store.open(store) as opened, opened.database.read() as session:
        settings = session.execute(text("SELECT config::text FROM training_run")).scalar_one()
    assert leaks(settings) == []
    assert f"{GUARDED}:***@" in settings
    assert f"{GUARDED}:***@" in (run / "config.yaml").read_text()
    for stop in ("final", "summary.json"):  # as if it had stopped before its end
        path = run / stop
        if path.is_dir():
            import shutil

            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    monkeypatch.setenv("PGPASSWORD", SECRETS[1])
    assert main(["sft", "--config", f"{run}/config.yaml", "--resume", "true"]) == 0
    said = capsys.readouterr()
    assert leaks(said.out, said.err) == []


def test_older_settings_are_masked_when_a_store_is_brought_up_to_date(store: Store) -> None:
    id = store.begin_training_run("sft", config={"run": {"store": "", "seed": 1}})
    given = json.dumps({"run": {"store": "postgresql://u:hidden@h/d", "seed": 1}})
    store.database.migrate("0003")
    cast = "CAST(:given AS JSON)" if store.database.dialect == "postgresql" else ":given"
    with store.database.write() as session:
        session.execute(
            text(f"UPDATE training_run SET config = {cast} WHERE id = :id"), {"given": given, "id": id}
        )
    store.database.migrate()
    with store.database.read() as session:
        kept = session.execute(text("SELECT CAST(config AS TEXT) FROM training_run")).scalar_one()
    assert json.loads(kept) == {"run": {"store": "postgresql://u:***@h/d", "seed": 1}}


def test_no_parameter_of_a_statement_is_in_its_error(store: Store) -> None:
    with pytest.raises(Exception, match="no_such_table") as caught, store.database.read() as session:
        session.execute(text("SELECT :secret FROM no_such_table"), {"secret": "never shown"})
    told = [caught.value, caught.value.__cause__]
    assert not any("never shown" in str(each) for each in told)


def test_a_judges_address_is_stored_without_its_password() -> None:
    with Endpoint("http://u:hidden@127.0.0.1:9/v1", "m") as endpoint:
        assert endpoint.identity["base_url"] == "http://u:***@127.0.0.1:9/v1"
