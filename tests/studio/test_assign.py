"""Leases, answers and undo, one case at a time: what the state machine cannot say in words."""

from dataclasses import replace

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DatabaseError, IntegrityError

from prefloop.data.store import Filters, studio_models
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings, Scale
from tests.studio.conftest import Clock
from tests.studio.made import completion, fill

from prefloop.records import Prompt  # isort: skip


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


def make(studio: Studio, **settings: object) -> tuple[int, list[int]]:
    """A project over all pairs, and three annotators."""
    project = studio.create_project(ProjectSettings(name="p", **settings))  # type: ignore[arg-type]
    studio.add_tasks(project.id, studio.store.add_pairs().ids)
    return project.id, [studio.store.add_annotator(f"a{number}") for number in range(3)]


def test_the_next_one_is_another_one_and_a_reload_is_the_same(studio: Studio) -> None:
    project, (ann, *_) = make(studio)
    first = studio.lease(project, ann)
    assert first is not None
    again = studio.lease(project, ann)
    assert again == first
    second = studio.lease(project, ann, have=[first.token])
    assert second is not None
    assert second.token != first.token


def test_one_annotator_holds_three_at_most(studio: Studio) -> None:
    project, (ann, *_) = make(studio)
    have: list[str] = []
    while (got := studio.lease(project, ann, have=have)) is not None:
        have.append(got.token)
    assert len(have) == 3


def test_nobody_is_asked_twice(studio: Studio) -> None:
    project, people = make(studio, overlap=2)
    asked: list[tuple[int, tuple[str, ...]]] = []
    for who in people:
        while (got := studio.lease(project, who)) is not None:
            asked.append((who, tuple(sorted(got.completions))))
            studio.submit(got.token, who, Answer(choice="tie"), key="12345678")
    assert len(asked) == len(set(asked)) == 12
    progress = studio.progress([project])[project]
    assert (progress.submitted, progress.wanted, progress.done) == (12, 12, 6)


def test_an_expired_lease_goes_to_somebody_else_and_the_late_answer_is_kept(
    studio: Studio, clock: Clock
) -> None:
    project, (ann, bea, _) = make(studio, lease_seconds=60)
    late = studio.lease(project, ann)
    assert late is not None
    clock.forward(61)
    others: dict[str, str] = {}
    while (got := studio.lease(project, bea)) is not None:
        others[got.token] = studio.submit(got.token, bea, Answer(choice="tie"), key="12345678").state
    assert len(others) == 6
    receipt = studio.submit(late.token, ann, Answer(choice="first"), key="12345678")
    assert receipt.state == "surplus"
    assert len(studio.store.comparisons().records) == 1
    assert studio.progress([project])[project].surplus == 1


def test_a_late_answer_takes_the_place_that_is_still_free(studio: Studio, clock: Clock) -> None:
    project, (ann, bea, _) = make(studio, lease_seconds=60)
    late = studio.lease(project, ann)
    assert late is not None
    clock.forward(61)
    assert studio.expire() == 1
    assert studio.submit(late.token, ann, Answer(choice="first"), key="12345678").state == "submitted"
    asked = []
    while (got := studio.lease(project, bea)) is not None:
        asked.append(set(got.completions))
        studio.submit(got.token, bea, Answer(choice="tie"), key="12345678")
    assert len(asked) == 5
    assert set(late.completions) not in asked  # its place is taken
    assert studio.progress([project])[project].submitted == 6


def test_an_undone_answer_whose_lease_runs_out_is_asked_again(studio: Studio, clock: Clock) -> None:
    project, (ann, *_) = make(studio, lease_seconds=60)
    asked = set()
    while (got := studio.lease(project, ann)) is not None:
        asked.add(got.token)
        studio.submit(got.token, ann, Answer(choice="first"), key="12345678")
    one = sorted(asked)[0]
    studio.undo(one, ann)
    clock.forward(61)
    assert studio.expire() == 1
    got = studio.lease(project, ann)
    assert got is not None
    assert got.token == one
    assert studio.submit(one, ann, Answer(choice="second"), key="abcdefgh").state == "submitted"


