"""The pages in a real browser: labelled by keyboard alone, blind, offline, and deaf to what models write."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.data.store import Store
from prefloop.records import Message, Prompt
from prefloop.studio import accounts, adjudicate, invitations
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.responders import Candidate, Show
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.films import write_films
from tests.studio.hostile import HOSTILE
from tests.studio.live import PASSWORD, new_page, served, sign_in, why_no_browser
from tests.studio.made import completion, fill
from tests.studio.talker import Talker

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")


def compare_all(studio: Studio, **settings: Any) -> int:
    project = studio.create_project(ProjectSettings(name="p", guidelines="# Be *fair*", **settings)).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    return project


def answer(page: Any, *keys: str) -> None:
    """Press keys, the last of which gives the answer, and wait until the next item (or none) is shown."""
    page.wait_for_selector("#stage[data-shown]", state="attached")
    before = page.get_attribute("#stage", "data-shown")
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function("before => document.getElementById('stage').dataset.shown !== before", arg=before)


def wait_stored(page: Any, studio: Studio, project: int, count: int) -> None:
    for _ in range(600):
        if studio.progress([project])[project].submitted >= count:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{studio.progress([project])[project]} after a minute")


def wait_saved(page: Any) -> None:
    """Until the server has everything that was done on this page: an answer taken back counts as stored until it knows."""
    page.wait_for_function("() => document.getElementById('saved').textContent === 'saved'")


def test_from_the_setup_link_to_the_last_answer_by_keyboard_alone(studio: Studio, browser: Any) -> None:
    project = compare_all(studio)
    secret = invitations.invite(studio, "admin", setup=True)
    with served(studio) as base:
        page, watch = new_page(browser, base)
        page.goto(f"{base}/join/{secret}")
        page.wait_for_function("() => document.activeElement.tagName === 'INPUT'")
        page.keyboard.type("me")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("#read:not([hidden])")
        assert page.inner_text("#read-text").strip() == "Be fair"
        page.keyboard.press("Enter")
        page.wait_for_selector(".response")
        for number in range(6):
            answer(page, "12"[number % 2], "Enter")
        page.wait_for_selector("#nothing:not([hidden])")
        wait_stored(page, studio, project, 6)
        # Two keys for each comparison, and the side that was pressed is the one that is stored.
        assert len(studio.store.comparisons().records) == 6
        page.keyboard.press("u")
        page.wait_for_selector(".response.chosen")
        page.keyboard.press("3")
        page.keyboard.press("Enter")
        page.wait_for_selector("#nothing:not([hidden])")
        wait_saved(page)
        assert studio.store.comparisons().left_out.get("tie") == 1
        assert watch.wrong == []


def test_what_is_chosen_on_the_page_is_what_is_stored(studio: Studio, browser: Any) -> None:
    project = compare_all(studio)
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        second = page.text_content(".response[data-place='1'] .text")
        assert "secret-policy" not in page.content()
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("r")
        page.keyboard.type("It is kinder.")
        page.keyboard.press("Escape")
        page.keyboard.press("f")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        wait_stored(page, studio, project, 1)
        (record,) = studio.store.comparisons().records
        assert record.chosen == second
        who = accounts.people(studio)[0].annotator
        (past,) = studio.history(who)
        assert (past.said, past.rationale) == ("2 is much better", "It is kinder.")
        # The next item was on the page before the answer was acknowledged; typing 1 in a field chose nothing.
        assert watch.wrong == []


def test_the_next_item_is_there_at_once(studio: Studio, browser: Any) -> None:
    """The next one is leased beforehand: nothing is asked of the server between an answer and the next item."""
    project = compare_all(studio)
    with served(studio) as base:
        page, _ = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        page.wait_for_load_state("networkidle")
        page.route("**/api/**", lambda route: None)  # the server does not answer any more
        before = page.text_content(".response .text")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "before => document.querySelector('.response .text').textContent !== before", arg=before
        )
        assert page.evaluate("JSON.parse(localStorage.getItem(Object.keys(localStorage)[0])).length") == 1


def test_an_answer_given_while_the_server_was_away_is_not_lost(studio: Studio, browser: Any) -> None:
    project = compare_all(studio)
    with served(studio) as base:
        page, _ = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        page.wait_for_load_state("networkidle")
        page.route("**/submit", lambda route: route.abort())
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#saved.waiting")
        page.reload()  # and the page is closed
        page.wait_for_selector("#saved.waiting")
        assert studio.progress([project])[project].submitted == 0
        page.unroute("**/submit")
        wait_stored(page, studio, project, 1)
        assert studio.store.counts()["judgement"] == 1


PAIRS = list(zip(HOSTILE[::2], HOSTILE[1::2], strict=True))
"""Each is asked and answered; the second also stands as an earlier answer."""


@pytest.mark.parametrize("render", ["plain", "markdown"])
def test_hostile_completions_do_nothing(tmp_path: Path, browser: Any, render: Any) -> None:
    with Store.open(tmp_path / "s.db") as store:
        studio = Studio(store)
        checkpoint = store.add_checkpoint("secret-policy-7b")
        for texts in PAIRS:
            first, second = texts
            prompt = Prompt(
                content=(
                    Message(role="user", content=first),
                    Message(role="assistant", content=second),
                    Message(role="user", content=second),
                )
            )
            store.add_completions(
                [completion(prompt, text, side) for side, text in enumerate(texts)], checkpoint
            )
        project = compare_all(studio, render=render)
        with served(studio) as base:
            page, watch = new_page(browser, base)
            sign_in(page, studio, base, "ann", "admin")
            page.goto(f"{base}/label/{project}")
            for number in range(len(PAIRS)):
                page.wait_for_selector(".response")
                assert page.locator(".response").count() == 2
                assert page.locator("#submit").count() == 1
                answer(page, "d", "1" if number % 2 else "3", "Enter")
            page.wait_for_selector("#nothing:not([hidden])")
            wait_stored(page, studio, project, len(PAIRS))
            for path in ("/history", f"/admin/projects/{project}"):
                page.goto(base + path)
                page.wait_for_load_state("networkidle")
            assert page.url.startswith(base)
            assert watch.wrong == []


def test_two_people_at_once_fill_every_place_and_none_twice(studio: Studio, browser: Any) -> None:
    project = compare_all(studio, overlap=2)
    with served(studio) as base:
        pages = []
        for login in ("ann", "bea"):
            page, watch = new_page(browser, base)
            sign_in(page, studio, base, login)
            page.goto(f"{base}/label/{project}")
            page.wait_for_selector(".response")
            pages.append((page, watch))
        for _ in range(6):
            for page, _watch in pages:
                answer(page, "2", "Enter")
        for page, watch in pages:
            page.wait_for_selector("#nothing:not([hidden])")
            assert watch.wrong == []
        wait_stored(pages[0][0], studio, project, 12)
        progress = studio.progress([project])[project]
        assert (progress.done, progress.surplus, progress.leased) == (6, 0, 0)


def test_ranking_and_rating_by_keyboard(studio: Studio, browser: Any) -> None:
    fill(studio.store, 1, k=3, mark="k")
    with studio.read() as session:
        from sqlalchemy import select

        from prefloop.data.store import models

        ids = list(
            session.scalars(select(models.CompletionRow.id).order_by(models.CompletionRow.id.desc()).limit(3))
        )
    rank = studio.create_project(ProjectSettings(name="rank", kind="rank")).id
    studio.add_tasks(rank, studio.store.add_items([ids], kind="rank"))
    rate = studio.create_project(ProjectSettings(name="rate", kind="rate")).id
    studio.add_tasks(rate, studio.store.add_items([ids[:1]], kind="single"))
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{rank}")
        page.wait_for_selector(".response")
        texts = page.locator(".response .text").all_text_contents()
        for key in ("ArrowDown", "3", "ArrowDown", "1", "ArrowDown", "2", "Enter"):
            page.keyboard.press(key)
        wait_stored(page, studio, rank, 1)
        (ranking,) = studio.store.rankings().records
        assert ranking.completions == (texts[1], texts[2], texts[0])
        page.goto(f"{base}/label/{rate}")
        page.wait_for_selector(".response")
        for key in ("5", "4", "1", "Enter"):
            page.keyboard.press(key)
        wait_stored(page, studio, rate, 1)
        export = studio.store.export("scores")
        assert [each.value for each in studio.store.exported(export.id)] == [pytest.approx(10 / 3)]  # type: ignore[union-attr]
        assert watch.wrong == []


def test_a_conversation_by_keyboard_alone(studio: Studio, browser: Any) -> None:
    project = studio.create_project(ProjectSettings(name="talk", kind="chat")).id
    work = ChatWork(studio, [Talker()])
    with served(studio, chat=work) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector("#composer:not([hidden])")
        page.keyboard.type("Hello")
        page.wait_for_timeout(1200)  # the draft is kept
        page.reload()
        page.wait_for_function("() => document.getElementById('message').value === 'Hello'")
        chosen = []
        for number, keys in enumerate((("1", "1"), ("Shift+ArrowRight",))):
            if number:
                page.keyboard.type("And then?")
            page.keyboard.press("Enter")
            page.wait_for_selector(".response")
            for key in keys:
                page.keyboard.press(key)
            chosen.append(page.text_content(".response.chosen .text"))
            for secret in ("secret-policy", "seed", "temperature"):
                assert secret not in page.content()
            page.keyboard.press("Enter")
            page.wait_for_selector("#composer:not([hidden])")
        said = page.locator("#said .text").all_text_contents()
        assert said == ["Hello", chosen[0], "And then?", chosen[1]]
        # Taken back, and both bad: the message comes back, to be said in other words.
        page.keyboard.press("Escape")
        page.keyboard.press("u")
        page.wait_for_selector(".response.chosen")
        page.keyboard.press("0")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('message').value === 'And then?'")
        assert page.locator("#said .text").all_text_contents() == said[:2]
        page.keyboard.press("Escape")
        page.keyboard.press("n")
        page.wait_for_function("() => document.getElementById('said').children.length === 0")
        assert watch.wrong == []
    (record,) = studio.store.comparisons().records
    assert record.chosen == chosen[0]
    assert studio.store.comparisons().left_out == {"superseded": 2, "both_bad": 1}


def test_real_clips_are_played_side_by_side_and_tell_nothing(
    studio: Studio, browser: Any, tmp_path: Path
) -> None:
    prompt = Prompt(content="Bring the pole upright.")
    checkpoint = studio.store.add_checkpoint("secret-policy-7b")
    names = ("secret-policy-7b-up", "secret-policy-7b-down")
    films = tmp_path / "films"
    films.mkdir()
    write_films(browser, films, names)
    ids = studio.store.add_completions(
        [completion(prompt, f"{name}.webm", side) for side, name in enumerate(names)], checkpoint
    )
    project = studio.create_project(ProjectSettings(name="clips", kind="clip", overlap=2)).id
    studio.add_tasks(project, studio.store.add_items([ids], kind="pair"))
    with served(studio, media=films) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_function(
            "() => document.querySelectorAll('video').length === 2 && [...document.querySelectorAll('video')].every((film) => film.readyState >= 2)"
        )
        assert (
            page.evaluate("[...document.querySelectorAll('video')].map((film) => film.videoWidth)")
            == [320] * 2
        )
        assert "secret-policy" not in page.content()
        page.keyboard.press("p")
        page.wait_for_function(
            "() => [...document.querySelectorAll('video')].every((film) => !film.paused && film.currentTime > 0)"
        )
        page.keyboard.press("p")
        page.wait_for_function("() => [...document.querySelectorAll('video')].every((film) => film.paused)")
        source = page.get_attribute("video", "src")
        answer(page, "4", "Enter")
        wait_stored(page, studio, project, 1)
        assert studio.store.comparisons().left_out == {"cant_tell": 1}
        # Somebody else's clip is not there, nor is a file outside the folder.
        other, _ = new_page(browser, base)
        sign_in(other, studio, base, "bea")
        assert other.goto(f"{base}{source}").status == 404
        assert watch.wrong == []


def test_the_next_item_is_on_the_screen_before_the_server_answers(studio: Studio, browser: Any) -> None:
    """It was fetched while the last one was read. How long that takes is printed: from the key to the next item shown."""
    fill(studio.store, 14, mark="many")
    project = compare_all(studio)
    with served(studio) as base:
        page, _ = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        held: list[Any] = []
        fetched: list[str] = []
        holding = False

        def pass_on(route: Any) -> None:
            held.append(route) if holding else route.continue_()

        def until(true: Callable[[], bool]) -> None:
            for _ in range(3000):
                if true():
                    return
                page.wait_for_timeout(10)  # in which events arrive
            raise AssertionError(f"fetched {len(fetched)} items, holds {len(held)} requests")

        page.on(
            "response",
            lambda response: fetched.append(response.url) if "assignments/next" in response.url else None,
        )
        page.route("**/*", pass_on)
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        page.evaluate(
            """() => {
              window.took = [];
              const stage = document.getElementById("stage");
              let pressed = 0;
              document.addEventListener("keydown", (event) => { if (event.key === "Enter") pressed = performance.now(); }, true);
              new MutationObserver(() => { if (pressed && stage.dataset.shown !== "nothing") { const since = pressed; pressed = 0; requestAnimationFrame(() => took.push(performance.now() - since)); } })
                .observe(stage, { attributeFilter: ["data-shown"] });
            }"""
        )
        for number in range(1, 6):
            wanted = number + 1  # somebody who reads gives the prefetch its time
            until(lambda least=wanted: len(fetched) >= least)
            holding = True
            answer(page, "1", "Enter")
            until(lambda: bool(held))
            assert studio.progress([project])[project].submitted == number - 1
            holding = False
            while held:
                held.pop().continue_()
            wait_stored(page, studio, project, number)
        took = sorted(page.evaluate("took"))
        print("milliseconds from the key to the next item:", [round(each) for each in took])


def test_an_item_is_decided_by_keyboard_alone(studio: Studio, browser: Any) -> None:
    project = compare_all(studio, overlap=2)
    for number, choice in enumerate(("a", "b")):
        who = studio.store.add_annotator(f"p{number}")
        while (got := studio.lease(project, who)) is not None:
            first_is_a = got.completions[0].endswith("0")
            place = "first" if first_is_a == (choice == "a") else "second"
            studio.submit(got.token, who, Answer(choice=place), key="12345678")
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "judge", "adjudicator")
        page.goto(f"{base}/adjudicate?project={project}")
        for left in range(6, 0, -1):
            page.wait_for_function(f"() => document.body.textContent.includes('{left} left')")
            page.keyboard.press("2")
            page.keyboard.press("Enter")
        page.wait_for_selector("text=Nothing to decide")
        assert adjudicate.decided(studio, project) == 6
        assert watch.wrong == []


class Slow(Talker):
    """Writes a word a moment until it is stopped."""

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        whole = super().reply(messages, seed=seed, show=show)
        words = whole.text.split()
        for count in range(1, 1000):
            text = " ".join((words * count)[:count])
            if not show(text):
                return replace(whole, text=text, ended=False)
            time.sleep(0.05)
        return whole


def test_answers_grow_on_the_page_and_are_stopped(studio: Studio, browser: Any) -> None:
    project = studio.create_project(ProjectSettings(name="talk", kind="chat")).id
    with served(studio, chat=ChatWork(studio, [Slow()])) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector("#composer:not([hidden])")
        page.keyboard.type("Hello")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('#partial .text').length === 2")
        early = page.locator("#partial .text").all_text_contents()
        page.wait_for_function(
            "early => [...document.querySelectorAll('#partial .text')].every((text, n) => text.textContent.length > early[n].length + 20)",
            arg=early,
        )
        page.click("#stop")
        page.wait_for_selector(".response")
        shown = page.locator(".response .text").all_text_contents()
        assert all(text.startswith(begun) for text, begun in zip(shown, early, strict=True))
        assert page.is_hidden("#stop")
        assert page.is_hidden("#partial")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#composer:not([hidden])")
        assert page.locator("#said .text").all_text_contents() == ["Hello", shown[0]]
        assert watch.wrong == []
