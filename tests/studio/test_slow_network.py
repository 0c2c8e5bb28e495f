"""Labelling over a slow mobile network, with answers of ten thousand characters."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from prefloop.records import Prompt
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.made import completion
from tests.studio.test_browser import wait_stored

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
LONG = 10_000
"""Characters of an answer."""
LATENCY = 300
MOBILE: Any = {
    "offline": False,
    "latency": LATENCY,
    "downloadThroughput": 1.6e6 / 8,
    "uploadThroughput": 0.75e6 / 8,
}
"""Fast 3G as Chromium's own tools have it, in milliseconds and bytes a second, with half of their latency."""
ITEMS = 4


@pytest.fixture
def project(studio: Studio) -> int:
    made = studio.create_project(ProjectSettings(name="Long")).id
    checkpoint = studio.store.add_checkpoint("long")
    items = []
    for number in range(ITEMS):
        texts = [
            (f"Sentence {n} of {side} {number}. " * LONG)[:LONG] for n, side in enumerate(("one", "two"))
        ]
        prompt = Prompt(content=f"Which is better, {number}?")
        ids = studio.store.add_completions(
            [completion(prompt, text, side, "long") for side, text in enumerate(texts)], checkpoint
        )
        items += studio.store.add_items([ids], kind="pair")
    studio.add_tasks(made, items)
    return made


@pytest.fixture
def page(studio: Studio, project: int, browser: Any) -> Iterator[Any]:
    with served(studio) as base:
        made, watch = new_page(browser, base)
        sign_in(made, studio, base, "ann")
        network = made.context.new_cdp_session(made)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", MOBILE)
        begun = time.monotonic()
        made.goto(f"{base}/label/{project}")
        made.wait_for_selector("#stage[data-shown]", state="attached")
        assert (
            time.monotonic() - begun > 2 * LATENCY / 1000
        )  # it is slow: the page and the item took a journey each
        yield made
        assert watch.wrong == []


def test_a_slow_network_keeps_nobody_waiting_and_loses_nothing(
    page: Any, studio: Studio, project: int
) -> None:
    """The next item is there before it is asked for: it is fetched while one reads."""
    for number in range(ITEMS):
        shown = page.get_attribute("#stage", "data-shown")
        texts = page.locator(".response .text").all_text_contents()
        assert {len(text.strip()) for text in texts} <= {LONG, LONG - 1}
        page.wait_for_load_state("networkidle")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        # Less than one journey: what follows was here already.
        page.wait_for_function(
            "before => document.getElementById('stage').dataset.shown !== before", arg=shown
        )
        if number < ITEMS - 1:
            assert page.locator(".response").count() == 2
    page.wait_for_selector("#nothing:not([hidden])")
    wait_stored(page, studio, project, ITEMS)
    assert len(studio.store.comparisons().records) == ITEMS


def test_what_is_asked_and_the_buttons_stay_in_reach_of_a_long_answer(page: Any) -> None:
    for width, height in ((1280, 800), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        question = page.locator("#prompt").bounding_box()
        reply = page.locator(".response").first.bounding_box()
        assert question["y"] + question["height"] <= reply["y"] + 1
        page.evaluate("window.scrollTo(0, 3000)")
        for button in (page.locator("#submit"), *page.locator("button.side").all()):
            box = button.bounding_box()
            assert 0 <= box["y"] <= height - box["height"], (width, box)
        page.evaluate("window.scrollTo(0, 0)")
