"""Projects have people: who sees which, what roles allow, and that every door asks."""

import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import inspect, select, text

from prefloop.cli import main
from prefloop.data.store import Store, studio_models
from prefloop.studio import access, accounts, adjudicate, members
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, NotAllowed, NotFound, ProjectSettings
from tests.studio.web import PASSWORD, Person, client_of

HTML = {"accept": "text/html"}


@pytest.fixture
def closed(studio: Studio) -> int:
    """A project of members only."""
    made = studio.create_project(ProjectSettings(name="Inner circle", access="members", overlap=2))
    studio.add_tasks(made.id, studio.store.add_pairs().ids)
    return made.id


@pytest.fixture
def people(studio: Studio, closed: int) -> dict[str, Person]:
    """One of each kind, and a stranger to the project."""
    found = {name: Person(studio, name) for name in ("annotator", "adjudicator", "manager", "stranger")}
    found["admin"] = Person(studio, "admin", "admin")
    roles: Any = ("annotator", "adjudicator", "manager")
    for role in roles:
        members.set_member(studio, closed, role, role, by=None)
    return found


def test_nobody_else_is_told_that_the_project_is_there(
    studio: Studio, closed: int, people: dict[str, Person]
) -> None:
    stranger, no_project = people["stranger"], 999
    for path in ("/", "/label/{}", "/admin/projects/{}", "/admin/projects/{}/members", "/adjudicate/{}/1"):
        told = [stranger.client.get(path.format(id), headers=HTML) for id in (closed, no_project)]
        assert "Inner circle" not in told[0].text, path
        plain = [
            each.text.replace(f"project {id}", "project N")
            for each, id in zip(told, (closed, no_project), strict=True)
        ]
        assert (told[0].status_code, plain[0]) == (told[1].status_code, plain[1]), path
    assert stranger.send("GET", "/projects").json() == []
    assert stranger.send("GET", f"/projects/{closed}").status_code == 404
    asked = stranger.send("POST", "/assignments/next", {"project": closed})
    none = stranger.send("POST", "/assignments/next", {"project": no_project})
    assert (asked.status_code, asked.text.replace(f"project {closed}", "project 999")) == (404, none.text)
    for name in ("annotator", "adjudicator", "manager", "admin"):
        assert "Inner circle" in people[name].client.get("/").text
        assert people[name].client.get(f"/label/{closed}").status_code == 200
        assert [each["id"] for each in people[name].send("GET", "/projects").json()] == [closed]


ADMIN_ONLY = (
    "/admin/people",
    "/admin/audit",
    "/admin/webhooks",
    "/admin/quality",
    "/admin/datasets",
    "/admin/new",
    "/admin/projects/{}/delete",
)
MANAGED = ("/admin/projects/{}", "/admin/projects/{}/edit", "/admin/projects/{}/members")


def test_each_role_may_do_what_it_says_and_no_more(
    studio: Studio, closed: int, people: dict[str, Person]
) -> None:
    other = studio.create_project(ProjectSettings(name="Other", access="members")).id
    settings = {"name": "Inner circle", "guidelines": "new"}
    for name, who in people.items():
        manages, admin = name in ("manager", "admin"), name == "admin"
        for path in MANAGED:
            assert (who.client.get(path.format(closed), headers=HTML).status_code == 200) == manages, (
                name,
                path,
            )
            assert (who.client.get(path.format(other), headers=HTML).status_code == 200) == admin, (
                name,
                path,
            )
        for path in ADMIN_ONLY:
            assert (who.client.get(path.format(closed), headers=HTML).status_code == 200) == admin, (
                name,
                path,
            )
        assert (who.client.get("/admin", headers=HTML).status_code == 200) == manages
        assert (who.client.get("/adjudicate", headers=HTML).status_code == 200) == (
            manages or name == "adjudicator"
        )
        assert who.send("PUT", f"/projects/{closed}", settings).status_code == (200 if manages else 403)
        assert who.send("PUT", f"/projects/{other}", settings | {"name": "Other"}).status_code == (
            200 if admin else 404 if manages else 403
        )
        assert who.send("POST", "/projects", {"name": f"of {name}"}).status_code == (201 if admin else 403)
        for method, path, body in (
            ("GET", f"/projects/{closed}/members", None),
            ("PUT", f"/projects/{closed}/members", {"login": "annotator", "role": "annotator"}),
            ("GET", f"/projects/{closed}/export?kind=comparisons", None),
        ):
            refused = who.send(method, path, body).status_code in (403, 404)
            assert refused != manages, (name, path)
        for path in ("/people", "/audit"):
            assert who.send("GET", path).status_code == (200 if admin else 403)
    assert studio.project(closed).settings.access == "members"  # a change that does not speak of it keeps it
    page = people["manager"].client.get("/admin").text
    assert "Inner circle" in page
    assert "Other" not in page
    assert "round by round" not in page


