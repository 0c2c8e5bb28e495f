"""Where a store is large: what a request asks of the database does not grow with what is in it."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from prefloop.studio import asking, people_log
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.made import fill


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


def project_of(studio: Studio, pairs: int) -> int:
    """A project with so many open items."""
    before = set(studio.store.add_pairs().ids)
    fill(studio.store, pairs, mark="large ")
    project = studio.create_project(ProjectSettings(name="large", overlap=2)).id
    studio.add_tasks(project, [id for id in studio.store.add_pairs().ids if id not in before])
    return project


def heard(studio: Studio, do: Callable[[], object]) -> list[tuple[str, Any]]:
    """The statements that something sends."""
    said: list[tuple[str, Any]] = []

    def hear(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        said.append((statement, parameters))

    engine = studio.store.database._engine
    event.listen(engine, "before_cursor_execute", hear)
    do()
    event.remove(engine, "before_cursor_execute", hear)
    return said


def test_the_next_item_is_found_without_sorting_the_queue(studio: Studio) -> None:
    """Also before the database has counted its rows, as after an import."""
    project, ann = project_of(studio, 300), studio.store.add_annotator("ann")
    got = studio.lease(project, ann)
    assert got is not None
    studio.submit(got.token, ann, Answer(choice="first"), key="the first answer")
    said = heard(studio, lambda: studio.lease(project, ann))
    (found,) = [each for each in said if each[0].startswith("SELECT task.") and "ORDER BY" in each[0]]
    with studio.store.database._engine.connect() as connection:
        if studio.store.database.dialect == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {found[0]}", found[1]).all()
            assert "ix_task_queue" in str(plan)
            sorts = [row[3] for row in plan if row[1] == 0 and "TEMP B-TREE" in row[3]]
            assert sorts == [], plan
            return
        (plan,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {found[0]}", found[1])
        blocks = plan[0][0]["Plan"]["Shared Hit Blocks"] + plan[0][0]["Plan"]["Shared Read Blocks"]
        assert blocks < 60, plan[0]  # sorted, it is 600 for these 300 items


def test_what_is_left_is_counted_up_to_a_limit(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    project, ann = project_of(studio, people_log.MOST_LEFT + 20), studio.store.add_annotator("ann")
    assert asking.next_item(studio, project, ann).left == people_log.MOST_LEFT
    few = studio.create_project(ProjectSettings(name="few")).id
    studio.add_tasks(few, studio.store.add_pairs().ids[:3])
    assert asking.next_item(studio, few, ann).left == 3


def test_a_lease_that_has_run_out_is_given_on_at_once_where_there_is_nothing_else(studio: Studio) -> None:
    """It is looked for once a second, and whenever somebody would go without."""
    project = project_of(studio, 1)
    people = [studio.store.add_annotator(name) for name in ("ann", "ben", "eve")]
    first = [studio.lease(project, who) for who in people[:2]]
    assert None not in first
    assert studio.lease(project, people[2]) is None  # looks, and finds none
    studio.clock.forward(studio.project(project).settings.lease_seconds + 0.5)  # type: ignore[attr-defined]
    studio._swept = studio.clock()  # somebody has just looked
    assert studio.lease(project, people[2]) is not None
