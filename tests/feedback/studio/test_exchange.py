"""Files in and out of projects, with their manifest; backups; the commands that do it without a server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.data import load_comparisons
from prefloop.data.hashing import content_hash
from prefloop.data.store import Filters, Store
from prefloop.errors import InputError
from prefloop.feedback.studio import exchange
from prefloop.feedback.studio.backup import back_up, restore
from prefloop.feedback.studio.service import Studio
from prefloop.feedback.studio.values import Answer, ProjectSettings

ROWS = {
    "comparisons": [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"poor {n}"} for n in range(4)],
    "rankings": [{"prompt": f"p{n}", "completions": [f"{n} {k}" for k in range(3)]} for n in range(4)],
    "labels": [{"prompt": f"p{n}", "completion": f"c{n}", "label": bool(n % 2)} for n in range(4)],
    "demonstrations": [{"prompt": f"p{n // 2}", "completion": f"c{n}"} for n in range(4)],
}


def write(path: Path, rows: object) -> Path:
    assert isinstance(rows, list)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer_all(studio: Studio, project: int, answer: Answer, who: str = "ann") -> int:
    annotator = studio.store.add_annotator(who)
    count = 0
    while (got := studio.lease(project, annotator)) is not None:
        studio.submit(got.token, annotator, answer, key="12345678")
        count += 1
    return count


@pytest.mark.parametrize(
    ("rows", "kind", "items"),
    [
        ("comparisons", "pair", 4),
        ("rankings", "pair", 12),
        ("rankings", "rank", 4),
        ("comparisons", "rank", 4),
        ("demonstrations", "pair", 2),
        ("labels", "binary", 4),
        ("comparisons", "rate", 8),
        ("demonstrations", "edit", 4),
    ],
)
def test_every_format_makes_items_once(
    studio: Studio, tmp_path: Path, rows: str, kind: str, items: int
) -> None:
    file = write(tmp_path / "rows.jsonl", ROWS[rows])
    project = studio.create_project(ProjectSettings(name="p", kind=kind)).id  # type: ignore[arg-type]
    made = exchange.import_file(studio, project, file)
    assert (made.items, made.new) == (items, items)
    assert exchange.import_file(studio, project, file).new == 0
    assert studio.progress([project])[project].items == items


def test_a_file_without_anything_to_compare_is_refused(studio: Studio, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", ROWS["labels"])
    project = studio.create_project(ProjectSettings(name="p")).id
    with pytest.raises(InputError, match="needs prompts with two different completions"):
        exchange.import_file(studio, project, file)


def test_the_order_in_the_file_does_not_show(studio: Studio, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"poor {n}"} for n in range(40)]
    project = studio.create_project(ProjectSettings(name="p")).id
    exchange.import_file(studio, project, write(tmp_path / "rows.jsonl", rows))
    slots = [
        item.completions[0].startswith("good") for item in studio.store.items() if "p" in str(item.prompt)
    ]
    assert 8 < sum(slots) < 32


def test_known_answers_come_from_the_file(studio: Studio, tmp_path: Path) -> None:
    project = studio.create_project(ProjectSettings(name="p", gold_share=0.5)).id
    other = [{"prompt": f"q{n}", "chosen": f"x {n}", "rejected": f"y {n}"} for n in range(20)]
    exchange.import_file(studio, project, write(tmp_path / "plain.jsonl", other))
    exchange.import_file(studio, project, write(tmp_path / "gold.jsonl", ROWS["comparisons"]), gold=True)
    ann = studio.store.add_annotator("ann")
    while (got := studio.lease(project, ann)) is not None:
        good = [place for place, text in enumerate(got.completions) if text.startswith("good")]
        choice = ("first", "second")[good[0]] if good else "tie"
        studio.submit(got.token, ann, Answer(choice=choice), key="12345678")  # type: ignore[arg-type]
    from prefloop.feedback.studio import admin_views

    (row,) = admin_views.annotators(studio, project)
    assert row.gold[0] == row.gold[1] > 0


def test_an_export_reads_back_as_the_same_records_and_leads_back_to_the_judgements(
    studio: Studio, tmp_path: Path
) -> None:
    project = studio.create_project(ProjectSettings(name="p")).id
    exchange.import_file(studio, project, write(tmp_path / "rows.jsonl", ROWS["comparisons"]))
    assert answer_all(studio, project, Answer(choice="first")) == 4
    out = tmp_path / "out.jsonl"
    manifest = exchange.export_file(studio, "comparisons", out, filters=Filters(projects=("p",)))
    assert manifest["rows"] == 4
    assert exchange.verify(out) == manifest
    records = load_comparisons(out).records
    assert content_hash(records) == manifest["content_sha256"]
    assert studio.store.exported(manifest["export"]) == records
    # Into another store, judged by the file, and out again: the same records.
    with Store.open(tmp_path / "other.db") as store:
        from prefloop.data import load_records
        from prefloop.data.importing import import_records

        import_records(store, load_records(out))
        assert content_hash(store.comparisons().records) == manifest["content_sha256"]
    out.write_text(out.read_text().replace("good", "best"))
    with pytest.raises(InputError, match="is not the file that its manifest describes"):
        exchange.verify(out)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_backup_of_a_store_in_use_comes_back_whole(
    kind: str, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    if kind == "postgresql":
        pytest.skip(
            "a schema of the tests' server is not a database of its own; docs/studio.md has the commands"
        )
    url = new_url(kind)
    with Store.open(url) as store:
        studio = Studio(store)
        project = studio.create_project(ProjectSettings(name="p")).id
        exchange.import_file(studio, project, write(tmp_path / "rows.jsonl", ROWS["comparisons"]))
        answer_all(studio, project, Answer(choice="first"))
        counts = store.counts()
        back_up(url, tmp_path / "backup.db")
        answer = store.add_annotator("later")
        assert answer
    with pytest.raises(InputError, match="is there already"):
        back_up(url, tmp_path / "backup.db")
    restore(tmp_path / "backup.db", str(tmp_path / "restored.db"))
    with Store.open(tmp_path / "restored.db", create=False) as store:
        assert store.counts() == counts
    with pytest.raises(InputError, match="is there already"):
        restore(tmp_path / "backup.db", str(tmp_path / "restored.db"))


def test_a_damaged_backup_is_not_restored(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        store.add_annotator("ann")
    back_up(str(tmp_path / "s.db"), tmp_path / "b.db")
    content = bytearray((tmp_path / "b.db").read_bytes())
    content[5000:9000] = b"\xa5" * 4000
    (tmp_path / "b.db").write_bytes(content)
    with pytest.raises(InputError):
        restore(tmp_path / "b.db", str(tmp_path / "r.db"))
    assert not (tmp_path / "r.db").exists()


def test_the_commands_do_it_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "s.db")
    file = str(write(tmp_path / "rows.jsonl", ROWS["comparisons"]))
    assert main(["label", "import", file, "--store", store, "--project", "Mine", "--overlap", "2"]) == 0
    assert "4 items in project 'Mine', 4 of them new" in capsys.readouterr().out
    with Store.open(store) as opened:
        studio = Studio(opened)
        assert studio.find_project("Mine").settings.overlap == 2
        answer_all(studio, studio.find_project("Mine").id, Answer(choice="second"))
    out = str(tmp_path / "out.jsonl")
    assert (
        main(
            ["label", "export", "--store", store, "--out", out, "--judged_by", "human", "--projects", "Mine"]
        )
        == 0
    )
    assert "4 comparisons" in capsys.readouterr().out
    assert exchange.verify(out)["filters"] == {"kinds": ["human"], "projects": ["Mine"]}
    assert main(["label", "backup", "--store", store, "--out", str(tmp_path / "b.db")]) == 0
    assert main(["label", "restore", str(tmp_path / "b.db"), "--store", str(tmp_path / "r.db")]) == 0
    assert main(["label", "export", "--store", store, "--out", out, "--projects", "Mein"]) == 2
    assert "there is Mine" in capsys.readouterr().err
