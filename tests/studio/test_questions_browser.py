"""In a real browser: questions are composed with a preview, answered with the keyboard, and parts are marked where they stand."""

from typing import Any

import pytest

from prefloop.records import Prompt
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.accessible import problems
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.made import completion

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
REPLY = "🙂 one\u200b two\r\nthree four"


def test_composed_answered_and_marked(studio: Studio, browser: Any) -> None:
    store, prompt = studio.store, Prompt(content="Count.")
    ids = store.add_completions(
        [completion(prompt, entry, at) for at, entry in enumerate((REPLY, f"{REPLY}!"))],
        store.add_checkpoint("secret-policy-7b"),
    )
    project = studio.create_project(ProjectSettings(name="p")).id
    studio.add_tasks(project, store.add_items([ids], kind="pair"))
    with served(studio) as base:
        page, watch = new_page(browser, base)
        who = sign_in(page, studio, base, "boss", "admin")
        page.goto(f"{base}/admin/projects/{project}/questions")
        page.click("[data-add=rating]")
        page.fill(".editors li:nth-child(1) input", "How good?")
        page.click("[data-add=spans]")
        page.wait_for_selector("#preview .response [data-marks]", state="attached")
        assert "How good?" in page.inner_text("#preview")
        assert problems(page) == []
        page.click("#as-yaml summary")
        assert "name: quality" in page.input_value("#yaml")
        page.click("#save")
        page.wait_for_function("() => document.getElementById('saved').textContent.startsWith('Saved')")
        names = [entry.name for entry in studio.project(project).settings.questions]
        assert names == ["quality", "marks"]

        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        page.keyboard.press("1")
        assert page.is_disabled("#submit")
        page.keyboard.press("Enter")
        assert "Answer first: How good?" in page.inner_text("#toast")
        for place in 0, 1:
            page.click(f"[data-place='{place}'] .picks button:nth-child({4 - place})")
        # By keys: the second word, and the one after it.
        page.keyboard.press("m")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.type("odd")
        page.click("[data-place='0'] .marker button:first-child")
        # By the mouse: from the line's end to the end of the text.
        box = page.evaluate(
            """() => { const mark = document.querySelectorAll('[data-place="1"] .markable [data-at]');
            const range = new Range(); range.setStart(mark[mark.length - 1].firstChild, 6);
            range.setEnd(mark[mark.length - 1].firstChild, 10);
            const { left, right, top, height } = range.getBoundingClientRect();
            return [left, right, top + height / 2]; }"""
        )
        page.mouse.move(box[0] + 1, box[2])
        page.mouse.down()
        page.mouse.move(box[1] - 1, box[2], steps=4)
        page.mouse.up()
        page.click("[data-place='1'] .marker button:nth-child(2)")
        assert page.locator(".marks li").count() == 2
        assert problems(page) == []
        page.keyboard.press("Enter")
        page.wait_for_selector("#nothing:not([hidden])")
        page.wait_for_function("() => document.getElementById('saved').textContent === 'saved'")
        (past,) = studio.history(who.annotator)
        again = studio.undo(past.token, who.annotator)
        marked = sorted(again.draft["spans"], key=lambda entry: entry["place"])
        texts = [again.completions[entry["place"]][entry["start"] : entry["end"]] for entry in marked]
        assert texts[0].strip("\u200b").startswith("one")
        assert texts[1] == "four"
        assert [(entry["label"], entry["comment"]) for entry in marked] == [
            ("untrue", "odd"),
            ("unclear", ""),
        ]
        page.reload()  # what was marked is there to be changed
        page.wait_for_selector(".marks li")
        assert page.locator(".marks li").count() == 2
        assert watch.wrong == []
