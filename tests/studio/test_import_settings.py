"""What an import is told has an effect or is refused, and an import that fails leaves nothing behind."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import inspect

from prefloop.cli import main
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.studio import exchange
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"}) + "\n"
            for n in range(4)
        )
    )
    return file


@pytest.fixture
def checks(tmp_path: Path) -> Path:
    file = tmp_path / "checks.jsonl"
    file.write_text(json.dumps({"prompt": "known", "chosen": "right", "rejected": "wrong"}) + "\n")
    return file


def run(command: str, store: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main([*shlex.split(command), "--store", store])
    said = capsys.readouterr()
    return code, said.out + said.err


def settings_of(store: str, name: str) -> ProjectSettings:
    with Store.open(store, create=False) as opened:
        return Studio(opened).find_project(name).settings


def test_known_answers_are_asked_without_another_setting(
    store_url: str, pairs: Path, checks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"label import {pairs} --project P", store_url, capsys)[0] == 0
    assert settings_of(store_url, "P").gold_share == 0
    code, said = run(f"label import {checks} --project P --gold true", store_url, capsys)
    assert code == 0
    assert "1 of them with a known answer; 10% of the questions are such items" in said
    assert settings_of(store_url, "P").gold_share == 0.1
    # What an admin has set stays.
    assert run(f"label import {checks} --project P --gold true --gold_share 0.1", store_url, capsys)[0] == 0
    code, said = run(f"label import {checks} --project P --gold true --gold_share 0.3", store_url, capsys)
    assert (code, "has 0.1; leave it out" in said) == (2, True)
    # Alone they are never asked, which is said.
    code, said = run(f"label import {checks} --project Only --gold true --gold_share 0.2", store_url, capsys)
    assert code == 0
    assert "once the project has others too" in said
    assert settings_of(store_url, "Only").gold_share == 0.2
    with Store.open(store_url) as opened:
        studio = Studio(opened)
        ann = opened.add_annotator("ann")
        asked = studio.find_project("P")
        studio.change_project(asked.id, ProjectSettings(name="P", gold_share=0.5))
        seen = set[str]()
        while (assignment := studio.lease(asked.id, ann, have=tuple(seen))) is not None:
            seen.add(assignment.token)
            studio.skip(assignment.token, ann, key=f"key-{assignment.token}")
        assert len(seen) in (4, 5)  # a known answer is among others only


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--overlap 3", "overlap is given, but project 'P' exists already, with overlap 2"),
        ("--kind rank", "kind is given, but project 'P' exists already, with kind pair"),
        ("--render plain", "render is given, but project 'P' exists already, with render markdown"),
        (
            "--guidelines GUIDE",
            "guidelines is given, but project 'P' exists already, with other guidelines",
        ),
        ("--gold_share 0.2", "gold_share is 0.2, but gold is off"),
        ("--gold_stage practice", "gold_stage is practice, but gold is off"),
        (
            "--gold true --gold_stage practice --gold_share 0.2",
            "gold_share is 0.2, but gold_stage is practice",
        ),
    ],
)
def test_a_setting_of_a_new_project_is_refused_for_one_that_is_there(
    sqlite_path: str, pairs: Path, tmp_path: Path, flags: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "guide.md").write_text("Be kind.")
    first = f"label import {pairs} --project P --overlap 2 --render markdown"
    assert run(first, sqlite_path, capsys)[0] == 0
    assert settings_of(sqlite_path, "P").render == "markdown"
    assert settings_of(sqlite_path, "P").overlap == 2
    assert run(first, sqlite_path, capsys)[0] == 0  # the same again is no contradiction
    flags = flags.replace("GUIDE", str(tmp_path / "guide.md"))
    code, said = run(f"label import {pairs} --project P {flags}", sqlite_path, capsys)
    assert (code, told in said) == (2, True), said


@pytest.fixture
def sqlite_path(tmp_path: Path) -> str:
    return str(tmp_path / "prefloop.db")


FAILING = (
    "label import {missing}",
    "label import {bad}",
    "label import {one}",
    "label import {pairs} --gold true --kind rank",
    "label import {pairs} --guidelines {missing}",
    "label import {pairs} --overlap 2000",
    "data import {missing}",
    "data import {scores}",
)


@pytest.mark.parametrize("command", FAILING)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_import_that_fails_leaves_no_store_and_no_project(
    command: str,
    database: str,
    new_url: Callable[[str], str],
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.jsonl").write_text(pairs.read_text() + '{"prompt": 1}\n')
    (tmp_path / "one.jsonl").write_text('{"prompt": "p", "completion": "a"}\n')
    (tmp_path / "scores.jsonl").write_text('{"prompt": "p", "completion": "a", "score": 1.0}\n')
    names = {each: tmp_path / f"{each}.jsonl" for each in ("missing", "bad", "one", "scores")} | {
        "pairs": pairs
    }
    url = new_url(database)
    code, said = run(command.format(**names), url, capsys)
    assert code == 2, said
    if database == "sqlite":
        assert list(Path(url).parent.glob("*")) == []
    else:
        import sqlalchemy

        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            assert inspect(connection).get_table_names() == []
        engine.dispose()
    # A store that is there stays as it was.
    with Store.open(url) as store:
        before = store.counts()
    assert run(command.format(**names), url, capsys)[0] == 2
    with Store.open(url) as store:
        assert store.counts() == before


def test_an_import_that_fails_on_its_way_leaves_nothing(
    store: Store, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = Studio(store)
    before = store.counts()

    def broken(*_: object, **__: object) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr(exchange.projects, "add_tasks", broken)
    with pytest.raises(InputError, match="the disk is full"):
        exchange.import_loaded(studio, ProjectSettings(name="P"), exchange.load_records(pairs))
    assert store.counts() == before


def test_a_store_that_others_use_or_that_holds_a_row_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    def fails() -> None:
        with Store.open(path) as store:
            store.add_annotator("ann")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert path.exists()
    other_path = tmp_path / "t.db"
    made = Store.open(other_path)
    other = Store.open(other_path)
    other.counts()
    with pytest.raises(RuntimeError), made:
        raise RuntimeError
    assert other_path.exists()
    other.add_annotator("ann")
    other.close()
    with Store.open(other_path, create=False) as again:
        assert again.counts()["annotator"] == 1
