"""In a real browser: what follows a practice item, and an answer that was sent back."""

from typing import Any

import pytest

from prefloop.studio import disputes
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import new_page, served, sign_in, why_no_browser

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")


def test_practice_tells_the_known_answer_and_an_answer_comes_back_with_its_note(
    studio: Studio, browser: Any
) -> None:
    project = studio.create_project(ProjectSettings(name="p")).id
    known, asked = studio.store.add_pairs().ids[:2]
    studio.add_tasks(project, [known], gold={known: "tie"}, stage="practice")
    studio.add_tasks(project, [asked])
    with served(studio) as base:
        page, watch = new_page(browser, base)
        who = sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        assert page.inner_text("#before-work").startswith("Practice")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#feedback:not([hidden])")
        assert "The known answer is: equally good" in page.inner_text("#feedback")
        page.keyboard.press("2")  # is no answer any more
        page.keyboard.press("Enter")
        page.wait_for_selector("#before-work", state="hidden")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.wait_for_selector("#nothing:not([hidden])")
        page.wait_for_function("() => document.getElementById('saved').textContent === 'saved'")
        (last, _) = studio.history(who.annotator)
        assert last.said == "2 is better"
        boss = sign_in(browser.new_context().new_page(), studio, base, "boss", "admin")
        disputes.send_back(studio, project, last.token, "Read the first again.", by=boss.annotator)
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector("#note:not([hidden])")
        assert page.inner_text("#note-text") == "Read the first again."
        page.wait_for_selector(".response.chosen[data-place='1']")  # what was said is there to be changed
        page.click("#stands")
        page.fill("#dispute-text", "I did.")
        page.click("#dispute-form button")
        page.wait_for_selector("#nothing:not([hidden])")
        (waiting,) = disputes.open_disputes(studio, [project])
        assert [note.text for note in waiting.notes] == ["Read the first again.", "I did."]
        assert watch.wrong == []
