"""Links that let people in: for how many, until when, to which projects, and who may make and end them."""

import re
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import select, text

from prefloop.cli import main
from prefloop.data.store import Store, studio_models
from prefloop.errors import InputError
from prefloop.studio import access, accounts, invitations, members, removal
from prefloop.studio.service import Studio
from prefloop.studio.values import NotAllowed, NotFound, ProjectSettings
from tests.studio.conftest import Clock
from tests.studio.web import PASSWORD, Person, client_of


@pytest.fixture
def closed(studio: Studio) -> int:
    made = studio.create_project(ProjectSettings(name="Inner circle", access="members"))
    studio.add_tasks(made.id, studio.store.add_pairs().ids)
    return made.id


@pytest.fixture
def boss(studio: Studio) -> Person:
    return Person(studio, "boss", "admin")


def opened(studio: Studio, path: str, login: str) -> Any:
    """Somebody new opens a link and fills in its form."""
    browser = client_of(studio)
    page = browser.get(path)
    if page.status_code != 200:
        return page
    token = re.findall(r'name="form_token" value="([^"]+)"', page.text)[0]
    return browser.post(path, data={"form_token": token, "login": login, "password": PASSWORD})


def test_a_link_serves_so_many_people_and_gives_its_role_in_its_projects(
    studio: Studio, boss: Person, closed: int
) -> None:
    other = studio.create_project(ProjectSettings(name="Other", access="members")).id
    body = {"role": "adjudicator", "projects": [closed], "uses": 2, "note": "the spring team"}
    path = boss.send("POST", "/invitations", body).json()["path"]
    for login in ("ann", "bea"):
        answer = opened(studio, path, login)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/label/{closed}")
    assert opened(studio, path, "cid").status_code == 404
    found = {each.login: each for each in accounts.people(studio)}
    assert "cid" not in found
    with studio.read() as session:
        assert access.roles(session, found["ann"].annotator) == {closed: "adjudicator"}
    assert found["ann"].role == "annotator"  # in projects that are open to everybody
    (link,) = boss.send("GET", "/invitations").json()
    assert (link["uses"], link["most_uses"], link["state"], link["projects"]) == (
        2,
        2,
        "used up",
        ["Inner circle"],
    )
    assert other not in (each.id for each in studio.projects() if each.settings.name == "Inner circle")


def test_a_login_that_is_taken_uses_nothing_up(studio: Studio, boss: Person, closed: int) -> None:
    path = boss.send("POST", "/invitations", {"projects": [closed]}).json()["path"]
    answer = opened(studio, path, "boss")
    assert answer.status_code == 422
    assert "is taken" in answer.text
    assert opened(studio, path, "ann").status_code == 303


def test_a_link_ends_by_time_and_by_being_revoked_and_who_came_stays(
    studio: Studio, boss: Person, closed: int, clock: Clock
) -> None:
    body = {"projects": [closed], "uses": 9, "days": 2}
    short, gone = (boss.send("POST", "/invitations", body).json()["path"] for _ in range(2))
    assert opened(studio, gone, "ann").status_code == 303
    (id,) = [each["id"] for each in boss.send("GET", "/invitations").json() if each["uses"]]
    assert boss.send("DELETE", f"/invitations/{id}").status_code == 204
    assert opened(studio, gone, "bea").status_code == 404
    clock.forward(2 * 86400 + 1)
    assert opened(studio, short, "bea").status_code == 404
    assert {each["state"] for each in boss.send("GET", "/invitations").json()} == {"revoked", "expired"}
    assert [each.login for each in members.members(studio, closed)] == ["ann"]


def test_what_opens_a_link_is_shown_once_and_stored_as_a_hash(
    studio: Studio, boss: Person, closed: int
) -> None:
    secret = boss.send("POST", "/invitations", {"projects": [closed]}).json()["path"].rpartition("/")[2]
    told = [boss.send("GET", path).text for path in ("/invitations", "/audit")]
    told += [boss.client.get(path).text for path in ("/admin/people", f"/admin/projects/{closed}/members")]
    assert not [each for each in told if secret in each]
    with studio.read() as session:
        row = session.scalars(select(studio_models.InvitationRow)).one()
        assert row.token_sha256 == accounts.hash_of(secret)


def test_who_has_an_account_joins_with_it_and_never_loses_a_role(
    studio: Studio, boss: Person, closed: int
) -> None:
    ann = Person(studio, "ann")
    path = boss.send("POST", "/invitations", {"projects": [closed], "uses": 5}).json()["path"]
    assert ann.client.get("/login", params={"next": path}).headers["location"] == path
    assert "Join as ann" in ann.client.get(path).text
    assert ann.client.post(path, data={}).status_code == 403  # without the CSRF token
    assert ann.client.post(path, data={"csrf": ann.csrf}).status_code == 303
    assert members.roles(studio, ann.who.annotator) == {closed: "annotator"}
    members.set_member(studio, closed, "ann", "manager", by=None)
    assert ann.client.post(path, data={"csrf": ann.csrf}).status_code == 303
    assert members.roles(studio, ann.who.annotator) == {closed: "manager"}
    (link,) = invitations.links(studio, by=boss.who.annotator)
    assert link.uses == 1  # who belongs already uses nothing up
    plain = boss.send("POST", "/invitations", {"role": "admin"}).json()["path"]
    answer = ann.client.post(plain, data={"csrf": ann.csrf})
    assert answer.status_code == 422
    assert "you have one: ann" in answer.text
    assert accounts.who_of(studio, ann.who.account).role == "annotator"


