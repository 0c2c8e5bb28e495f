"""Dataset versions in the studio: the page that saves and lists them, what differs, the API, and who may. On each database."""

import re
from typing import Any

import pytest

from prefloop.data.store import models
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.web import Person


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


@pytest.fixture
def project(studio: Studio) -> int:
    """Six pairs, the first four answered by `ann`."""
    made = studio.create_project(ProjectSettings(name="How helpful?", overlap=2)).id
    studio.add_tasks(made, studio.store.add_pairs().ids)
    answer(studio, made, "ann", 4)
    return made


def answer(studio: Studio, project: int, who: str, count: int) -> None:
    annotator = studio.store.add_annotator(who)
    for _ in range(count):
        got = studio.lease(project, annotator)
        assert got is not None
        studio.submit(got.token, annotator, Answer(choice="first"), key="12345678")


def test_a_version_is_saved_listed_and_compared_on_pages(studio: Studio, project: int) -> None:
    boss = Person(studio, "boss", "admin")
    address = f"/admin/datasets?project={project}"
    page = boss.client.get(address).text
    assert 'value="how-helpful"' in page
    assert "No version saved yet" in page
    assert re.findall(r"<option >(\w+)</option>", page) == ["comparisons", "demonstrations"]
    form = {
        "csrf": boss.csrf,
        "name": "helpful",
        "kind": "comparisons",
        "aggregate": "each",
        "note": "<b>first</b>",
    }
    saved = boss.client.post(address, data=form)
    assert saved.status_code == 303
    assert saved.headers["location"] == f"{address}&saved=helpful@1"
    page = boss.client.get(saved.headers["location"]).text
    assert "Saved as <strong>helpful@1</strong>" in page
    assert "&lt;b&gt;first&lt;/b&gt;" in page
    (version,) = studio.store.datasets()
    assert version.made_by == boss_pseudonym(studio, boss)
    assert version.chosen == {"projects": ["How helpful?"], "skip_bad": True}
    assert "prefloop dpo --model MODEL --data store:helpful@1 --store " in page
    # Nothing new: said, and no second version.
    again = boss.client.post(address, data=form)
    assert again.headers["location"] == f"{address}&saved==helpful@1"
    assert (
        "Nothing has changed since <strong>helpful@1</strong>"
        in boss.client.get(again.headers["location"]).text
    )
    answer(studio, project, "bea", 2)
    boss.client.post(address, data={**form, "min_agreement": "0.5"})
    page = boss.client.get(address).text
    assert "Since helpful@1: 2 added, 0 removed, 0 relabelled" in page
    assert "min agreement 0.5" in page
    differs = boss.client.get("/admin/datasets/difference?before=helpful@1&after=helpful@2").text
    assert "<h2>Added</h2>" in differs
    assert differs.count("question ") == 2
    assert re.search(r"min agreement</th><td>not set</td><td>0.5</td>", differs)
    assert "helpful@2" in boss.client.get("/admin/datasets").text
    events = boss.client.get("/admin/audit").text
    assert events.count("save") == 2


def boss_pseudonym(studio: Studio, boss: Person) -> str:
    with studio.read() as session:
        return session.get_one(models.AnnotatorRow, boss.who.annotator).name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_agreement": "much"}, "min_agreement is &#39;much&#39;; it must be a number"),
        ({"min_agreement": "2"}, "min_agreement is 2.0; it must be a share"),
        ({"since": "yesterday"}, "since is &#39;yesterday&#39;"),
        ({"name": "a b"}, "dataset&#39;s name is &#39;a b&#39;"),
        ({"kind": "demonstrations"}, "no demonstrations to export"),
        ({"gold_passed": "0.5"}, "known answers 4"),
        ({"gold_answered": "3"}, "gold_answered is 3, but gold_passed is 0"),
        (
            {"kind": "demonstrations", "aggregate": "majority"},
            "aggregate is majority, but kind is demonstrations",
        ),
        ({"kind": "everything"}, "everything"),
        ({"aggregate": "mean"}, "aggregate is &#39;mean&#39;; it must be one of each, majority"),
    ],
)
def test_what_cannot_be_saved_is_said_and_the_form_is_kept(
    studio: Studio, project: int, given: dict[str, str], said: str
) -> None:
    boss = Person(studio, "boss", "admin")
    form = {
        "csrf": boss.csrf,
        "name": "mine",
        "kind": "comparisons",
        "aggregate": "each",
        "note": "keep this",
        **given,
    }
    answer = boss.client.post(f"/admin/datasets?project={project}", data=form)
    assert answer.status_code == 422
    assert said in answer.text
    assert 'value="keep this"' in answer.text
    assert studio.store.datasets() == []


def test_the_api_saves_lists_and_compares(studio: Studio, project: int) -> None:
    boss = Person(studio, "boss", "admin")
    body = {"name": "helpful", "projects": ["How helpful?"], "aggregate": "majority"}
    made = boss.send("POST", "/datasets", body)
    assert made.status_code == 201, made.text
    assert (made.json()["new"], made.json()["dataset"]["rows"]) == (True, 4)
    assert boss.send("POST", "/datasets", body).json()["new"] is False
    answer(studio, project, "bea", 1)
    boss.send("POST", "/datasets", {**body, "annotators": ["bea"]})
    found = boss.send("GET", "/datasets?name=helpful").json()
    assert [each["dataset"] for each in found] == ["helpful@1", "helpful@2"]
    assert found[0]["command"].startswith("prefloop dpo --model MODEL --data store:helpful@1 ")
    differs = boss.send("GET", "/datasets/difference?before=helpful@1&after=helpful").json()
    assert differs["changes"]["removed"] + differs["changes"]["changed"] >= 3
    for body, said in (
        ({"name": "x", "projects": ["nothing"]}, "project 'nothing' is not in the store"),
        ({"name": "x", "kind": "labels", "aggregate": "majority"}, "only comparisons are aggregated"),
        ({"name": "x", "unknown": 1}, "unknown"),
    ):
        refused = boss.send("POST", "/datasets", body)
        assert refused.status_code == 422
        assert said in refused.text


def test_only_admins_see_what_is_trained_on(studio: Studio, project: int) -> None:
    ann = Person(studio, "ann-account")
    for path in (
        "/admin/datasets",
        f"/admin/datasets?project={project}",
        "/admin/datasets/difference?before=a&after=b",
    ):
        assert ann.client.get(path).status_code == 403
    assert ann.client.post(f"/admin/datasets?project={project}", data={"csrf": ann.csrf}).status_code == 403
    assert ann.send("GET", "/datasets").status_code == 403
    assert ann.send("POST", "/datasets", {"name": "x"}).status_code == 403
    boss = Person(studio, "boss", "admin")
    assert (
        boss.client.post(
            f"/admin/datasets?project={project}", data={"csrf": "wrong", "name": "x"}
        ).status_code
        == 403
    )
    assert studio.store.datasets() == []


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_in_a_browser(studio: Studio, project: int, browser: Any) -> None:
    if studio.store.database.dialect != "sqlite":
        pytest.skip("the page is the same on each database")
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "boss", "admin")
        page.goto(f"{base}/admin/projects/{project}")
        page.get_by_role("link", name="Save a version to train on").click()
        page.get_by_label("Name").fill("helpful")
        page.get_by_role("button", name="Save a version").click()
        page.get_by_text("Saved as helpful@1").wait_for()
        assert "--data store:helpful@1 " in page.locator("details pre").inner_text()
        page.get_by_role("button", name="Copy the command").click()
        assert watch.wrong == []
