"""Judgements: only ever added, corrected by superseding, sent twice without harm, and read back as what they say."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from prefloop.data.split import part_of
from prefloop.data.store import Conflict, Filters, Judgement, Store, models
from prefloop.data.store.store import judging
from prefloop.errors import InputError
from prefloop.records import Comparison, Completion, Prompt, Ranking


def add_pairs(store: Store, prompts: list[str], round: int = 0) -> list[int]:
    """An item for each prompt, whose completions are `good PROMPT` (a) and `bad PROMPT` (b)."""
    policy = store.add_checkpoint("sft")
    ids = store.add_completions(
        [drawn(prompt, said) for prompt in prompts for said in ("good", "bad")], policy
    )
    return store.add_items(list(zip(ids[::2], ids[1::2], strict=True)), round=round)


def drawn(prompt: str, said: str) -> Completion:
    return Completion(
        prompt=Prompt(content=prompt),
        text=f"{said} {prompt}",
        policy="sft",
        logprob=-1.0,
        tokens=2,
        ended=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=0,
    )


def add_triple(store: Store, prompt: str) -> int:
    """An item to rank whose completions, by slot, are `0 PROMPT`, `1 PROMPT`, `2 PROMPT`."""
    policy = store.add_checkpoint("sft")
    ids = store.add_completions([drawn(prompt, str(slot)) for slot in range(3)], policy)
    return store.add_items([ids], kind="rank")[0]


def says(item: int, annotator: int, choice: str = "a", **others: Any) -> Judgement:
    return Judgement(item=item, annotator=annotator, choice=choice, **({"order_shown": (0, 1)} | others))  # type: ignore[arg-type]


# Append-only


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def judged_store(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> Iterator[Store]:
    """A store with one judgement and exports of it. Tests share it, for nothing in it can be changed: that is what they try."""
    with Store.open(new_url(request.param)) as store:
        (item,) = add_pairs(store, ["p"])
        store.add_judgement(says(item, store.add_annotator("ann")))
        store.export("comparisons")
        store.export("prompts")
        yield store


FROZEN = (models.JudgementRow, models.ExportRow, models.ExportJudgementRow, models.ExportPromptRow)


@pytest.mark.parametrize("table", FROZEN, ids=lambda table: table.__tablename__)
def test_rows_that_were_said_cannot_be_deleted(judged_store: Store, table: type[models.Base]) -> None:
    refused = rf"DELETE of {table.__tablename__} is refused: what was said stays"
    with pytest.raises(DBAPIError, match=refused), judged_store.database.write() as session:
        session.execute(delete(table))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        (models.JudgementRow, {"choice": "b"}),
        (models.JudgementRow, {"duration_ms": 1}),
        (models.ExportRow, {"sha256": "0" * 64}),
        (models.ExportJudgementRow, {"position": 5}),
        (models.ExportPromptRow, {"position": 5}),
        (models.CompletionRow, {"text": "something else"}),
        (models.ItemCompletionRow, {"slot": 5}),
    ],
    ids=lambda value: value.__tablename__ if isinstance(value, type) else "".join(value),
)
def test_rows_that_were_said_cannot_be_changed(
    judged_store: Store, table: type[models.Base], change: dict[str, Any]
) -> None:
    refused = rf"UPDATE of {table.__tablename__} is refused: what was said stays"
    with pytest.raises(DBAPIError, match=refused), judged_store.database.write() as session:
        session.execute(update(table).values(**change))


def test_no_way_round_the_refusal(judged_store: Store) -> None:
    """The ORM, INSERT OR REPLACE (SQLite deletes the old row then), TRUNCATE (PostgreSQL fires no row's trigger then)."""

    def change_an_object() -> None:
        with judged_store.database.write() as session:
            session.get_one(models.JudgementRow, 1).choice = "b"

    def replace_the_row() -> None:
        with judged_store.database.write() as session:
            columns = ", ".join(column.name for column in models.JudgementRow.__table__.columns)
            session.execute(
                text(f"INSERT OR REPLACE INTO judgement ({columns}) SELECT {columns} FROM judgement")
            )

    def empty_the_table() -> None:
        with judged_store.database.write() as session:
            session.execute(text("TRUNCATE judgement CASCADE"))

    tries = [change_an_object]
    tries.append(replace_the_row if judged_store.database.dialect == "sqlite" else empty_the_table)
    for attempt in tries:
        with pytest.raises(DBAPIError, match="is refused: what was said stays"):
            attempt()
    assert len(judged_store.comparisons().records) == 1


def test_texts_that_were_judged_cannot_be_deleted(judged_store: Store) -> None:
    for table in (models.CompletionRow, models.PromptRow, models.AnnotatorRow, models.ItemRow):

        def empty_it(table: type[models.Base] = table) -> None:
            with judged_store.database.write() as session:
                session.execute(delete(table))

        with pytest.raises(IntegrityError):
            empty_it()


# Judging


def test_open_items_are_those_an_annotator_has_not_judged(store: Store) -> None:
    first, second, third = add_pairs(store, ["p", "q", "r"])
    (later,) = add_pairs(store, ["p"], round=1)
    ann, bob = store.add_annotator("ann"), store.add_annotator("bob")
    store.add_judgement(says(second, ann, "skip"))
    assert [item.id for item in store.open_items(ann)] == [first, third, later]
    assert [item.id for item in store.open_items(bob)] == [first, second, third, later]
    assert [item.id for item in store.open_items(bob, rounds=[1])] == [later]
    assert [item.id for item in store.open_items(bob, limit=2)] == [first, second]
    with pytest.raises(InputError, match="annotator 99 is not in the store"):
        store.open_items(99)


def test_an_open_item_shows_nothing_of_the_model(sqlite_store: Store) -> None:
    store = sqlite_store
    add_pairs(store, ["p"])
    (item,) = store.open_items(store.add_annotator("ann"))
    assert (item.prompt, item.completions, item.kind, item.round) == (
        Prompt(content="p"),
        ("good p", "bad p"),
        "pair",
        0,
    )
    assert "sft" not in repr(item)


def test_a_judgement_sent_twice_is_one(store: Store) -> None:
    item, other = add_pairs(store, ["p", "q"])
    ann = store.add_annotator("ann")
    judgement = says(item, ann, margin=0.5, strength=2, duration_ms=900, guideline_version="3")
    first = store.add_judgement(judgement)
    assert store.add_judgement(judgement) == first
    assert store.add_judgements([judgement, judgement, says(other, ann)])[:2] == [first, first]
    with pytest.raises(Conflict, match="was used for another judgement of item"):
        store.add_judgement(replace(judgement, choice="b"))
    assert store.counts()["judgement"] == 2


def test_a_second_opinion_must_supersede_the_first(store: Store) -> None:
    item, other = add_pairs(store, ["p", "q"])
    ann, bob = store.add_annotator("ann"), store.add_annotator("bob")
    first = store.add_judgement(says(item, ann, "a"))
    with pytest.raises(
        Conflict, match=rf"judged already, in judgement {first}; to correct it, supersede that one"
    ):
        store.add_judgement(says(item, ann, "b"))
    for wrong in (says(item, bob, "b", supersedes=first), says(other, ann, "b", supersedes=first)):
        with pytest.raises(Conflict, match="not a judgement of this item by this annotator"):
            store.add_judgement(wrong)
    second = store.add_judgement(says(item, ann, "b", supersedes=first))
    with pytest.raises(Conflict, match=rf"judged already, in judgement {second}"):
        store.add_judgement(says(item, ann, "tie", supersedes=first))
    with pytest.raises(Conflict, match="judged twice in one request"):
        store.add_judgements([says(other, ann, "a"), says(other, ann, "b")])
    assert store.counts()["judgement"] == 2
    (comparison,) = store.comparisons().records
    assert (comparison.chosen, comparison.rejected) == ("bad p", "good p")


def test_the_database_itself_keeps_chains_whole(store: Store) -> None:
    """Past the checks in code, as two processes at once would come."""
    item, other = add_pairs(store, ["p", "q"])
    ann, bob = store.add_annotator("ann"), store.add_annotator("bob")
    first = store.add_judgement(says(item, ann))
    second = store.add_judgement(says(item, ann, supersedes=first))
    for wrong in (
        says(item, ann),  # a second beginning
        says(item, ann, supersedes=first),  # a fork
        says(item, bob, supersedes=second),  # of another annotator
        says(other, ann, supersedes=second),  # of another item
    ):

        def insert(wrong: Judgement = wrong) -> None:
            with store.database.write() as session:
                row = judging._row(wrong) | {"created_at": datetime.now(UTC)}
                session.add(models.JudgementRow(**row))

        with pytest.raises(IntegrityError):
            insert()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": "left"}, r"choice is 'left'; it must be one of a, b, tie"),
        ({"choice": "ranking"}, r"of a pair it must be one of a, b, tie"),
        ({"order_shown": (0,)}, r"order_shown is \[0\]; it must hold each slot from 0 to 1 once"),
        ({"order_shown": (1, 1)}, r"order_shown is \[1, 1\]"),
        ({"margin": -1.0}, "margin is -1.0; it must be 0"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"strength": -1}, "strength is -1"),
        ({"duration_ms": -1}, "duration_ms -1"),
        ({"ranking": ((0,), (1,))}, "one goes with the other"),
        ({"item": 99}, "item 99 is not in the store"),
        ({"annotator": 99}, "annotator 99 is not in the store"),
        ({"idempotency_key": ""}, "idempotency_key is empty"),
    ],
)
def test_a_judgement_that_makes_no_sense_is_refused(
    store: Store, change: dict[str, Any], message: str
) -> None:
    items = add_pairs(store, ["p", "q"])
    ann = store.add_annotator("ann")
    with pytest.raises(InputError, match=message):
        store.add_judgements([says(items[1], ann), replace(says(items[0], ann), **change)])
    assert store.counts()["judgement"] == 0


