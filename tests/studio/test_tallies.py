"""The sums that the database keeps: what they say is what is there, whatever happens and whenever they are folded."""

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from prefloop.data.store import Store, studio_models
from prefloop.studio import accounts, items, removal, tallies
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.counted import counted, judgements_of
from tests.studio.made import fill


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


def project_of(studio: Studio, name: str, *, gold: bool = True) -> int:
    fill(studio.store, 4, mark=f"{name} ")
    pairs = studio.store.add_pairs().ids[-4:]
    project = studio.create_project(ProjectSettings(name=name, overlap=2)).id
    studio.add_tasks(project, pairs, gold={pairs[0]: "a"} if gold else {})
    return project


def worked_on(studio: Studio, project: int) -> list[int]:
    """Two people who answer, skip and leave something open; one takes an answer back."""
    people = [studio.store.add_annotator(f"{who} of {project}") for who in ("ann", "ben")]
    for who in people:
        for number in range(3):
            got = studio.lease(project, who)
            if got is not None and number < 2:
                studio.submit(got.token, who, Answer(choice="first"), key=f"answer {number} of {who}")
    got = studio.history(people[0], project=project)[0]
    studio.undo(got.token, people[0])
    studio.skip(got.token, people[0], key="not this one")
    return people


def loose(studio: Studio) -> int:
    with studio.read() as session:
        return session.scalar(select(func.count()).select_from(studio_models.TallyRow)) or 0


def fold(studio: Studio) -> None:
    with studio.write() as session:
        tallies.fold(session)


def agree(studio: Studio, *projects: int) -> None:
    """The sums are what is there, and stay so when they are folded."""
    for _ in range(2):
        assert studio.progress(projects) == {project: counted(studio.store, project) for project in projects}
        with studio.read() as session:
            assert tallies.of_people(session)[0] == judgements_of(studio.store)
        fold(studio)


def test_sums_are_what_is_there(studio: Studio) -> None:
    one, other = project_of(studio, "one"), project_of(studio, "other", gold=False)
    agree(studio, one, other)
    worked_on(studio, one)
    worked_on(studio, other)
    assert studio.progress([one])[one].submitted > 0
    agree(studio, one, other)
    wanted = items.Wanted()
    acts: tuple[tuple[items.Action, str], ...] = (
        ("archive", ""),
        ("restore", ""),
        ("overlap", "2"),
        ("requeue", ""),
    )
    for action, value in acts:
        items.act(
            studio,
            one,
            action,
            items.Wanted(state="archived") if action == "restore" else wanted,
            value=value,
            by=None,
        )
        agree(studio, one, other)
    studio.clock.forward(10_000)  # type: ignore[attr-defined]
    studio.expire()
    agree(studio, one, other)


def test_a_deleted_project_leaves_no_sum(studio: Studio) -> None:
    one, other = project_of(studio, "one"), project_of(studio, "other")
    worked_on(studio, one)
    removal.delete_project(studio, one, confirm="one", by=None)
    with studio.read() as session:
        assert set(session.scalars(select(studio_models.TallyRow.project_id))) == {other, None}
    agree(studio, other)


def test_many_loose_rows_are_folded_by_who_reads_them(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallies, "LOOSE", 3)
    project = project_of(studio, "one")
    worked_on(studio, project)
    before, told = loose(studio), studio.progress([project])
    assert loose(studio) < before
    assert studio.progress([project]) == told
    fold(studio)
    few = loose(studio)
    assert accounts.people(studio) == []
    assert loose(studio) == few  # there was nothing more to fold
    with studio.read() as session:  # and nobody is told that there is, who would fold at every look
        assert tallies.of_projects(session, [project])[1] == tallies.of_people(session)[1] == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_older_store_gets_its_sums(kind: str, new_url: Callable[[str], str]) -> None:
    url = new_url(kind)
    with Store.open(url) as store:
        studio = Studio(store)
        project = project_of(studio, "old")
        worked_on(studio, project)
        before = counted(store, project)
        store.database.migrate("0020")
    with Store.open(url) as store:
        studio = Studio(store)
        assert studio.progress([project]) == {project: before}
        agree(studio, project)
        worked = studio.store.add_annotator("eve")
        got = studio.lease(project, worked)
        assert got is not None
        studio.submit(got.token, worked, Answer(choice="tie"), key="after the migration")
        agree(studio, project)
