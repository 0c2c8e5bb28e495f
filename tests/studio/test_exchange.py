"""Files in and out of projects, with their manifest; backups; the commands that do it without a server."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli import main
from prefloop.configs.common import Selecting
from prefloop.data import load_comparisons, load_records
from prefloop.data.hashing import content_hash
from prefloop.data.importing import import_records
from prefloop.data.store import Store
from prefloop.data.store.values import Judgement
from prefloop.errors import InputError
from prefloop.feedback import aggregated
from prefloop.studio import exchange
from prefloop.studio.backup import back_up, restore
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings, Scale

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
    exchange.import_file(
        studio,
        project,
        write(tmp_path / "gold.jsonl", ROWS["comparisons"]),
        exchange.ImportOptions(gold=True),
    )
    ann = studio.store.add_annotator("ann")
    while (got := studio.lease(project, ann)) is not None:
        good = [place for place, text in enumerate(got.completions) if text.startswith("good")]
        choice = ("first", "second")[good[0]] if good else "tie"
        studio.submit(got.token, ann, Answer(choice=choice), key="12345678")  # type: ignore[arg-type]
    from prefloop.studio import at_work

    (row,) = at_work.people(studio, project)
    assert row.gold.value == 1
    assert row.gold.n > 0


def test_an_export_reads_back_as_the_same_records_and_leads_back_to_the_judgements(
    studio: Studio, tmp_path: Path
) -> None:
    project = studio.create_project(ProjectSettings(name="p")).id
    exchange.import_file(studio, project, write(tmp_path / "rows.jsonl", ROWS["comparisons"]))
    assert answer_all(studio, project, Answer(choice="first")) == 4
    out = tmp_path / "out.jsonl"
    (manifest,) = exchange.export_files(studio, "comparisons", out, chosen=Selecting(projects=("p",)))
    assert manifest["rows"] == 4
    assert exchange.verify(out) == manifest
    records = load_comparisons(out).records
    assert content_hash(records) == manifest["content_sha256"]
    assert studio.store.exported(manifest["export"]) == records
    # Into another store, judged by the file, and out again: the same records.
    with Store.open(tmp_path / "other.db") as store:
        import_records(store, load_records(out))
        assert content_hash(store.comparisons().records) == manifest["content_sha256"]
    out.write_text(out.read_text().replace("good", "best"))
    with pytest.raises(InputError, match="is not the file that its manifest describes"):
        exchange.verify(out)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_backup_of_a_store_in_use_comes_back_whole(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "sqlite":
        url, other = str(tmp_path / "s.db"), str(tmp_path / "restored.db")
    else:
        if shutil.which("pg_dump") is None:
            pytest.skip("pg_dump is not installed; it is in Debian's postgresql-client")
        new = request.getfixturevalue("own_database")
        url, other = new(), new()
    backup = tmp_path / "backup"
    with Store.open(url) as store:
        studio = Studio(store)
        project = studio.create_project(ProjectSettings(name="p")).id
        rows = [*ROWS["comparisons"], {"prompt": "nul", "chosen": "a\0b", "rejected": "c \ue000"}]
        exchange.import_file(studio, project, write(tmp_path / "rows.jsonl", rows))
        answer_all(studio, project, Answer(choice="first"))
        export = store.export("comparisons")
        counts = store.counts()
        back_up(url, backup)
        assert store.add_annotator("later")
    with pytest.raises(InputError, match="exists already"):
        back_up(url, backup)
    restore(backup, other)
    with Store.open(other, create=False) as store:
        assert store.counts() == counts
        assert content_hash(store.exported(export.id)) == export.sha256
        # It goes on where it stopped: nothing is asked twice, and what was said stays.
        studio = Studio(store)
        assert studio.lease(project, store.add_annotator("ann")) is None
        first = store.items()[0].id
        with pytest.raises(InputError, match="judged already"):
            store.add_judgement(
                Judgement(item=first, annotator=store.add_annotator("ann"), choice="b", order_shown=(0, 1))
            )
    with pytest.raises(InputError, match="exists already" if kind == "sqlite" else "holds a store already"):
        restore(backup, other)
    with pytest.raises(InputError, match="no such backup"):
        restore(tmp_path / "none", other)


def test_what_is_no_archive_is_not_restored_to_postgresql(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue("own_database")()
    (tmp_path / "b").write_bytes(b"not an archive")
    with pytest.raises(InputError, match="pg_restore failed"):
        restore(tmp_path / "b", url)
    Store.open(url).close()  # it is still an empty database


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
    assert "the nearest are Mine" in capsys.readouterr().err


CHATS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


def dialogues(keys: tuple[str, ...]) -> list[dict[str, object]]:
    """Rows of chats, without a system turn where transcripts are to be written of them."""
    return [
        {
            "prompt": [*CHATS[1:3], {"role": "user", "content": f"Why {n}?"}],
            **{key: [{"role": "assistant", "content": f"{key} {n}"}] for key in keys},
        }
        for n in range(3)
    ]


@pytest.mark.parametrize(
    ("project", "source", "answer", "kind", "formats"),
    [
        ("pair", "chats", Answer(choice="first", strength=1), "comparisons", ("", "comparison", "implicit", "hh")),
        ("pair", "comparisons", Answer(choice="second"), "comparisons", ("",)),
        ("rank", "rankings", Answer(choice="ranking", ranking=((2,), (0,), (1,))), "rankings", ("",)),
        ("binary", "labels", Answer(choice="good"), "labels", ("",)),
        ("rate", "labels", Answer(choice="rated", ratings={"helpful": 4, "correct": 2, "well written": 5}), "scores", ("",)),
        ("edit", "answers", Answer(choice="edited", edited="a better one"), "demonstrations", ("", "demonstration", "messages")),
    ],
)  # fmt: skip
def test_every_format_makes_the_round_trip_without_a_server(
    project: str, source: str, answer: Answer, kind: str, formats: tuple[str, ...], store_url: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = {
        **ROWS,
        "chats": dialogues(("chosen", "rejected")),
        "answers": dialogues(("completion",)),
    }[source]
    file = str(write(tmp_path / "rows.jsonl", rows))
    line = ["label", "import", file, "--store", store_url, "--project", "Mine", "--kind", project]
    assert main(line) == 0
    with Store.open(store_url) as store:
        studio = Studio(store)
        said = answer_all(studio, studio.find_project("Mine").id, answer)
    assert said >= 3
    for number, format in enumerate(formats):
        out = tmp_path / f"{number}.jsonl.gz"
        line = ["label", "export", "--store", store_url, "--out", str(out), "--kind", kind]
        assert main([*line, *(("--format", format) if format else ())]) == 0
        manifest = exchange.verify(out)
        assert (manifest["rows"], manifest["kind"]) == (said, kind)
        # The manifest leads to the same records in the store, and the file says the same judgements again.
        with Store.open(store_url) as store:
            records = store.exported(manifest["export"])
        assert content_hash(records) == manifest["content_sha256"]
        assert (manifest["read_sha256"] == manifest["content_sha256"]) == (format != "messages")
        assert load_records(out).summary.kept == said
        if kind in ("comparisons", "rankings"):
            with Store.open(tmp_path / f"{number}.db") as other:
                import_records(other, load_records(out))
                again = other.export(kind)  # type: ignore[arg-type]
                assert again.sha256 == manifest["content_sha256"]
    assert main(["label", "import", file, "--store", store_url, "--project", "Mine"]) == 0
    assert ", 0 of them new" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["majority", "dawid_skene"])
def test_several_judgements_are_exported_as_one_soft_label(
    how: str,
    store_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aggregated, "ENOUGH", 1)
    with Store.open(store_url) as store:
        studio = Studio(store)
        project = studio.create_project(ProjectSettings(name="p", overlap=3)).id
        exchange.import_file(studio, project, write(tmp_path / "rows.jsonl", ROWS["comparisons"]))
        items = [item.id for item in store.items()]
        for who, choices in {"ann": "aaab", "bea": "aaaa", "cem": "abta"}.items():
            annotator = store.add_annotator(who)
            for item, choice in zip(items, choices, strict=True):
                store.add_judgement(
                    Judgement(
                        item=item, annotator=annotator, order_shown=(0, 1),
                        choice={"t": "tie"}.get(choice, choice),  # type: ignore[arg-type]
                    )
                )  # fmt: skip
    out = tmp_path / "soft.jsonl"
    line = ["label", "export", "--store", store_url, "--out", str(out), "--aggregate", how]
    assert main(line) == 0
    assert f"4 comparisons, export 1, {how}, sha256" in capsys.readouterr().out
    manifest = exchange.verify(out)
    assert manifest["aggregate"] == how
    with Store.open(store_url, create=False) as store:
        assert store.exported(manifest["export"]) == load_comparisons(out).records
        assert store.counts()["export_judgement"] == 12
    p_soft = [each.p_soft for each in load_comparisons(out).records]
    if how == "majority":
        assert p_soft == pytest.approx([1.0, 2 / 3, 5 / 6, 2 / 3], abs=1e-6)  # a tie counts a half
    else:
        assert 1 > p_soft[0] > p_soft[1] > 0.5
    assert main([*line, "--kind", "rankings"]) == 2
    assert "only comparisons are aggregated" in capsys.readouterr().err
    # What is soft is no single judgement, so a store does not take it for one.
    assert main(["data", "import", str(out), "--store", str(tmp_path / "other.db")]) == 2
    assert "a store keeps single judgements" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "kind", "export", "answer"),
    [
        ("rankings", "rank", "rankings", Answer(choice="ranking", ranking=((2,), (0,), (1,)))),
        ("labels", "binary", "labels", Answer(choice="bad")),
        ("demonstrations", "edit", "demonstrations", Answer(choice="edited", edited="a better one")),
        ("demonstrations", "edit", "comparisons", Answer(choice="edited", edited="a better one")),
        ("comparisons", "rate", "scores", Answer(choice="rated", ratings={"helpful": 4})),
    ],
)
def test_every_kind_of_export_reads_back_as_the_same_records(
    studio: Studio, tmp_path: Path, rows: str, kind: Any, export: Any, answer: Answer
) -> None:
    settings = ProjectSettings(name="p", kind=kind, scales=(Scale(name="helpful"),))
    project = studio.create_project(settings).id
    exchange.import_file(studio, project, write(tmp_path / "rows.jsonl", ROWS[rows]))
    count = answer_all(studio, project, answer)
    for name in ("out.jsonl", "out.jsonl.gz"):
        out = tmp_path / name
        (manifest,) = exchange.export_files(studio, export, out, chosen=Selecting(projects=("p",)))
        assert manifest["rows"] == count > 0
        assert exchange.verify(out) == manifest
        records = load_records(out).records
        assert content_hash(records) == manifest["content_sha256"]
        assert list(studio.store.exported(manifest["export"])) == list(records)
    downloaded, (told,) = exchange.export_download(
        studio, project, export, tempfile.mkdtemp(dir=tmp_path), by=None
    )
    assert len(downloaded.read_bytes().splitlines()) == count
    assert told["content_sha256"] == manifest["content_sha256"]