@pytest.mark.parametrize(
    "ranking", [((0,),), ((0,), (0, 1)), ((0,), (3,)), ((0, 1), ()), ((-1,), (0,))], ids=str
)
def test_a_ranking_that_makes_no_sense_is_refused(
    sqlite_store: Store, ranking: tuple[tuple[int, ...], ...]
) -> None:
    store = sqlite_store
    item, ann = add_triple(store, "p"), store.add_annotator("ann")
    with pytest.raises(InputError, match="groups of two or more different slots from 0 to 2, none empty"):
        store.add_judgement(says(item, ann, "ranking", order_shown=(2, 0, 1), ranking=ranking))
    with pytest.raises(InputError, match="of a rank it must be one of ranking, best, both_bad, skip"):
        store.add_judgement(says(item, ann, "a", order_shown=(2, 0, 1)))


# Reading


def test_only_a_preference_becomes_chosen_and_rejected(store: Store) -> None:
    items = add_pairs(store, ["a", "b", "tie", "both_bad", "skip", "again"])
    triple = add_triple(store, "p")
    ann, bob = store.add_annotator("ann"), store.add_annotator("bob")
    for item, choice in zip(items, ["a", "b", "tie", "both_bad", "skip"], strict=False):
        store.add_judgement(says(item, ann, choice, order_shown=(1, 0), margin=0.25))
    first = store.add_judgement(says(items[5], ann, "a"))
    store.add_judgement(says(items[5], ann, "tie", supersedes=first))
    store.add_judgement(says(triple, ann, "ranking", order_shown=(0, 1, 2), ranking=((2,), (0,))))
    store.add_judgement(says(items[0], bob, "b"))

    selection = store.comparisons()
    a, b = Prompt(content="a"), Prompt(content="b")
    assert selection.records == (
        # `a` is slot 0, though it was shown second
        Comparison(prompt=a, chosen="good a", rejected="bad a", margin=0.25, annotator="ann"),
        Comparison(prompt=b, chosen="bad b", rejected="good b", margin=0.25, annotator="ann"),
        Comparison(prompt=a, chosen="bad a", rejected="good a", annotator="bob"),
    )
    assert selection.left_out == {"tie": 2, "both_bad": 1, "skip": 1, "superseded": 1, "rank": 1}
    assert selection.records[0].origin == f"{store.label}:judgement 1"
    assert len(selection.records) + sum(selection.left_out.values()) == store.counts()["judgement"]


