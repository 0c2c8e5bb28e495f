"""Clips have addresses that tell nothing: where a file is stored would say which model it is of."""

import re
from pathlib import Path
from typing import Any

import pytest

from prefloop.data.store import Filters
from prefloop.records import Prompt
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.made import completion
from tests.studio.web import Person, client_of

NAMES = ("secret-policy-7b/up.png", "secret-policy-7b/down.png")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (tmp_path / "outside.png").write_bytes(b"outside")
    return folder


def clips(studio: Studio, names: tuple[str, ...] = NAMES) -> int:
    """A project of one pair of clips, for two people."""
    checkpoint = studio.store.add_checkpoint("secret-policy-7b")
    prompt = Prompt(content="Bring the pole upright.")
    ids = studio.store.add_completions(
        [completion(prompt, name, side) for side, name in enumerate(names)], checkpoint
    )
    project = studio.create_project(ProjectSettings(name="clips", kind="clip", overlap=2)).id
    studio.add_tasks(project, studio.store.add_items([ids], kind="pair"))
    return project


def person(studio: Studio, login: str, media: Path, role: Any = "annotator") -> Person:
    return Person(studio, login, role, client=client_of(studio, media=media))


def first_is_shown(content: bytes) -> str:
    """The answer that prefers the clip called up, given what is at the first place."""
    return "first" if b"up" in content else "second"


def test_clips_are_asked_for_by_token_and_place(studio: Studio, media: Path) -> None:
    project = clips(studio)
    ann, bea = person(studio, "ann", media), person(studio, "bea", media)
    told = ann.send("POST", "/assignments/next", {"project": project, "have": []})
    item = told.json()["assignment"]
    assert item["sources"] == [f"/clips/{item['token']}/{place}" for place in (0, 1)]
    for text in (told.text, ann.client.get(f"/label/{project}").text):
        for secret in ("secret-policy", "up.png", "down.png"):
            assert secret not in text
    shown = [ann.client.get(source) for source in item["sources"]]
    assert {each.content for each in shown} == {name.encode() for name in NAMES}
    for each in shown:
        assert each.headers["content-type"] == "image/png"
        assert "secret-policy" not in str(each.headers)
    # Somebody else's, and a place that there is not.
    assert bea.client.get(item["sources"][0]).status_code == 404
    assert ann.client.get(f"/clips/{item['token']}/2").status_code == 404
    # What is preferred at a place is stored for the clip that was at it.
    assert ann.submit(item["token"], {"choice": first_is_shown(shown[0].content)}).status_code == 200
    (record,) = studio.store.comparisons().records
    assert (record.chosen, record.rejected) == NAMES


def test_a_file_outside_the_folder_is_no_clip(studio: Studio, media: Path) -> None:
    project = clips(studio, ("../outside.png", str(media.parent / "outside.png")))
    ann = person(studio, "ann", media)
    for source in ann.next(project)["sources"]:
        assert ann.client.get(source).status_code == 404


def test_whoever_decides_is_shown_the_same_clips_blind(studio: Studio, media: Path) -> None:
    project = clips(studio)
    for number, login in enumerate(("ann", "bea")):
        who = person(studio, login, media)
        item = who.next(project)
        up = first_is_shown(who.client.get(item["sources"][0]).content)
        down = "second" if up == "first" else "first"
        assert who.submit(item["token"], {"choice": down if number else up}).status_code == 200
    judge = person(studio, "judge", media, "adjudicator")
    (path,) = re.findall(r'href="(/adjudicate/\d+/\d+)"', judge.client.get("/adjudicate").text)
    page = judge.client.get(path).text
    assert "secret-policy" not in page
    assert ".png" not in page
    sources = re.findall(r'<video src="([^"]+)"', page)
    assert sources == [f"{path}/clip/0", f"{path}/clip/1"]
    shown = [judge.client.get(source) for source in sources]
    assert {each.content for each in shown} == {name.encode() for name in NAMES}
    assert person(studio, "cid", media).client.get(sources[0]).status_code == 403
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    form = hidden | {"choice": first_is_shown(shown[0].content), "reason": ""}
    assert judge.client.post(path, data=form).status_code == 303
    assert studio.store.comparisons().left_out == {"adjudication": 1}
    (record,) = studio.store.comparisons(Filters(adjudicated=True)).records
    assert (record.chosen, record.rejected) == NAMES
