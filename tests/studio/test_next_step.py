"""Every page has one obvious next step: one button, and no more, is the main one."""

import re

import pytest

from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.web import Person, client_of

MAIN = re.compile(r'<(?:a|button)\b[^>]*class="[^"]*\bmain\b[^"]*"[^>]*>(.*?)</(?:a|button)>', re.DOTALL)
PAGES = {
    "/": "Continue",
    "/history": "Continue",
    "/settings": "Save",
    "/adjudicate": "Begin",
    "/admin": "New project",
    "/admin/new": "Create the project",
    "/admin/projects/{id}": "See how well",
    "/admin/projects/{id}/edit": "Save",
    "/admin/projects/{id}/members": "Make a link",
    "/admin/projects/{id}/recruiting": "Set the quota",
    "/admin/projects/{id}/people": "Back to the project",
    "/admin/projects/{id}/items": "Find",
    "/admin/projects/{id}/items/1": "Save",
    "/admin/projects/{id}/questions": "Save the questions",
    "/admin/inbox": "Back to the projects",
    "/admin/quality": "Decide where they disagree",
    "/admin/datasets": "Save a version of Compare",
    "/admin/datasets?project={id}": "Save a version",
    "/admin/people": "Make a link",
    "/admin/annotators/{person}": "Compare with the others",
    "/admin/webhooks": "Add",
    "/admin/audit": "Back to the projects",
    "/api-docs": "Make a token",
    "/nowhere": "Back to the start page",
}


def mains(person: Person, path: str) -> list[str]:
    page = person.client.get(path, headers={"accept": "text/html"}).text
    return [re.sub("<[^>]+>", "", found).strip() for found in MAIN.findall(page)]


@pytest.fixture
def boss(studio: Studio) -> Person:
    return Person(studio, "boss", "admin", client=client_of(studio))


def test_every_page_has_one_main_button(studio: Studio, boss: Person) -> None:
    ids = [
        studio.create_project(ProjectSettings(name=name, overlap=3)).id for name in ("Compare", "Another one")
    ]
    for id in ids:
        studio.add_tasks(id, studio.store.add_pairs().ids)
    boss.submit(boss.next(ids[0])["token"], {"choice": "first"})
    ann = Person(studio, "ann", client=client_of(studio))
    bea = Person(studio, "bea", client=client_of(studio))
    for person, better in ((ann, 0), (bea, 1)):
        while item := person.next(ids[0]):
            sides = item["sources"]  # in the order that this person sees them
            choice = "first" if sides.index(sorted(sides)[better]) == 0 else "second"
            person.submit(item["token"], {"choice": choice})
    pseudonym = boss.send("GET", "/people").json()[0]["pseudonym"]
    for path, says in PAGES.items():
        assert mains(boss, path.format(id=ids[0], person=pseudonym)) == [says], path
    for path, says in (
        ("/", "See your answers"),
        ("/history", "Continue"),
        ("/nowhere", "Back to the start page"),
    ):
        assert mains(ann, path) == [says], path


def test_with_nothing_left_to_do_a_page_says_where_to_go(studio: Studio, boss: Person) -> None:
    project = studio.create_project(ProjectSettings(name="Compare", access="everyone")).id
    assert mains(boss, "/adjudicate") == ["Label instead"]
    assert mains(boss, "/") == ["See the results"]
    assert mains(Person(studio, "ann", client=boss.client), "/") == ["See your answers"]
    assert project