def test_rankings_are_orders_with_their_ties(store: Store) -> None:
    whole, partial, tied, skipped, bad, again = (add_triple(store, f"p{number}") for number in range(6))
    (pair,) = add_pairs(store, ["pair"])
    ann = store.add_annotator("ann")
    seen = {"order_shown": (2, 0, 1)}
    store.add_judgement(says(whole, ann, "ranking", ranking=((1,), (2,), (0,)), **seen))
    store.add_judgement(says(partial, ann, "ranking", ranking=((2,), (0,)), **seen))
    store.add_judgement(says(tied, ann, "ranking", ranking=((2, 1), (0,)), **seen))
    store.add_judgement(says(skipped, ann, "skip", **seen))
    store.add_judgement(says(bad, ann, "both_bad", **seen))
    first = store.add_judgement(says(again, ann, "ranking", ranking=((0,), (1,)), **seen))
    store.add_judgement(says(again, ann, "ranking", ranking=((1,), (0,)), supersedes=first, **seen))
    store.add_judgement(says(pair, ann))
    selection = store.rankings()
    p0, p1, p2, p5 = (Prompt(content=f"p{number}") for number in (0, 1, 2, 5))
    assert selection.records == (
        Ranking(prompt=p0, completions=("1 p0", "2 p0", "0 p0"), annotator="ann"),
        Ranking(prompt=p1, completions=("2 p1", "0 p1"), annotator="ann"),
        Ranking(prompt=p2, completions=("1 p2", "2 p2", "0 p2"), annotator="ann", ranks=(1, 1, 2)),
        Ranking(prompt=p5, completions=("1 p5", "0 p5"), annotator="ann"),
    )
    assert selection.left_out == {"skip": 1, "both_bad": 1, "superseded": 1, "pair": 1}


