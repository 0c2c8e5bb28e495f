"""Projects that are archived, and deleted: said first, confirmed, audited, and never a judgement rewritten."""

import re

import pytest

from prefloop.cli import main
from prefloop.data.store import Filters, Store
from prefloop.errors import InputError
from prefloop.studio import adjudicate, people_log, removal
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotFound, ProjectSettings
from tests.studio.web import Person


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


def labelled(studio: Studio, name: str = "P") -> int:
    """A project of six pairs: one judged and rewritten, one skipped, one in front of somebody, three open."""
    project = studio.create_project(ProjectSettings(name=name, guidelines="secret rules")).id
    studio.add_tasks(project, sorted(studio.store.add_pairs().ids)[:6])  # a better reply is paired later
    ann = studio.store.add_annotator("ann")
    first = studio.lease(project, ann)
    assert first is not None
    answer = Answer(choice="first", rationale="because", edited="a better one")
    studio.submit(first.token, ann, answer, key="key-of-first")
    second = studio.lease(project, ann)
    assert second is not None
    studio.skip(second.token, ann, key="key-of-second")
    studio.lease(project, ann)
    return project


def test_deleting_withdraws_answers_and_keeps_what_was_exported(studio: Studio) -> None:  # P2
    project = labelled(studio)
    store = studio.store
    export = store.export("comparisons")
    assert export.rows == 2  # the answer, and the better reply
    before = store.counts()
    gone = removal.removal(studio, project)
    assert (gone.items, gone.answers, gone.people) == (6, 2, 1)
    with pytest.raises(InputError, match="type 'P' to delete it"):
        removal.delete_project(studio, project, confirm="p")
    assert store.counts() == before
    removal.delete_project(studio, project, confirm="P")
    assert store.comparisons().records == ()
    assert store.exported(export.id)  # as it was, by its hash
    after = store.counts()
    assert after["judgement"] == before["judgement"] + 3
    assert after["completion"] == before["completion"]
    assert after["judgement_detail"] == before["judgement_detail"]
    assert studio.projects() == []
    for look in (
        lambda: studio.project(project),
        lambda: studio.find_project("P"),
        lambda: studio.find_project(str(project)),
    ):
        with pytest.raises(NotFound):
            look()
    with pytest.raises(InputError, match="is not in the store"):
        store.comparisons(Filters(projects=("P",)))
    ann = store.add_annotator("ann")
    assert studio.history(ann) == []
    (event, *_) = people_log.events(studio, before=None, limit=5)
    assert (event.action, event.entity, event.entity_id) == ("delete", "project", project)
    assert event.detail == {"items": 6, "answers": 2, "people": 1, "decisions": 0}
    # The name is free, and the same items can be asked again, of the same person.
    again = labelled(studio)
    assert again != project
    assert len(store.comparisons().records) == 2


def disputed(studio: Studio, *names: str) -> tuple[int, list[int]]:
    """Projects that ask one item each, and the same one; two people contradict each other in every one. The item, and the projects."""
    (item, *_) = studio.store.add_pairs().ids
    projects = []
    for name in names:
        project = studio.create_project(ProjectSettings(name=name, overlap=2)).id
        studio.add_tasks(project, [item])
        for place, a_wins in enumerate((True, False)):
            who = studio.store.add_annotator(f"{name} {place}")
            got = studio.lease(project, who)
            assert got is not None
            shows_a = got.completions[0] == studio.store.items([item])[0].completions[0]
            choice = "first" if shows_a == a_wins else "second"
            studio.submit(got.token, who, Answer(choice=choice), key="12345678")
        projects.append(project)
    return item, projects


