"""An empty studio: the demo, what the store holds, a file that is looked at, mapped and made a project; and the next step of a project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.data.store import Store
from prefloop.studio.next_steps import next_step
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectProgress, ProjectSettings
from tests.data.conftest import empty_store  # noqa: F401  (fixture)
from tests.studio.accessible import problems
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.web import Person

CSV = b"Question,better,worse\nwhat?,this,that\nwho?,she,he\n,,\n"


@pytest.fixture
def bare(empty_store: Callable[[Path], Store], tmp_path: Path) -> Any:  # noqa: F811
    """A studio on a store that holds nothing."""
    with empty_store(tmp_path) as store:
        yield Studio(store)


def upload(person: Person, path: str, content: bytes, **query: str) -> Any:
    headers = {"X-CSRF-Token": person.csrf, "Content-Type": "application/jsonl"}
    return person.client.post(f"/api/v1/{path}", params=query, content=content, headers=headers)


def test_a_file_is_looked_at_mapped_and_made_a_project(bare: Studio) -> None:
    boss = Person(bare, "boss", "admin")
    given = {"name": "my.csv", "kind": "pair"}
    seen = upload(boss, "import/preview", CSV, **given).json()
    assert (seen["columns"], seen["format"]) == (["Question", "better", "worse"], "")
    assert seen["guesses"] == {"Question": "prompt", "better": "chosen", "worse": "rejected"}
    assert seen["rows"][0] == {"Question": "what?", "better": "this", "worse": "that"}
    assert "tmp" not in seen["problem"]
    given["columns"] = "prompt=Question,chosen=better,rejected=worse"
    seen = upload(boss, "import/preview", CSV, **given).json()
    assert (seen["format"], seen["items"], seen["bad"], seen["problem"]) == ("comparison", 2, 1, "")
    assert seen["first"][0] == {"prompt": "what?", "completions": ["this", "that"]}
    assert bare.projects() == []
    assert bare.store.counts()["completion"] == 0  # a look stores nothing
    made = upload(boss, "import", CSV, project="Mine", **given)
    assert (made.status_code, made.json()["items"]) == (201, 2)
    assert bare.project(made.json()["project"]).settings.access == "members"
    again = upload(boss, "import", CSV, project="Mine", **given)
    assert (again.status_code, bare.store.counts()["project"]) == (409, 1)
    assert upload(boss, "import/preview", CSV, name="my.exe").status_code == 422
    assert upload(boss, "import/preview", CSV, name="a.csv", kind="chat").status_code == 422
    ann = Person(bare, client=boss.client)
    assert upload(ann, "import/preview", CSV, name="my.csv").status_code == 403


def test_the_demo_fills_an_empty_store_once(bare: Studio, studio: Studio) -> None:
    boss = Person(bare, "boss", "admin")
    assert "Try the demo" in boss.client.get("/").text
    assert boss.send("POST", "/start/stored").status_code == 422
    made = boss.send("POST", "/start/demo")
    assert (made.status_code, made.json()["items"]) == (201, 200)
    assert boss.send("POST", "/start/demo").status_code == 422
    ann = Person(bare, client=boss.client)
    assert "Try the demo" not in ann.client.get("/").text
    assert ann.send("POST", "/start/demo").status_code == 403
    other = Person(studio, "boss", "admin")  # whose store has six pairs
    page = other.client.get("/").text
    assert "The store holds 12 completions" in page
    assert "Try the demo" not in page
    assert other.send("POST", "/start/stored").json()["items"] == 6
    alone = Person(studio, "zoe")
    assert "Begin with one of these" not in alone.client.get("/").text


def test_a_project_says_what_to_do_next(studio: Studio) -> None:
    project = studio.create_project(ProjectSettings(name="p"))
    numbers = {"wanted": 4, "leased": 0, "surplus": 0, "skipped": 0, "gold": 0}

    def words(items: int, submitted: int, done: int, people: int, held: int = 0, admin: bool = True) -> str:
        progress = ProjectProgress(items=items, submitted=submitted, done=done, **numbers)
        return next_step(project, progress, people=people, held=held, is_admin=admin).words

    assert words(0, 0, 0, 0) == "Add items"
    assert words(4, 0, 0, 0) == "Invite people"
    assert words(4, 2, 2, 1) == "See how well"
    assert words(4, 2, 2, 1, held=1) == "See who waits"
    assert words(4, 4, 4, 1) == "Save a version to train on"
    assert words(4, 4, 4, 1, admin=False) == "See them"
    boss = Person(studio, "boss", "admin")
    assert ">Add items</a>" in boss.client.get(f"/admin/projects/{project.id}").text


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_in_a_browser_a_file_becomes_the_first_comparison(bare: Studio, browser: Any) -> None:
    with served(bare) as base:
        page, watch = new_page(browser, base)
        sign_in(page, bare, base, "boss", "admin")
        page.goto(base)
        assert problems(page) == []
        page.click("text=Choose a file")
        page.wait_for_selector("#drop")
        page.evaluate(
            """(text) => { const files = new DataTransfer(); files.items.add(new File([text], "two_of_them.csv"));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true })); }""",
            CSV.decode(),
        )
        page.wait_for_selector("#first .response")
        assert page.inner_text("#looked-title") == "2 items to judge"
        assert page.locator("#rows select").nth(0).input_value() == "prompt"
        assert problems(page) == []
        assert page.input_value("[name=project]") == "two of them"
        page.click("#make")
        page.wait_for_selector("text=Invite people")
        project = bare.projects()[0].id
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        ask, cards, verdict = (
            page.locator(name).bounding_box() for name in ("#ask", "#responses", "#verdict")
        )
        assert ask["y"] + ask["height"] <= cards["y"]  # what is asked stands above the replies
        assert verdict["y"] - (cards["y"] + cards["height"]) < 120  # and the buttons right below short ones
        assert watch.wrong == []