def test_priorities_are_asked_first_and_equals_in_a_drawn_order(studio: Studio) -> None:
    items = studio.store.add_pairs().ids
    project = studio.create_project(ProjectSettings(name="p"))
    studio.add_tasks(project.id, items, priorities={items[4]: 2.0, items[1]: 1.0})
    ann = studio.store.add_annotator("ann")
    texts = {item.id: set(item.completions) for item in studio.store.items(items)}
    order = []
    while (got := studio.lease(project.id, ann)) is not None:
        order.append(next(id for id, each in texts.items() if each == set(got.completions)))
        studio.skip(got.token, ann, key="12345678")
    assert order[:2] == [items[4], items[1]]
    assert sorted(order) == sorted(items)
    assert order[2:] != sorted(order[2:])


def test_known_answers_come_among_others_and_count_in_no_progress(studio: Studio) -> None:
    items = studio.store.add_pairs().ids
    project = studio.create_project(ProjectSettings(name="p", gold_share=0.5))
    studio.add_tasks(project.id, items, gold={items[0]: "a"})
    seen: list[int] = []
    for number in range(3):
        who = studio.store.add_annotator(f"a{number}")
        texts = {item.id: set(item.completions) for item in studio.store.items(items)}
        while (got := studio.lease(project.id, who)) is not None:
            seen.append(next(id for id, each in texts.items() if each == set(got.completions)))
            studio.submit(got.token, who, Answer(choice="first"), key="12345678")
    assert seen.count(items[0]) >= 1
    assert all(seen.count(item) == 1 for item in items[1:])
    progress = studio.progress([project.id])[project.id]
    assert (progress.items, progress.submitted, progress.gold) == (5, 5, 1)


def test_items_judged_elsewhere_are_not_asked(studio: Studio) -> None:
    from prefloop.data.store import Judgement

    project, (ann, *_) = make(studio)
    for item in studio.store.items():
        studio.store.add_judgement(Judgement(item=item.id, annotator=ann, choice="a", order_shown=(0, 1)))
    assert studio.lease(project, ann) is None


def test_a_paused_project_asks_nothing(studio: Studio) -> None:
    project, (ann, *_) = make(studio)
    settings = studio.project(project).settings
    studio.change_project(project, settings, state="paused")
    assert studio.lease(project, ann) is None


def test_a_ranking_is_stored_in_slots(studio: Studio) -> None:
    fill(studio.store, 1, k=4, mark="r")
    with studio.read() as session:
        from prefloop.data.store import models

        ids = list(
            session.scalars(select(models.CompletionRow.id).order_by(models.CompletionRow.id.desc()).limit(4))
        )
    items = studio.store.add_items([ids], kind="rank")
    project = studio.create_project(ProjectSettings(name="r", kind="rank"))
    studio.add_tasks(project.id, items)
    ann = studio.store.add_annotator("ann")
    got = studio.lease(project.id, ann)
    assert got is not None
    with pytest.raises(InputError, match="places go from 0 to 3"):
        studio.submit(got.token, ann, Answer(choice="ranking", ranking=((4,), (0,))), key="12345678")
    studio.submit(got.token, ann, Answer(choice="ranking", ranking=((2,), (0,), (3,))), key="12345678")
    (ranking,) = studio.store.rankings().records
    assert ranking.completions == tuple(got.completions[place] for place in (2, 0, 3))
    assert studio.history(ann)[0].said == "3 > 1 > 4"


def test_ratings_labels_and_edits_become_records(studio: Studio) -> None:
    checkpoint = studio.store.add_checkpoint("secret-policy-7b")
    ids = studio.store.add_completions(
        [completion(Prompt(content="single"), f"text {n}", n) for n in range(2)], checkpoint
    )
    items = studio.store.add_items([[id] for id in ids], kind="single")
    ann = studio.store.add_annotator("ann")
    answers = {
        "rate": Answer(choice="rated", ratings={"good": 5, "short": 2}),
        "binary": Answer(choice="bad"),
        "edit": Answer(choice="edited", edited="text by a person"),
    }
    for who, (kind, answer) in enumerate(answers.items()):
        settings = ProjectSettings(
            name=kind,
            kind=kind,  # type: ignore[arg-type]
            scales=(Scale(name="good"), Scale(name="short", levels=3)),
        )
        project = studio.create_project(settings).id
        studio.add_tasks(project, items[:1])
        person = studio.store.add_annotator(f"person {who}") if who else ann
        got = studio.lease(project, person)
        assert got is not None
        studio.submit(got.token, person, answer, key="12345678")
    exports = {kind: studio.store.export(kind) for kind in ("scores", "labels", "demonstrations")}  # type: ignore[arg-type]
    records = {kind: studio.store.exported(export.id) for kind, export in exports.items()}
    assert [record.value for record in records["scores"]] == [3.5]  # type: ignore[union-attr]
    assert [record.good for record in records["labels"]] == [False]  # type: ignore[union-attr]
    assert [record.completion for record in records["demonstrations"]] == ["text by a person"]  # type: ignore[union-attr]
    (pair,) = studio.store.comparisons().records
    assert (pair.chosen, pair.rejected) == ("text by a person", "text 0")
    assert len(studio.store.comparisons(Filters(projects=("edit",))).records) == 1
    assert studio.store.comparisons(Filters(projects=("rate",))).records == ()