def test_deleting_withdraws_the_decisions_of_adjudicators(studio: Studio) -> None:  # P2
    item, (project,) = disputed(studio, "P")
    store, judge = studio.store, studio.store.add_annotator("judge")
    adjudicate.decide(studio, project, item, judge, "first", reason="", last=0, key="a-key-of-it")
    assert len(store.comparisons(Filters(adjudicated=True)).records) == 1
    gone = removal.delete_project(studio, project, confirm="P")
    assert (gone.answers, gone.decisions) == (2, 1)
    assert "2 answers by 2 people, and 1 decisions of adjudicators, are withdrawn" in str(gone)
    assert store.comparisons(Filters(adjudicated=True)).records == ()


def test_a_decision_holds_on_where_another_project_asks_the_item(studio: Studio) -> None:
    item, (first, second) = disputed(studio, "P", "Q")
    store, judge = studio.store, studio.store.add_annotator("judge")
    adjudicate.decide(studio, first, item, judge, "second", reason="", last=0, key="a-key-of-it")
    assert removal.delete_project(studio, first, confirm="P").decisions == 0
    assert len(store.comparisons(Filters(adjudicated=True)).records) == 1
    # The deleted project asks nothing any more, so the decision goes with the last one that does.
    assert removal.delete_project(studio, second, confirm="Q").decisions == 1
    assert store.comparisons(Filters(adjudicated=True)).records == ()


def test_a_project_without_answers_is_gone_whole(studio: Studio) -> None:
    project = studio.create_project(ProjectSettings(name="P")).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    studio.lease(project, studio.store.add_annotator("ann"))
    removal.delete_project(studio, project, confirm="P")
    counts = studio.store.counts()
    assert (counts["project"], counts["task"], counts["assignment"]) == (0, 0, 0)


def test_an_archived_project_is_out_of_sight_and_comes_back(studio: Studio) -> None:
    project = labelled(studio)
    settings = studio.project(project).settings
    ann, boss = Person(studio, "ann"), Person(studio, "boss", "admin")
    studio.change_project(project, settings, state="archived")
    assert ">P<" not in ann.client.get("/").text
    assert ann.next(project) is None
    assert ">P<" in boss.client.get("/admin").text
    assert len(studio.store.comparisons().records) == 2
    studio.change_project(project, settings, state="open")
    assert ">P<" in ann.client.get("/").text
    assert ann.next(project) is not None


def test_an_admin_deletes_on_a_page_that_says_what_goes(studio: Studio) -> None:
    project = labelled(studio)
    ann, boss = Person(studio, "ann"), Person(studio, "boss", "admin")
    path = f"/admin/projects/{project}/delete"
    assert ann.client.get(path).status_code == 403
    assert path in boss.client.get(f"/admin/projects/{project}/edit").text
    page = boss.client.get(path).text
    assert "with 6 items; 2 answers by 1 people are withdrawn" in page
    wrong = boss.client.post(path, data={"csrf": boss.csrf, "confirm": "Q"})
    assert wrong.status_code == 422
    assert re.search(r'role="alert">[^<]*type &#39;P&#39; to delete it', wrong.text)
    assert boss.client.post(path, data={"csrf": "no", "confirm": "P"}).status_code == 403
    assert studio.project(project)
    assert boss.client.post(path, data={"csrf": boss.csrf, "confirm": "P"}).headers["location"] == "/admin"
    assert boss.client.get(path).status_code == 404


def test_the_commands_archive_and_delete(
    store_url: str, studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(studio)
    base, place = ["label", "project"], ["--store", store_url]
    assert main([*base, "archive", "P", *place]) == 0
    assert "project 'P' was open and is archived" in capsys.readouterr().out
    assert main([*base, "delete", "P", *place]) == 2
    said = capsys.readouterr()
    assert "2 answers by 1 people are withdrawn" in said.out
    assert "nothing was deleted" in said.err
    assert main([*base, "delete", "P", "--yes", "true", *place]) == 0
    assert main([*base, "delete", "P", "--yes", "true", *place]) == 2
    assert "project 'P' is not in the store; it has none yet" in capsys.readouterr().err
    assert main(base) == 2
    assert "needs a subcommand: archive, members, delete" in capsys.readouterr().err
    with Store.open(store_url) as store:
        assert store.comparisons().records == ()
