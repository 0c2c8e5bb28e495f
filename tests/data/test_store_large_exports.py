"""Exports of large stores: memory holds a part of the records, and the parts make the same export as the whole."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from prefloop.data import write
from prefloop.data.load import load_comparisons
from prefloop.data.store import Filters, Judgement, Store, exporting, selecting
from prefloop.records import Prompt
from prefloop.studio import exchange
from prefloop.studio.service import Studio
from tests.data.test_store_exports import sample

LONG = 2000
"""Characters of a completion."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "PART", 50)
    monkeypatch.setattr(exporting, "PART", 50)
    monkeypatch.setattr(write, "IN_MEMORY", 10_000)
    monkeypatch.setattr(exporting, "IN_MEMORY", 10_000)
    monkeypatch.setattr(exporting, "MEMBERS", 50)


def judge(store: Store, first: int, count: int, people: int = 1) -> None:
    """So many pairs of long texts, from number `first` on, each judged by so many."""
    policy = store.add_checkpoint("sft")
    ids = store.add_completions(
        [
            sample(Prompt(content=f"question {number}"), f"{side} {number} ".ljust(LONG, "x"), side)
            for number in range(first, first + count)
            for side in range(2)
        ],
        policy,
    )
    items = store.add_items(list(zip(ids[::2], ids[1::2], strict=True)))
    for who in range(people):
        annotator = store.add_annotator(f"p{who}")
        store.add_judgements(
            [
                Judgement(
                    item=item,
                    annotator=annotator,
                    choice="b" if (item + who) % 3 == 0 else "a",
                    order_shown=(0, 1),
                )
                for item in items
            ]
        )


def peak(do: Any) -> int:
    """Bytes that Python held at the most beyond what it held before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        do()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_an_export_of_four_times_as_much_takes_no_more_memory(store: Store, tmp_path: Path) -> None:
    """The texts of the larger one are 4 MB. Also the file, read again to be hashed, and its manifest."""
    studio = Studio(store)
    judge(store, 0, 250)
    exchange.export_files(studio, "comparisons", tmp_path / "warm.jsonl")
    small = peak(lambda: exchange.export_files(studio, "comparisons", tmp_path / "small.jsonl"))
    judge(store, 250, 750)
    large = peak(lambda: exchange.export_files(studio, "comparisons", tmp_path / "large.jsonl"))
    assert (tmp_path / "large.jsonl").stat().st_size > 4_000_000
    assert large < small + 400_000
    assert exchange.verify(tmp_path / "large.jsonl")["rows"] == 1000
    read = peak(lambda: exchange.verify(tmp_path / "large.jsonl"))
    assert read < 1_000_000


def test_parts_are_the_whole(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judgements of an item lie in several parts, and settings that look at all of them see all."""
    judge(store, 0, 60, people=4)
    settings = (
        Filters(),
        Filters(min_agreement=0.7),
        Filters(part="train", heldout=0.4),
        Filters(annotators=("p1", "p3")),
    )
    in_parts = [store.export("comparisons", each) for each in settings]
    records = [store.exported(each.id) for each in in_parts]
    monkeypatch.setattr(selecting, "PART", 10**6)
    at_once = [store.export("comparisons", each) for each in settings]
    assert in_parts == at_once
    assert records == [store.exported(each.id) for each in at_once]
    assert {each.rows for each in in_parts} != {240}
    made = store.export("comparisons", path=tmp_path / "out.jsonl")
    assert made.files == ((str(tmp_path / "out.jsonl"), 240),)
    assert load_comparisons(tmp_path / "out.jsonl").records == store.comparisons().records


@pytest.fixture
def on_postgresql(new_database: Any) -> Iterator[Store]:
    with Store.open(new_database()) as store:
        yield store


def test_postgresql_keeps_the_rows_that_were_not_read_yet(on_postgresql: Store) -> None:
    """The client's memory is not Python's, so this is seen by the kind of cursor."""
    judge(on_postgresql, 0, 120)
    cursors: list[str] = []

    def hear(_connection: object, cursor: Any, statement: str, *_: object) -> None:
        if "FROM judgement" in statement and "ORDER BY judgement.id" in statement:
            cursors.append(type(getattr(cursor, "driver_connection", cursor)).__name__)

    engine = on_postgresql.database._engine
    event.listen(engine, "before_cursor_execute", hear)
    made = on_postgresql.export("comparisons")
    on_postgresql.exported(made.id)
    assert cursors == ["ServerCursor", "ServerCursor"]