def test_what_a_project_does_not_ask_cannot_be_said(studio: Studio) -> None:
    project, (ann, *_) = make(studio, allow_tie=False, allow_both_bad=False, strength_levels=0)
    got = studio.lease(project, ann)
    assert got is not None
    for answer in (Answer(choice="tie"), Answer(choice="both_bad"), Answer(choice="first", strength=1)):
        with pytest.raises(InputError):
            studio.submit(got.token, ann, answer, key="12345678")
    assert studio.store.counts()["judgement"] == 0


def test_the_guideline_version_is_that_of_the_moment(studio: Studio) -> None:
    project, (ann, *_) = make(studio, guidelines="one")
    versions = []
    for guidelines in ("one", "two"):
        settings = replace(studio.project(project).settings, guidelines=guidelines)
        versions.append(studio.change_project(project, settings).guideline_version)
        got = studio.lease(project, ann)
        assert got is not None
        studio.submit(got.token, ann, Answer(choice="tie"), key="12345678")
    with studio.read() as session:
        from prefloop.data.store import models

        stored = list(
            session.scalars(select(models.JudgementRow.guideline_version).order_by(models.JudgementRow.id))
        )
    assert stored == versions
    assert len(set(versions)) == 2


def test_a_token_of_somebody_else_is_not_there(studio: Studio) -> None:
    project, (ann, bea, _) = make(studio)
    got = studio.lease(project, ann)
    assert got is not None
    with pytest.raises(NotFound):
        studio.submit(got.token, bea, Answer(choice="tie"), key="12345678")


def test_two_projects_of_one_name_are_a_conflict(studio: Studio) -> None:
    studio.create_project(ProjectSettings(name="p"))
    with pytest.raises(Conflict, match="choose another name"):
        studio.create_project(ProjectSettings(name="p"))


def test_the_database_itself_refuses_more_than_the_overlap(studio: Studio) -> None:
    project, _ = make(studio)
    with pytest.raises(IntegrityError), studio.write() as session:
        session.execute(text(f"UPDATE task SET taken = 2 WHERE project_id = {project}"))


@pytest.mark.parametrize("table", ["judgement_detail", "audit_event"])
def test_the_database_itself_refuses_to_rewrite_history(studio: Studio, table: str) -> None:
    project, (ann, *_) = make(studio)
    got = studio.lease(project, ann)
    assert got is not None
    studio.submit(got.token, ann, Answer(choice="first"), key="12345678")
    for statement in (
        f"DELETE FROM {table}",
        f"UPDATE {table} SET {'rationale' if table[0] == 'j' else 'action'} = 'x'",
    ):
        with pytest.raises(DatabaseError, match="is refused"), studio.write() as session:
            session.execute(text(statement))


def test_the_order_is_kept_when_an_item_is_taken_up_again(studio: Studio, clock: Clock) -> None:
    project, (ann, *_) = make(studio, lease_seconds=60)
    first = studio.lease(project, ann)
    assert first is not None
    studio.save_draft(first.token, ann, {"choice": "first"})
    clock.forward(100)
    studio.expire()
    with studio.read() as session:
        order = session.scalar(
            select(studio_models.AssignmentRow.order_shown).where(
                studio_models.AssignmentRow.token == first.token
            )
        )
    seen = []
    while (got := studio.lease(project, ann)) is not None:
        if got.token == first.token:
            assert got.completions == first.completions
            assert got.draft == {"choice": "first"}
        seen.append(got.token)
        studio.submit(got.token, ann, Answer(choice="tie"), key="12345678")
    assert first.token in seen
    assert sorted(order or []) == [0, 1]
