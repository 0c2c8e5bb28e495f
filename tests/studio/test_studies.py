"""People whom Prolific or Mechanical Turk sends: in by their number, out with a code."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from prefloop.cli import main
from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.studio import accounts, erasure, members, studies
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import new_page, served, why_no_browser
from tests.studio.web import PASSWORD, Person, client_of

ANN, BEA, CAT = ("5f0c" + letter * 20 for letter in "abc")


@pytest.fixture
def project(studio: Studio) -> int:
    accounts.add_person(studio, "chief", PASSWORD, "admin")
    made = studio.create_project(ProjectSettings(name="Helpful", access="members", quota=2, overlap=3)).id
    studio.add_tasks(made, studio.store.add_pairs().ids)
    return made


def link(studio: Studio, project: int, **more: Any) -> str:
    given: Any = {"platform": "prolific", "places": 2, "code": "CODE1"} | more
    return studies.create(studio, project, by=None, **given).path


def come(client: TestClient, path: str, number: str, parameter: str = "PROLIFIC_PID") -> Any:
    """Open the link as the platform does, and press the button."""
    page = client.get(f"{path.partition('?')[0]}?{parameter}={number}&STUDY_ID=s&SESSION_ID=t")
    if page.status_code != 200:
        return page
    token = re.findall(r'name="form_token" value="([^"]+)"', page.text)[0]
    return client.post(path.partition("?")[0], data={"form_token": token, parameter: number})


def answer(client: TestClient, project: int) -> int:
    """Answer an item; the status of asking for it, 204 if there is none."""
    csrf = re.findall(r'"csrf": "([^"]+)"', client.get(f"/label/{project}").text)[0]
    headers = {"X-CSRF-Token": csrf, "Idempotency-Key": uuid4().hex}
    item = client.post("/api/v1/assignments/next", json={"project": project}, headers=headers).json()[
        "assignment"
    ]
    if item is None:
        return 204
    said = client.post(
        f"/api/v1/assignments/{item['token']}/submit", json={"choice": "first"}, headers=headers
    )
    return said.status_code


def test_in_by_a_number_out_with_the_code_after_the_quota(studio: Studio, project: int) -> None:
    path = link(studio, project)
    assert path.endswith("?PROLIFIC_PID={{%PROLIFIC_PID%}}")
    browser = client_of(studio)
    assert come(browser, path, ANN).headers["location"] == f"/label/{project}"
    assert 'href="/complete"' in browser.get(f"/label/{project}").text
    for given in range(2):
        page = browser.get("/complete").text
        assert f"Answers given: {given} of 2." in page
        assert "CODE1" not in page
        assert answer(browser, project) == 200
    assert answer(browser, project) == 204
    assert 'href="https://app.prolific.com/submissions/complete?cc=CODE1"' in browser.get("/complete").text
    (ann,) = studies.participants(studio, 1, project=project)
    assert (ann.number, ann.code, ann.completed_at) == (ANN, "CODE1", studio.clock())
    for closed in ("/admin", "/settings", "/history"):
        assert browser.get(closed).status_code == 403


def test_the_same_person_goes_on_and_a_full_or_closed_study_takes_no_more(
    studio: Studio, project: int
) -> None:
    path = link(studio, project)
    first, again, third = client_of(studio), client_of(studio), client_of(studio)
    come(first, path, ANN)
    answer(first, project)
    come(again, path, ANN)  # on another device
    assert "Answers given: 1 of 2." in again.get("/complete").text
    assert come(third, path, BEA).status_code == 303
    full = come(client_of(studio), path, CAT)
    assert (full.status_code, "has all the people it needs" in full.text) == (403, True)
    account = _guests(studio)[0]
    accounts.set_active(studio, account, False, by=None)
    assert "shut out" in come(client_of(studio), path, ANN).text
    studies.change(studio, project, 1, open=False, by=None)
    assert come(client_of(studio), path, BEA).status_code == 404
    assert answer(third, project) == 200  # who came already continues
    studies.change(studio, project, 1, open=True, places=3, by=None)
    assert come(client_of(studio), path, CAT).status_code == 303
    with pytest.raises(InputError, match="places is 2; 3 people came already, so it must be 3 to 100000"):
        studies.change(studio, project, 1, places=2, by=None)


def _guests(studio: Studio) -> list[int]:
    with studio.read() as session:
        table = studio_models.AccountRow
        return list(session.scalars(select(table.id).where(table.role == "guest").order_by(table.id)))


@pytest.mark.parametrize("number", ["", "{{%PROLIFIC_PID%}}", "<b>", ANN.upper(), f"{ANN}0", f"{ANN}\n"])
def test_a_link_that_the_platform_did_not_fill_in_is_refused(
    studio: Studio, project: int, number: str
) -> None:
    path = link(studio, project)
    browser = client_of(studio)
    answer = browser.get(path.partition("?")[0], params={"PROLIFIC_PID": number})
    assert (answer.status_code, "open it from Prolific" in answer.text) == (422, True)
    form = {"form_token": "", "PROLIFIC_PID": number}
    come(browser, path, ANN)
    form["form_token"] = browser.cookies["prefloop_form"]
    assert browser.post(path.partition("?")[0], data=form).status_code == 422
    assert (
        browser.post(path.partition("?")[0], data=form | {"form_token": "x", "PROLIFIC_PID": BEA}).status_code
        == 403
    )
    assert len(_guests(studio)) == 1


def test_on_mechanical_turk_who_looks_gets_no_account_and_each_has_a_code_of_their_own(
    studio: Studio, project: int
) -> None:
    studio.change_project(project, replace(studio.project(project).settings, quota=1))
    path = link(studio, project, platform="mturk")
    look = client_of(studio).get(f"{path.partition('?')[0]}?assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE").text
    assert "Accept the HIT to begin" in look
    assert "<form" not in look
    codes = set()
    for number in ("A1234567890", "A1234567891"):
        browser = client_of(studio)
        assert come(browser, path, number, "workerId").status_code == 303
        answer(browser, project)
        codes |= set(re.findall(r"CODE1-[0-9a-f]{8}", browser.get("/complete").text))
    assert codes == {person.code for person in studies.participants(studio, 1, project=project)}
    assert len(codes) == 2


def test_with_nothing_left_to_ask_the_code_comes_too_and_who_is_paused_gets_none(
    studio: Studio, project: int
) -> None:
    studio.change_project(project, replace(studio.project(project).settings, quota=100))
    path = link(studio, project)
    browser = client_of(studio)
    come(browser, path, ANN)
    while answer(browser, project) == 200:
        pass
    assert "CODE1" in browser.get("/complete").text
    other = client_of(studio)
    come(other, path, BEA)
    answer(other, project)
    boss = Person(studio, "boss", "admin")
    name = [each.pseudonym for each in studies.participants(studio, 1, project=project)][1]
    form = {
        "csrf": boss.csrf,
        "annotator": name,
        "state": "paused",
        "why": "too many known answers were wrong",
    }
    assert boss.client.post(f"/admin/projects/{project}/people", data=form).status_code == 303
    page = other.get("/complete").text
    assert "too many known answers were wrong" in page
    assert "CODE1" not in page


def test_the_number_is_all_that_is_stored_and_goes_with_the_person(studio: Studio, project: int) -> None:
    path = link(studio, project)
    browser = client_of(studio)
    come(browser, path, ANN)
    answer(browser, project)
    boss = Person(studio, "boss", "admin")
    told = [
        boss.send("GET", each).text
        for each in ("/people", "/audit", f"/projects/{project}/export?kind=comparisons")
    ]
    assert not [each for each in told if ANN in each]
    with studio.read() as session:
        names = session.scalars(select(models.AnnotatorRow.name)).all()
    assert not [name for name in names if ANN in name]
    erasure.erase(studio, _guests(studio)[0], by=None)
    assert studies.participants(studio, 1, project=project) == []


def test_who_is_no_participant_has_no_code_and_settings_that_cannot_work_are_refused(
    studio: Studio, project: int
) -> None:
    link(studio, project)
    assert Person(studio).client.get("/complete").status_code == 404
    for given, told in (
        ({"places": 0}, "places is 0"),
        ({"code": "a b c d"}, "code is 'a b c d'"),
    ):
        with pytest.raises(InputError, match=told):
            link(studio, project, **given)
    studio.change_project(project, replace(studio.project(project).settings, quota=0))
    with pytest.raises(InputError, match="has no quota"):
        link(studio, project)
    arena = studio.create_project(ProjectSettings(name="arena", kind="chat", access="public", quota=2)).id
    with pytest.raises(InputError, match="open to visitors"):
        link(studio, arena)


def test_the_command_makes_the_link_and_lists_who_came(
    studio: Studio, project: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["label", "recruit", "Helpful", "--store", studio.store.label]
    made = [
        "--platform",
        "prolific",
        "--answers",
        "1",
        "--code",
        "CODE9",
        "--public_url",
        "https://x.org/label/",
    ]
    assert main([*command, *made]) == 0
    found = re.findall(r"https://x\.org/label(/study/\S+)", capsys.readouterr().out)
    browser = client_of(studio)
    come(browser, found[0], ANN)
    answer(browser, project)
    browser.get("/complete")
    out = tmp_path / "people.csv"
    assert main([*command, "--out", str(out)]) == 0
    assert "1 of 100 people came, 1 gave their 1 answers" in capsys.readouterr().out
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["platform"], row["number"], row["code"]) == ("prolific", ANN, "CODE9")
    assert main([*command, "--close", "1"]) == 0
    assert "1  Prolific, closed: 1 of 100" in capsys.readouterr().out
    assert come(client_of(studio), found[0], BEA).status_code == 404
    assert main([*command, "--close", "7"]) != 0
    assert "this project has no study 7" in capsys.readouterr().err
    assert main([*command, "--reopen", "1"]) == 0
    assert come(client_of(studio), found[0], BEA).status_code == 303
    assert main([*command, "--close", "1", "--reopen", "1"]) != 0
    assert main([*command, "--out", str(tmp_path)]) != 0
    assert main([*command, "--answers", "3"]) != 0
    capsys.readouterr()


def test_a_manager_makes_closes_and_pays_a_link_and_nobody_else_may(studio: Studio, project: int) -> None:
    boss, ann = Person(studio, "boss", "annotator"), Person(studio, "ann")
    members.set_member(studio, project, "boss", "manager", by=None)
    members.set_member(studio, project, "ann", "annotator", by=None)
    path = f"/admin/projects/{project}/recruiting"
    form = {"csrf": boss.csrf, "platform": "mturk", "places": "1", "code": "HIT1"}
    assert boss.client.post(path, data=form).status_code == 303
    shown = boss.client.get(path).text
    assert "workerId=${workerId}" in shown
    assert "0 of 1 people came" in shown
    link = re.findall(r"(/study/[\w-]+)\?", shown)[0]
    person = client_of(studio)
    come(person, link, "A1234567890", "workerId")
    for _ in range(2):
        answer(person, project)
    person.get("/complete")
    (row,) = csv.DictReader(boss.client.get(f"{path}.csv").text.splitlines())
    assert (row["platform"], row["number"], row["code"][:5]) == ("mturk", "A1234567890", "HIT1-")
    for given, told in (
        ({"places": "0"}, "places is 0"),
        ({"places": "x"}, "places is &#39;x&#39;"),
        ({"platform": "other"}, "platform is &#39;other&#39;"),
        ({"study": "1", "places": "200000"}, "must be 1 to 100000"),
    ):
        refused = boss.client.post(path, data=form | given)
        assert (refused.status_code, told in refused.text) == (422, True), given
    assert boss.client.post(path, data=form | {"csrf": "x"}).status_code == 403
    change = {"csrf": boss.csrf, "study": "1"}
    assert boss.client.post(path, data=change | {"do": "close"}).status_code == 303
    assert come(client_of(studio), link, "A1234567891", "workerId").status_code == 404
    assert boss.client.post(path, data=change | {"do": "open"}).status_code == 303
    assert boss.client.post(path, data=change | {"places": "2"}).status_code == 303
    assert come(client_of(studio), link, "A1234567891", "workerId").status_code == 303
    assert len(studies.studies(studio, project)) == 1
    for address in (path, f"{path}.csv"):
        assert ann.client.get(address).status_code == 403
    assert ann.client.post(path, data=form | {"csrf": ann.csrf}).status_code == 403


def test_the_api_makes_and_changes_links_of_its_project_only(studio: Studio, project: int) -> None:
    boss = Person(studio, "boss", "admin")
    other = studio.create_project(ProjectSettings(name="Other", access="members", quota=1)).id
    made = boss.send("POST", f"/projects/{project}/studies", {"platform": "prolific", "places": 5})
    assert (made.status_code, made.json()["places"], made.json()["open"]) == (201, 5, True)
    study = made.json()["id"]
    change = f"/projects/{project}/studies/{study}"
    assert boss.send("PATCH", change, {"open": False, "places": 7}).status_code == 204
    (told,) = boss.send("GET", f"/projects/{project}/studies").json()
    assert (told["open"], told["places"]) == (False, 7)
    assert boss.send("GET", f"{change}/participants").json() == []
    for method, path, body in (
        ("PATCH", f"/projects/{other}/studies/{study}", {"open": True}),
        ("GET", f"/projects/{other}/studies/{study}/participants", None),
    ):
        assert boss.send(method, path, body).status_code == 404
    assert boss.send("PATCH", change, {"places": 0}).status_code == 422
    assert (
        boss.send("POST", f"/projects/{project}/studies", {"platform": "x", "places": 5}).status_code == 422
    )


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_in_a_browser_from_the_platform_to_the_code(studio: Studio, project: int, browser: Any) -> None:
    studio.change_project(project, replace(studio.project(project).settings, quota=1))
    path = link(studio, project).replace("{{%PROLIFIC_PID%}}", ANN)
    with served(studio) as base:
        page, watch = new_page(browser, base)
        page.goto(f"{base}{path}")
        page.click("text=Begin")
        page.wait_for_selector(".response")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=all 1 answers")
        page.click("text=Completion code")
        page.wait_for_selector("text=CODE1")

        assert watch.wrong == []