def test_an_adjudicator_decides_in_their_projects_only(
    studio: Studio, closed: int, people: dict[str, Person]
) -> None:
    items = studio.store.add_pairs().ids
    for who, better in ((people["annotator"].who.annotator, min), (studio.store.add_annotator("x"), max)):
        while (got := studio.lease(closed, who)) is not None:
            place: Any = ("first", "second")[got.completions.index(better(got.completions))]
            studio.submit(got.token, who, Answer(choice=place), key="12345678")
    project = studio.project(closed)
    waiting = adjudicate.queue(studio, project, people["adjudicator"].who.annotator)
    assert waiting
    path = f"/adjudicate/{closed}/{waiting[0]}"
    assert people["adjudicator"].client.get(path, headers=HTML).status_code == 200
    assert people["annotator"].client.get(path, headers=HTML).status_code == 403
    outside = Person(studio, "outside", "adjudicator")  # decides in projects that are open to everybody
    assert outside.client.get(path, headers=HTML).status_code == 404
    assert "Inner circle" not in outside.client.get("/adjudicate").text
    with pytest.raises(NotFound):
        adjudicate.case(studio, closed, items[0], outside.who.annotator)
    with pytest.raises(NotAllowed):
        adjudicate.queue(studio, project, people["annotator"].who.annotator)
    studio.change_project(closed, replace(project.settings, access="everyone"))
    assert outside.client.get(path, headers=HTML).status_code == 200


def test_who_is_removed_gives_back_what_they_hold_and_is_asked_no_more(
    studio: Studio, closed: int, people: dict[str, Person]
) -> None:
    ann, admin = people["annotator"], people["admin"]
    first = ann.next(closed)
    ann.submit(first["token"], {"choice": "first"})
    held = ann.next(closed)
    assert studio.progress([closed])[closed].leased == 1
    assert admin.send("DELETE", f"/projects/{closed}/members/{ann.who.account}").status_code == 204
    at = studio.progress([closed])[closed]
    assert (at.leased, at.submitted) == (0, 1)  # the answer stays
    token = held["token"]
    assert ann.submit(token, {"choice": "first"}).status_code == 404
    for method, path, body in (
        ("POST", "/assignments/next", {"project": closed}),
        ("PUT", f"/assignments/{token}/draft", {"rationale": "x"}),
        ("POST", f"/assignments/{token}/skip", {}),
        ("POST", f"/assignments/{first['token']}/undo", None),
        ("POST", f"/assignments/{token}/return", None),
    ):
        assert ann.send(method, path, body, Idempotency_Key="12345678").status_code == 404, path
    assert admin.send("DELETE", f"/projects/{closed}/members/{ann.who.account}").status_code == 404
    admin.send("PUT", f"/projects/{closed}/members", {"login": "Annotator", "role": "annotator"})
    assert ann.submit(ann.next(closed)["token"], {"choice": "first"}).status_code == 200


def test_a_manager_that_is_one_no_more_loses_it_at_once_also_for_tokens(
    studio: Studio, closed: int, people: dict[str, Person]
) -> None:
    boss = people["manager"]
    token = accounts.new_token(studio, replace(boss.who, leads="manager"), "script", ["read", "admin"])
    assert people["annotator"].send("POST", "/tokens", {"name": "x", "scopes": ["admin"]}).status_code == 403
    ask = client_of(studio)
    headers = {"Authorization": f"Bearer {token}"}
    assert ask.get(f"/api/v1/projects/{closed}/members", headers=headers).status_code == 200
    reading = accounts.new_token(studio, boss.who, "reads", ["read"])
    only = {"Authorization": f"Bearer {reading}"}
    assert ask.get(f"/api/v1/projects/{closed}/members", headers=only).status_code == 403
    members.set_member(studio, closed, "manager", "annotator", by=None)
    assert ask.get(f"/api/v1/projects/{closed}/members", headers=headers).status_code == 403
    assert boss.client.get("/admin", headers=HTML).status_code == 403