def test_filters(store: Store) -> None:
    names = [f"prompt {number}" for number in range(30)]
    first, second = add_pairs(store, names), add_pairs(store, names[:5], round=1)
    ann, bob = store.add_annotator("ann"), store.add_annotator("bob", kind="ai")
    store.add_judgements([says(item, ann) for item in first])
    between = datetime.now(UTC)
    store.add_judgements([says(item, bob) for item in second])

    def count(**filters: Any) -> Counter[str]:
        return Counter(record.annotator for record in store.comparisons(Filters(**filters)).records)

    assert count() == {"ann": 30, "bob": 5}
    assert count(annotators=("bob",)) == {"bob": 5}
    assert count(kinds=("ai",)) == {"bob": 5}
    assert count(kinds=("human",)) == {"ann": 30}
    assert count(annotators=("bob", "ann"), rounds=(0,)) == {"ann": 30}
    assert count(since=between) == {"bob": 5}
    assert count(since=between + timedelta(days=1)) == {}
    held = sum(part_of(Prompt(content=name), heldout=0.5) == "heldout" for name in names)
    assert count(part="heldout", heldout=0.5)["ann"] == held
    assert count(part="train", heldout=0.5)["ann"] == 30 - held
    with pytest.raises(InputError, match="annotator 'anne' is not in the store; the nearest are ann"):
        count(annotators=("anne",))
    with pytest.raises(InputError, match=r"since is .*; give it a time zone"):
        Filters(since=datetime(2026, 1, 1))
    with pytest.raises(InputError, match="part is 'test'; it must be one of all, train, heldout"):
        Filters(part="test")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"heldout is 1\.0"):
        Filters(heldout=1.0)


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 2),  # item
        st.integers(0, 1),  # annotator
        st.sampled_from(["a", "b", "tie", "both_bad", "skip"]),
        st.sampled_from(["current", "first", "nothing"]),  # what it supersedes
        st.booleans(),  # sent again
    ),
    max_size=14,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_any_history_reads_as_its_last_words(
    empty_store: Callable[[Path], Store], tmp_path: Path, operations: list[tuple[int, int, Any, str, bool]]
) -> None:
    """Against a dictionary of chains: what is accepted, what is current, that nothing is ever lost."""
    chains: dict[tuple[int, int], list[tuple[int, str]]] = {}
    with empty_store(tmp_path) as store:
        items = add_pairs(store, ["p0", "p1", "p2"])
        annotators = [store.add_annotator("ann0"), store.add_annotator("ann1")]
        for item, annotator, choice, supersedes, again in operations:
            chain = chains.setdefault((item, annotator), [])
            target = (
                None
                if supersedes == "nothing" or not chain
                else chain[-1 if supersedes == "current" else 0][0]
            )
            judgement = says(items[item], annotators[annotator], choice, supersedes=target)
            if target == (chain[-1][0] if chain else None):
                chain.append((store.add_judgement(judgement), choice))
                assert not again or store.add_judgement(judgement) == chain[-1][0]
            else:
                with pytest.raises(Conflict):
                    store.add_judgement(judgement)
        selection = store.comparisons()
        written = sum(map(len, chains.values()))
        last = {key: chain[-1] for key, chain in chains.items() if chain}
        assert store.counts()["judgement"] == written
        assert {(record.prompt.content, record.annotator, record.chosen) for record in selection.records} == {
            (f"p{item}", f"ann{annotator}", f"{'good' if choice == 'a' else 'bad'} p{item}")
            for (item, annotator), (_, choice) in last.items()
            if choice in ("a", "b")
        }
        expected = Counter(choice for _, choice in last.values() if choice not in ("a", "b"))
        expected["superseded"] = written - len(last)
        assert selection.left_out == {reason: count for reason, count in expected.items() if count}
        for (item, annotator), chain in chains.items():
            open_ids = [one.id for one in store.open_items(annotators[annotator])]
            assert (items[item] in open_ids) == (not chain)