def test_a_manager_invites_to_their_own_projects_only(studio: Studio, boss: Person, closed: int) -> None:
    other = studio.create_project(ProjectSettings(name="Other", access="members")).id
    mia, ann = Person(studio, "mia"), Person(studio, "ann")
    members.set_member(studio, closed, "mia", "manager", by=None)
    assert mia.send("POST", "/invitations", {"role": "manager", "projects": [closed]}).status_code == 201
    for body, status in (
        ({"projects": [other]}, 404),
        ({"projects": [closed, other]}, 404),
        ({"role": "annotator"}, 403),
        ({"role": "admin"}, 403),
        ({"role": "admin", "projects": [closed]}, 422),
    ):
        assert mia.send("POST", "/invitations", body).status_code == status, body
    for project in (other, closed):
        boss.send("POST", "/invitations", {"projects": [project], "note": f"of {project}"})
    both = boss.send("POST", "/invitations", {"projects": [other, closed], "note": "both"})
    assert both.status_code == 201
    seen = {each["note"]: each["id"] for each in mia.send("GET", "/invitations").json()}
    assert set(seen) == {"", f"of {closed}"}
    all_of = {each["note"]: each["id"] for each in boss.send("GET", "/invitations").json()}
    assert set(all_of) == {"", f"of {closed}", f"of {other}", "both"}
    for note, status in ((f"of {closed}", 204), (f"of {other}", 404), ("both", 404)):
        assert mia.send("DELETE", f"/invitations/{all_of[note]}").status_code == status
    for method, path in (("GET", "/invitations"), ("POST", "/invitations"), ("DELETE", "/invitations/1")):
        assert ann.send(method, path, {"projects": [closed]}).status_code == 403


@pytest.mark.parametrize(
    "given",
    [{"uses": 0}, {"uses": 1001}, {"days": 0}, {"days": 366}, {"note": "x" * 101}, {"role": "manager"}],
)
def test_links_that_make_no_sense_are_refused(studio: Studio, boss: Person, given: dict[str, Any]) -> None:
    assert boss.send("POST", "/invitations", given).status_code == 422
    role: Any = given.get("role", "annotator")
    with pytest.raises(InputError):
        invitations.invite(studio, role, **{name: value for name, value in given.items() if name != "role"})


def test_a_link_to_a_deleted_project_works_no_more(studio: Studio, closed: int) -> None:
    other = studio.create_project(ProjectSettings(name="Other", access="members")).id
    alone = invitations.invite(studio, "manager", to=[closed])
    both = invitations.invite(studio, "manager", to=[closed, other])
    removal.delete_project(studio, closed, confirm="Inner circle")
    with pytest.raises(NotFound):
        invitations.look(studio, alone)
    assert invitations.look(studio, both).projects == ("Other",)


def test_of_many_who_open_the_last_place_at_once_one_gets_in(on_each: Studio) -> None:
    project = on_each.create_project(ProjectSettings(name="p", access="members")).id
    secret = invitations.invite(on_each, "annotator", to=[project], uses=2)
    failures: list[Exception] = []

    def come(login: str) -> None:
        try:
            invitations.accept(on_each, secret, login, PASSWORD)
        except Exception as error:
            failures.append(error)

    threads = [Thread(target=come, args=(f"p{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(each) for each in failures] == [NotFound, NotFound]
    assert len(members.members(on_each, project)) == 2


def test_the_command_prints_a_link(studio: Studio, closed: int, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", studio.store.label, "--public_url", "https://label.example.org"]
    command = ["label", "invite", *where, "--projects", "Inner circle", "--uses", "20"]
    assert main(command) == 0
    told = capsys.readouterr().out
    (secret,) = re.findall(r"https://label\.example\.org/join/(\S+)", told)
    assert invitations.look(studio, secret).projects == ("Inner circle",)
    assert "20 people" in told
    assert main([*command[:-3], "--projects", "Nothing"]) == 2


def test_links_of_an_older_store_go_on(store: Store) -> None:
    """Schema 0005 had links for one account each: what was used stays used, what was pending works once."""
    studio = Studio(store)
    used, pending = (invitations.invite(studio, "adjudicator") for _ in range(2))
    many = invitations.invite(studio, "annotator", uses=3)
    invitations.accept(studio, used, "ann", PASSWORD)
    store.database.migrate("0005")
    with store.database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM invitation")) == 2
    store.database.migrate()
    for secret in (used, many):
        with pytest.raises(NotFound):
            invitations.look(studio, secret)
    assert (
        accounts.who_of(studio, invitations.accept(studio, pending, "judy", PASSWORD).account).role
        == "adjudicator"
    )
    with pytest.raises(NotFound):
        invitations.look(studio, pending)


def test_nobody_gives_what_they_do_not_have(studio: Studio) -> None:
    ann = accounts.add_person(studio, "ann", PASSWORD, "annotator")
    with pytest.raises(NotAllowed):
        invitations.invite(studio, "admin", by=ann.annotator)