def test_changes_are_whole_and_written_down_without_names(
    studio: Studio, closed: int, people: dict[str, Person]
) -> None:
    before = members.members(studio, closed)
    with pytest.raises(NotFound, match="'nobody'"):
        members.change(studio, closed, add=("stranger", "nobody"), role="manager", by=None)
    assert members.members(studio, closed) == before
    admin = people["admin"]
    admin.send("PUT", f"/projects/{closed}/members", {"login": "stranger", "role": "manager"})
    admin.send("PUT", f"/projects/{closed}/members", {"login": "stranger", "role": "annotator"})
    admin.send("DELETE", f"/projects/{closed}/members/{people['stranger'].who.account}")
    events = [each for each in admin.send("GET", "/audit").json() if "member" in each["action"]][:3]
    assert [each["action"] for each in events] == ["remove member", "change member", "add member"]
    assert "stranger" not in str(events)
    assert events[1]["detail"] == {
        "account": people["stranger"].who.account,
        "role": "annotator",
        "from": "manager",
    }


def test_an_anonymised_member_is_one_no_more(studio: Studio, closed: int, people: dict[str, Person]) -> None:
    accounts.anonymise(studio, people["annotator"].who.account, by=None)
    assert [each.login for each in members.members(studio, closed)] == ["adjudicator", "manager"]


def test_the_page_lists_members_and_only_admins_are_shown_other_logins(
    closed: int, people: dict[str, Person]
) -> None:
    page = people["admin"].client.get(f"/admin/projects/{closed}/members").text
    assert re.findall(r'data-member="(\w+)"', page) == ["adjudicator", "annotator", "manager"]
    assert '<option value="stranger">' in page
    assert "stranger" not in people["manager"].client.get(f"/admin/projects/{closed}/members").text


def test_the_command_says_and_changes_who_belongs(
    studio: Studio, closed: int, people: dict[str, Person], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", studio.store.label]
    assert main(["label", "project", "members", "Inner circle", *where]) == 0
    assert "open to members only; 3 members" in capsys.readouterr().out
    change = ["--add", "stranger", "--role", "manager", "--remove", "annotator", "--access", "everyone"]
    assert main(["label", "project", "members", "Inner circle", *where, *change]) == 0
    told = capsys.readouterr().out
    assert "open to everybody with an account" in told
    assert "stranger  manager  0 answers" in told
    assert "annotator  annotator" not in told
    assert main(["label", "project", "members", "Inner circle", *where, "--add", "nobody"]) != 0
    assert "there is no login 'nobody'" in capsys.readouterr().err


# An older store


def test_an_older_store_shows_everybody_what_they_saw(store: Store) -> None:
    """Schema 0004 knew no members: a project that was there is open to everybody after the upgrade, with all roles as they were."""
    studio = Studio(store)
    kept = studio.create_project(ProjectSettings(name="kept"))
    roles: Any = {"ann": "annotator", "judy": "adjudicator", "boss": "admin"}
    who = {name: accounts.add_person(studio, name, PASSWORD, role) for name, role in roles.items()}
    secret = studio.create_project(ProjectSettings(name="secret", access="members"))
    store.database.migrate("0004")
    with store.database.read() as session:
        assert "membership" not in inspect(session.connection()).get_table_names()
        states = session.execute(text("SELECT name, state FROM project ORDER BY id")).all()
        assert [tuple(row) for row in states] == [("kept", "open"), ("secret", "archived")]
    store.database.migrate()
    assert studio.project(kept.id) == kept
    with studio.read() as session:
        seen = {name: access.roles(session, one.annotator)[kept.id] for name, one in who.items()}
        assert session.scalars(select(studio_models.MembershipRow)).all() == []
    assert seen == {"ann": "annotator", "judy": "adjudicator", "boss": "manager"}
    assert studio.project(secret.id).state == "archived"
