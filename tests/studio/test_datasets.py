"""What of a store is trained on: by agreement, by known answers, aggregated; and saved as versions that stay what they were. On each database."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from prefloop.cli import main
from prefloop.configs.common import Selecting
from prefloop.configs.data import SaveConfig
from prefloop.data.store import Store, models
from prefloop.data.store.datasets import difference
from prefloop.data.store.selecting import GoldShare, gold_shares
from prefloop.data.store.values import Changes, Judgement
from prefloop.errors import InputError
from prefloop.feedback import aggregated
from prefloop.feedback.datasets import save, take
from prefloop.records import Comparison, Label, Prompt
from prefloop.studio import adjudicate
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings

SAID = {"ann": "aaaaaa", "bea": "aaabba", "cem": "aabbbt"}
"""Of each of six pairs: agreed 3/3, 3/3, 2/3, 2/3 (b), 2/3 (b), 2/3."""
CHOICE = {"t": "tie", "g": "good", "x": "bad"}


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


@pytest.fixture
def judged(studio: Studio) -> Studio:
    """Three people have judged all six pairs of project `p`."""
    project = studio.create_project(ProjectSettings(name="p", overlap=3)).id
    items = studio.store.add_pairs().ids
    studio.add_tasks(project, items)
    for who, choices in SAID.items():
        judge(studio.store, list(items), who, choices)
    return studio


def judge(store: Store, items: list[int], who: str, choices: str, *, after: int | None = None) -> list[int]:
    annotator = store.add_annotator(who)
    return store.add_judgements(
        [
            Judgement(
                item=item,
                annotator=annotator,
                order_shown=tuple(range(len(there.completions))),
                choice=CHOICE.get(choice, choice),  # type: ignore[arg-type]
                supersedes=after,
            )
            for item, there, choice in zip(items, store.items(items), choices, strict=True)
        ]
    )


def first_is_chosen(store: Store, export: int) -> dict[int, list[bool]]:
    """Question number -> whether its first answer was preferred, of each comparison."""
    found: dict[int, list[bool]] = {}
    for record in store.exported(export):
        assert isinstance(record, Comparison)
        assert not isinstance(record.prompt.content, str)
        number = int(record.prompt.content[0].content.removeprefix("question "))
        found.setdefault(number, []).append(record.chosen.endswith(" 0"))
    return found


def annotators_of(store: Store, export: int) -> set[str]:
    return {record.annotator for record in store.exported(export) if isinstance(record, Comparison)}


def known_answers(store: Store) -> list[GoldShare]:
    with store.database.read() as session:
        return gold_shares(session)


def test_items_on_which_people_agree_enough(judged: Studio) -> None:
    store = judged.store
    everything = take(store, "comparisons", Selecting())
    assert (everything.rows, dict(everything.left_out)) == (17, {"tie": 1})
    assert take(store, "comparisons", Selecting(min_agreement=0.66)).rows == 17
    # Two thirds are two thirds, however many digits they are written with.
    assert take(store, "comparisons", Selecting(min_agreement=0.6666666667)).rows == 17
    agreed = take(store, "comparisons", Selecting(min_agreement=0.7))
    assert (agreed.rows, dict(agreed.left_out)) == (6, {"disagreement": 12})
    assert first_is_chosen(store, agreed.id) == {0: [True] * 3, 1: [True] * 3}
    # Of the annotators that are taken, not of all.
    two = take(store, "comparisons", Selecting(annotators=("ann", "bea"), min_agreement=1.0))
    assert set(first_is_chosen(store, two.id)) == {0, 1, 2, 5}


@pytest.mark.parametrize("how", ["majority", "one_coin", "dawid_skene"])
def test_aggregated_comparisons_are_read_back_whatever_is_judged_later(
    how: str, judged: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = judged.store
    if how != "majority":
        with pytest.raises(InputError, match=f"aggregate is {how}, but there are 18 labels"):
            take(store, "comparisons", Selecting(aggregate=how))  # type: ignore[arg-type]
        assert store.counts()["export"] == 0
    monkeypatch.setattr(aggregated, "ENOUGH", 1)
    made = take(store, "comparisons", Selecting(aggregate=how))  # type: ignore[arg-type]
    before = store.exported(made.id)
    p_soft = [record.p_soft for record in before if isinstance(record, Comparison)]
    if how == "majority":
        assert first_is_chosen(store, made.id) == {n: [n not in (3, 4)] for n in range(6)}
        assert p_soft == pytest.approx([1, 1, 2 / 3, 2 / 3, 2 / 3, 5 / 6], abs=1e-6)  # a tie counts a half
    assert {record.annotator for record in before if isinstance(record, Comparison)} == {""}
    assert store.counts()["export_judgement"] == 18
    assert take(store, "comparisons", Selecting(aggregate=how)) == made  # type: ignore[arg-type]
    judge(store, [item.id for item in store.items()], "dan", "bbbbbb")
    assert store.exported(made.id) == before
    assert take(store, "comparisons", Selecting(aggregate=how)).id != made.id  # type: ignore[arg-type]


def test_agreement_is_asked_of_what_was_aggregated(judged: Studio) -> None:
    store = judged.store
    made = take(store, "comparisons", Selecting(aggregate="majority", min_agreement=0.7))
    assert (first_is_chosen(store, made.id), dict(made.left_out)) == (
        {0: [True], 1: [True]},
        {"disagreement": 4},
    )


def test_known_answers_say_whose_judgements_are_taken(judged: Studio) -> None:
    """Of the project that the judgement was made in; who was asked too few has not passed."""
    store = judged.store
    (p,) = judged.projects()
    other = judged.create_project(ProjectSettings(name="q", overlap=3)).id
    items = [item.id for item in store.items()]
    gold = dict(zip(items, "aabbbb", strict=True))
    with store.database.write() as session:
        for item in items[:4]:  # ann 2 of 4, bea 3 of 4, cem 4 of 4
            task = models.Base.metadata.tables["task"]
            session.execute(update(task).where(task.c.item_id == item).values(gold=gold[item]))
    shares = {(each.project, each.name): (each.right, each.answered) for each in known_answers(store)}
    assert shares == {(p.id, "ann"): (2, 4), (p.id, "bea"): (3, 4), (p.id, "cem"): (4, 4)}
    passed = take(store, "comparisons", Selecting(gold_passed=0.75, gold_answered=4))
    assert annotators_of(store, passed.id) == {"bea", "cem"}
    assert dict(passed.left_out) == {"known answers": 6, "tie": 1}
    assert annotators_of(
        store, take(store, "comparisons", Selecting(gold_passed=0.76, gold_answered=4)).id
    ) == {"cem"}
    with pytest.raises(InputError, match=r"no comparisons to export .*known answers 18"):
        take(store, "comparisons", Selecting(gold_passed=0.1))  # five are asked for, and four were answered
    # In another project nothing is known, so nobody has passed there.
    judged.add_tasks(other, items[4:])
    with pytest.raises(InputError, match="known answers 6"):
        take(store, "comparisons", Selecting(projects=("q",), gold_passed=0.1, gold_answered=1))
    # An adjudicator is asked no known answer; a decision stands all the same.
    judge_id = store.add_annotator("judge")
    adjudicate.decide(judged, p.id, items[4], judge_id, "first", reason="", last=0, key="a-key-of-its-own")
    decided = take(store, "comparisons", Selecting(adjudicated=True, gold_passed=0.9, gold_answered=4))
    assert {name.partition("-")[0] for name in annotators_of(store, decided.id)} == {"cem", "adjudicator"}


def test_labels_agree_too(studio: Studio) -> None:
    store = studio.store
    items = store.add_items([[1], [2]], kind="single")
    for who, choices in {"ann": "gx", "bea": "gg", "cem": "gx"}.items():
        judge(store, items, who, choices)
    assert take(store, "labels", Selecting()).rows == 6
    made = take(store, "labels", Selecting(min_agreement=0.9))
    assert [each.good for each in store.exported(made.id) if isinstance(each, Label)] == [True] * 3


@pytest.mark.parametrize(
    ("kind", "chosen", "said"),
    [
        ("rankings", Selecting(aggregate="majority"), "aggregate is majority, but kind is rankings"),
        (
            "scores",
            Selecting(min_agreement=0.5),
            "min_agreement is 0.5, but kind is scores; only comparisons and labels",
        ),
        ("demonstrations", Selecting(adjudicated=True), "adjudicated is True, but kind is demonstrations"),
        ("prompts", Selecting(judged_by="human"), "judged_by is human, but prompts are not judged"),
        ("comparisons", Selecting(projects=("q",)), "project 'q' is not in the store; the nearest are p"),
    ],
)
def test_settings_that_a_kind_has_no_use_for_are_refused(
    judged: Studio, kind: str, chosen: Selecting, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        take(judged.store, kind, chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"since": "yesterday"}, "since is 'yesterday'; write it as 2026-11-29"),
        ({"min_agreement": 1.1}, "min_agreement is 1.1; it must be a share"),
        ({"gold_passed": -0.1}, "gold_passed is -0.1; it must be a share"),
        ({"gold_answered": 3}, "gold_answered is 3, but gold_passed is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Selecting(**given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        SaveConfig(name="n", store="s", **given)  # type: ignore[arg-type]


def test_since_is_a_moment_in_utc(judged: Studio) -> None:
    """Judgements carry the time of the machine, which is later than any of these."""
    for since in ("2020-01-01", "2020-01-01T10:00", "2020-01-01T10:00+02:00"):
        assert take(judged.store, "comparisons", Selecting(since=since)).rows == 17
    with pytest.raises(InputError, match=r"no comparisons to export with since 2999-01-01T00:00:00\+00:00"):
        take(judged.store, "comparisons", Selecting(since="2999-01-01"))
    moment = Selecting(since="2026-01-01T10:00+02:00").moment
    assert moment is not None
    assert moment.isoformat() == "2026-01-01T10:00:00+02:00"


def test_a_version_is_the_same_until_something_new_is_judged(judged: Studio) -> None:
    store = judged.store
    chosen = Selecting(judged_by="human", aggregate="majority")
    first, new = save(store, "helpful", "comparisons", chosen, note="to begin with")
    assert (first.label, new, first.note, first.made_by) == ("helpful@1", True, "to begin with", "")
    assert first.changes == Changes(added=6, removed=0, changed=0, same=0)
    assert first.chosen == {"judged_by": "human", "aggregate": "majority"}
    assert save(store, "helpful", "comparisons", chosen, note="another") == (first, False)
    before = store.exported(first.export.id)
    # Four more say: one pair turns, one becomes a tie of two sides and drops out, the rest are surer or less sure.
    items = [item.id for item in store.items()]
    judge(store, items, "dan", "abbbbb")
    ann = store.add_annotator("ann")
    second, new = save(store, "helpful", "comparisons", chosen, annotator=ann)
    assert (second.label, new, second.made_by) == ("helpful@2", True, "ann")
    assert second.changes == Changes(added=0, removed=1, changed=4, same=1)
    assert dict(second.export.left_out) == {"undecided": 1}
    # Other settings make another version of the name, and the one before stays what it was.
    third, _ = save(store, "helpful", "comparisons", Selecting(annotators=("ann",)))
    assert third.version == 3
    assert [each.label for each in store.datasets("helpful")] == ["helpful@1", "helpful@2", "helpful@3"]
    assert store.dataset("helpful") == third
    assert store.dataset("helpful@1") == first
    assert store.exported(first.export.id) == before


def test_versions_that_are_not_there_and_names_that_cannot_be(judged: Studio) -> None:
    store = judged.store
    save(store, "helpful", "comparisons", Selecting())
    for given, said in {
        "helpfull": "dataset 'helpfull' is not in the store; the nearest are helpful",
        "helpful@2": "dataset helpful has no version '2'; the newest is helpful@1",
        "helpful@": "has no version ''",
        "@1": "write it as NAME, or NAME@3",
        "": "write it as NAME, or NAME@3",
    }.items():
        with pytest.raises(InputError, match=said):
            store.dataset(given)
    for name in ("", "a b", "a@1", "-a", "a/b", "ä", "a" * 101):
        with pytest.raises(InputError, match="dataset's name is"):
            save(store, name, "comparisons", Selecting())
    with pytest.raises(InputError, match="dataset helpful holds comparisons, but these are prompts"):
        save(store, "helpful", "prompts", Selecting())


@pytest.mark.parametrize(
    "table", [models.DatasetVersionRow, models.ExportPairRow], ids=lambda table: table.__tablename__
)
def test_what_was_saved_cannot_be_changed_or_deleted(judged: Studio, table: type[models.Base]) -> None:
    save(judged.store, "helpful", "comparisons", Selecting(aggregate="majority"))
    column = {"dataset_version": {"export_id": 1}, "export_pair": {"p_soft": 0.5}}[table.__tablename__]
    for action in (update(table).values(**column), delete(table)):
        with (
            pytest.raises(DBAPIError, match=f"of {table.__tablename__} is refused"),
            judged.store.database.write() as session,
        ):
            session.execute(action)


def test_differences_by_hand() -> None:
    def said(prompt: str, chosen: str, rejected: str, annotator: str = "", p_soft: float = 1.0) -> Comparison:
        return Comparison(
            prompt=Prompt(content=prompt),
            chosen=chosen,
            rejected=rejected,
            annotator=annotator,
            p_soft=p_soft,
        )

    before = [
        said("p", "x", "y"),
        said("q", "x", "y", "ann"),
        said("q", "x", "y", "bea"),
        said("r", "x", "y"),
        said("r", "x", "y"),
    ]
    after = [
        said("r", "x", "y"),
        said("q", "x", "y", "bea"),
        said("q", "y", "x", "ann"),  # turned
        said("p", "x", "y", p_soft=0.7),  # less sure
        said("p", "x", "z"),  # of other answers
        said("q", "x", "y", "cem"),  # by somebody else
    ]
    found = difference(before, after)
    assert found.changes == Changes(added=2, removed=1, changed=2, same=2)
    assert found.added == (after[4], after[5])
    assert found.removed == (before[3],)
    assert [(each.before, each.after) for each in found.changed] == [
        (before[1], after[2]),
        (before[0], after[3]),
    ]


def test_the_commands(
    judged: Studio, store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = judged.store
    line = ["data", "save", "helpful", "--store", store_url, "--judged_by", "human", "--min_agreement", "0.6"]
    assert main([*line, "--note", "first try"]) == 0
    out = capsys.readouterr().out
    assert "helpful@1: 17 comparisons, export 1, sha256 " in out
    assert "left out: tie 1" in out
    assert "next: prefloop dpo --model MODEL --data store:helpful@1 --store " in out
    assert main(line) == 0
    assert "nothing has changed since it was saved" in capsys.readouterr().out
    items = [item.id for item in store.items()]
    (turned,) = [
        each for each in store.exported(1) if isinstance(each, Comparison) and each.annotator == "bea"
    ][:1]
    first = next(id for id, name in judgements_of(store) if name == "bea")
    judge(store, items[:1], "bea", "b", after=first)
    judge(store, items[1:2], "dan", "a")
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "helpful@2: 18 comparisons" in out
    assert "since helpful@1: 1 added, 0 removed, 1 relabelled" in out
    assert main(["data", "versions", "--store", store_url]) == 0
    out = capsys.readouterr().out
    assert "judged_by human, min_agreement 0.6" in out
    assert "first try" in out
    assert main(["data", "versions", "helpful", "--store", store_url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["dataset"] for each in told] == ["helpful@1", "helpful@2"]
    assert told[1]["changes"] == {"added": 1, "removed": 0, "changed": 1, "same": 16}
    assert main(["data", "diff", "helpful@1", "helpful@2", "--store", store_url]) == 0
    out = capsys.readouterr().out
    assert "helpful@1 to helpful@2: 1 added, 0 removed, 1 relabelled, 16 the same" in out
    assert "added: 'question 1': 'answer 1 0' over 'answer 1 1' (dan)" in out
    assert f"changed: 'question 0': {turned.chosen!r} over {turned.rejected!r} (bea)" in out
    assert f"now:     'question 0': {turned.rejected!r} over {turned.chosen!r} (bea)" in out
    assert main(["data", "diff", "helpful@1", "helpful@2", "--store", store_url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"]["added"][0]["annotator"] == "dan"
    # The same filters in both commands that write files.
    for command in ("data", "label"):
        file = tmp_path / f"{command}.jsonl"
        flags = ["--aggregate", "majority", "--min_agreement", "0.7", "--projects", "p"]
        assert main([command, "export", "--store", store_url, "--out", str(file), *flags]) == 0
    assert (tmp_path / "data.jsonl").read_bytes() == (tmp_path / "label.jsonl").read_bytes()
    assert (
        main(["data", "save", "other", "--store", store_url, "--kind", "rankings", "--aggregate", "majority"])
        == 2
    )
    assert "aggregate is majority, but kind is rankings" in capsys.readouterr().err


def judgements_of(store: Store) -> list[tuple[int, str]]:
    with store.database.read() as session:
        table = models.JudgementRow
        rows = session.execute(
            select(table.id, models.AnnotatorRow.name).join(models.AnnotatorRow).order_by(table.id)
        )
        return [(id, name) for id, name in rows]
