"""A change of mind, a lost connection and an ended session, in a real browser: what is stored is what was meant, and nothing is lost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.studio import accounts
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import PASSWORD, Watch, new_page, served, sign_in, why_no_browser
from tests.studio.made import fill
from tests.studio.talker import Talker
from tests.studio.test_browser import answer, compare_all, wait_saved, wait_stored

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")


@dataclass
class At:
    """Somebody in front of a project's first item."""

    page: Any
    watch: Watch
    base: str
    studio: Studio
    project: int

    def texts(self) -> list[str]:
        """The replies on the screen."""
        return self.page.locator(".response .text").all_text_contents()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def pairs(self) -> set[tuple[str, str]]:
        """What the store prefers to what."""
        return {(each.chosen, each.rejected) for each in self.studio.store.comparisons().records}

    def rewrites(self) -> list[str]:
        """Demonstrations by people."""
        try:
            export = self.studio.store.export("demonstrations")
        except InputError:  # there are none
            return []
        return [each.completion for each in self.studio.store.exported(export.id)]  # type: ignore[union-attr]


@pytest.fixture
def at(studio: Studio, browser: Any) -> Iterator[At]:
    project = compare_all(studio)
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        page.wait_for_load_state("networkidle")
        yield At(page, watch, base, studio, project)
        assert [each for each in watch.wrong if "net::ERR" not in each] == []  # requests that a test cuts
        page.context.close()


# A rewrite


def test_a_rewrite_that_was_opened_and_not_written_does_not_survive_a_change_of_mind(at: At) -> None:  # P1
    first, second = at.texts()
    answer(at.page, "1", "e", "Escape", "2", "Enter")
    wait_stored(at.page, at.studio, at.project, 1)
    assert at.pairs() == {(second, first)}
    assert at.rewrites() == []


def test_a_rewrite_goes_with_the_side_it_was_opened_from_and_comes_back_with_it(at: At) -> None:  # P1
    first, second = at.texts()
    at.press("1", "e", "End")
    at.page.keyboard.type("!")
    at.press("Escape", "2")
    assert at.page.is_hidden("#edit-box")
    assert "response 1 is kept aside" in at.page.text_content("#edit-aside")
    # Opened from the other side, the field has that side's text.
    at.press("e")
    assert at.page.input_value("#edited") == second
    assert "response 2" in at.page.text_content("#edit-title")
    at.press("Escape", "1")
    assert at.page.input_value("#edited") == f"{first}!"
    at.page.wait_for_timeout(1000)  # the draft is kept, by its side
    at.press("2")
    at.page.wait_for_timeout(1000)
    at.page.reload()
    at.page.wait_for_selector(".response.chosen")
    assert at.page.is_hidden("#edit-box")
    answer(at.page, "Enter")
    wait_stored(at.page, at.studio, at.project, 1)
    assert (at.pairs(), at.rewrites()) == ({(second, first)}, [])
    # Taken back, chosen again with its rewrite: that is stored, as better than what it was made from.
    at.press("u")
    at.page.wait_for_selector(".response.chosen")
    answer(at.page, "1", "Enter")
    wait_saved(at.page)
    assert at.pairs() == {(first, second), (f"{first}!", first)}
    assert at.rewrites() == [f"{first}!"]


def test_the_text_of_the_other_reply_is_no_rewrite(at: At) -> None:  # P1
    first, second = at.texts()
    at.press("1", "e")
    at.page.fill("#edited", f"  {second}\n")
    at.press("Escape", "Enter")
    wait_stored(at.page, at.studio, at.project, 1)
    assert (at.pairs(), at.rewrites()) == ({(first, second)}, [])


def test_a_rewrite_by_its_button_needs_no_key_and_no_choice(at: At) -> None:  # P1
    first, second = at.texts()
    at.page.click("[aria-label='Rewrite response 2']")
    assert at.page.evaluate("document.activeElement.id") == "edited"
    at.page.fill("#edited", "By hand.")
    at.page.click("#submit")
    wait_stored(at.page, at.studio, at.project, 1)
    assert at.pairs() == {(second, first), ("By hand.", second)}


def test_a_rewrite_that_waits_for_the_server_keeps_its_side(at: At) -> None:  # P1
    first, second = at.texts()
    at.page.route("**/submit", lambda route: route.abort())
    at.press("1", "e")
    at.page.fill("#edited", "By hand.")
    answer(at.page, "Escape", "Enter")
    at.page.wait_for_selector("#saved.waiting")
    at.page.reload()
    at.page.unroute("**/submit")
    wait_stored(at.page, at.studio, at.project, 1)
    assert at.pairs() == {(first, second), ("By hand.", first)}


def test_a_reply_with_other_line_ends_is_not_rewritten_by_being_shown(
    studio: Studio, browser: Any
) -> None:  # P1
    """A field on a page turns every line end into one character; nobody has typed that."""
    from prefloop.records import Prompt
    from tests.studio.made import completion

    checkpoint = studio.store.add_checkpoint("secret-policy-7b")
    said = completion(Prompt(content="Two lines?"), "one\r\ntwo", 0)
    project = studio.create_project(ProjectSettings(name="edit", kind="edit")).id
    ids = studio.store.add_completions([said], checkpoint)
    studio.add_tasks(project, studio.store.add_items([ids], kind="single"))
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        assert page.is_disabled("#submit")
        page.click("#edited")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#toast:not([hidden])")
        assert "Change the reply" in page.text_content("#toast")
        assert studio.store.counts()["judgement"] == 0
        assert watch.wrong == []


# No connection


def cut(page: Any) -> None:
    page.route("**/api/**", lambda route: route.abort())


def test_undo_works_without_a_connection(at: At) -> None:  # P3
    """Before the answer has left, and after it was stored: the item comes back at once, and the server is told when it is there again."""
    first, second = at.texts()
    answer(at.page, "1", "Enter")
    wait_stored(at.page, at.studio, at.project, 1)
    at.page.wait_for_load_state("networkidle")
    cut(at.page)
    at.press("u")
    at.page.wait_for_selector(".response.chosen")
    assert at.texts() == [first, second]
    answer(at.page, "2", "Enter")  # the answer is kept
    third = at.texts()
    at.press("1", "u")
    at.page.wait_for_selector(".response.chosen[data-place='1']")
    assert at.texts() == [first, second]
    answer(at.page, "3", "Enter")
    assert at.texts() == third
    at.page.wait_for_selector("#saved.waiting")
    at.page.unroute("**/api/**")
    wait_saved(at.page)
    assert at.pairs() == set()
    assert at.studio.store.comparisons().left_out["tie"] == 1
    assert at.studio.progress([at.project])[at.project].submitted == 1
    # What was begun on the next item is there still.
    assert at.page.locator(".response.chosen").get_attribute("data-place") == "0"


def test_without_a_connection_the_page_says_so_and_goes_on_by_itself(at: At) -> None:
    cut(at.page)
    answer(at.page, "1", "Enter")
    answer(at.page, "1", "Enter")  # the one that was fetched beforehand
    at.page.wait_for_selector("#away:not([hidden])")
    told = at.page.text_content("#away")
    assert "cannot be reached" in told
    assert "Your answers are kept" in told
    assert at.page.is_hidden("#nothing")
    at.page.unroute("**/api/**")
    at.page.wait_for_selector("#stage:not([hidden]) .response")
    wait_stored(at.page, at.studio, at.project, 2)


def test_what_is_left_goes_down_with_each_answer_and_nothing_is_promised_that_others_will_give(
    at: At,
) -> None:
    settings = at.studio.project(at.project).settings
    at.studio.change_project(at.project, replace(settings, overlap=3))
    at.page.reload()
    at.page.wait_for_selector(".response")
    for done in range(6):
        assert at.page.text_content("#count") == f"{done} done · {6 - done} left"
        answer(at.page, "1", "Enter")
    at.page.wait_for_selector("#nothing:not([hidden])")
    at.page.wait_for_function("() => document.getElementById('count').textContent === '6 done · 0 left'")


# A session that ends


def end_session(at: At) -> None:
    at.page.context.clear_cookies()


def sign_in_again(at: At, shown: str = ".response") -> None:
    at.page.click("#sign-in")
    at.page.wait_for_selector("[name=password]")
    at.page.fill("[name=login]", "ann")
    at.page.fill("[name=password]", PASSWORD)
    at.page.keyboard.press("Enter")
    at.page.wait_for_selector(shown)


def test_a_session_that_ends_says_so_and_loses_neither_answer_nor_draft(at: At) -> None:  # P3
    first, second = at.texts()
    end_session(at)
    answer(at.page, "2", "Enter")
    at.page.wait_for_selector("#ended[open]")
    assert "An answer is kept" in at.page.text_content("#ended")
    following = at.texts()
    sign_in_again(at)
    assert at.page.url == f"{at.base}/label/{at.project}"
    wait_stored(at.page, at.studio, at.project, 1)
    assert at.pairs() == {(second, first)}
    assert at.texts() == following
    # And in the middle of an item: what was typed is there after signing in.
    end_session(at)
    at.press("1", "r")
    at.page.keyboard.type("It is kinder.")
    at.page.wait_for_selector("#ended[open]")
    sign_in_again(at)
    assert at.texts() == following
    assert at.page.input_value("#rationale") == "It is kinder."
    assert at.page.locator(".response.chosen").get_attribute("data-place") == "0"


def test_a_page_from_before_signing_in_again_elsewhere_keeps_its_answer(at: At) -> None:  # P3
    """Its token is the old session's, so the answer is refused; the page is loaded again and sends it."""
    first, second = at.texts()
    account = accounts.password_fits(at.studio, "ann", PASSWORD)
    assert account is not None
    cookie = accounts.open_session(at.studio, account)
    at.page.context.add_cookies([{"name": "prefloop_session", "value": cookie, "url": at.base}])
    answer(at.page, "2", "Enter")
    at.page.wait_for_selector("#ended[open]")
    assert "from another session" in at.page.text_content("#ended")
    at.page.click("#load-again")
    wait_stored(at.page, at.studio, at.project, 1)
    assert at.pairs() == {(second, first)}


def test_a_chat_whose_session_ends_keeps_the_message_and_the_choice(
    studio: Studio, browser: Any
) -> None:  # P3
    project = studio.create_project(ProjectSettings(name="talk", kind="chat")).id
    with served(studio, chat=ChatWork(studio, [Talker()])) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector("#composer:not([hidden])")
        at = At(page, watch, base, studio, project)
        page.keyboard.type("Hello")
        end_session(at)
        page.keyboard.press("Enter")
        page.wait_for_selector("#ended[open]")
        assert "Your unfinished work is kept" in page.text_content("#ended")
        sign_in_again(at, "#composer:not([hidden])")
        assert page.input_value("#message") == "Hello"
        page.keyboard.press("Enter")
        page.wait_for_selector(".response")
        at.press("2")
        chosen = page.text_content(".response.chosen .text")
        end_session(at)
        at.press("Enter")
        page.wait_for_selector("#ended[open]")
        assert "An answer is kept" in page.text_content("#ended")
        sign_in_again(at, "#composer:not([hidden])")
        page.wait_for_selector("#said .turn.assistant")
        assert page.locator("#said .text").all_text_contents() == ["Hello", chosen]
        (pair,) = at.pairs()
        assert pair[0] == chosen
        assert page.input_value("#message") == ""
        # Another conversation, where nobody is signed in any more: that is said too.
        end_session(at)
        page.click("#new-chat")
        page.wait_for_selector("#ended[open]")
        assert watch.wrong == []
        page.context.close()


def by_a_proxy(status: int) -> Callable[[Any], None]:
    """A route that is answered on the way."""
    return lambda route: route.fulfill(
        status=status, content_type="text/html", body="<h1>A page of a proxy</h1>"
    )


def test_what_is_not_the_studios_answer_is_none(at: At) -> None:  # P3
    """A proxy's or a network's own page, with status 200: the answer stays kept until the studio has said that it is stored."""
    first, second = at.texts()
    at.page.route("**/submit", by_a_proxy(200))
    answer(at.page, "2", "Enter")
    at.page.wait_for_selector("#saved.waiting")
    assert at.studio.progress([at.project])[at.project].submitted == 0
    at.page.unroute("**/submit")
    wait_stored(at.page, at.studio, at.project, 1)
    assert at.pairs() == {(second, first)}


def test_an_upload_that_fails_says_why_whoever_answers(at: At, tmp_path: Path) -> None:  # P3
    file = tmp_path / "more.jsonl"
    file.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    page, watch = new_page(at.page.context.browser, at.base)
    sign_in(page, at.studio, at.base, "boss", "admin")
    page.goto(f"{at.base}/admin/projects/{at.project}")
    for status, told in ((413, "larger than a proxy allows"), (418, "answered with status 418"), (200, "something other than the studio answered")):  # fmt: skip
        page.route("**/import?*", by_a_proxy(status))
        page.set_input_files("#import input[type=file]", file)
        page.click("#import button")
        page.wait_for_function(
            "told => document.getElementById('imported').textContent.includes(told)", arg=told
        )
        page.unroute("**/import?*")
    page.click("#import button")
    page.wait_for_function("() => document.getElementById('imported').textContent.includes('1 of them new')")
    assert watch.wrong == []
    page.context.close()


def test_an_upload_with_column_names_of_its_own(at: At, tmp_path: Path) -> None:
    """What the reader says that it lacks can be typed in; what is left out is counted."""
    file = tmp_path / "odd.tsv"
    file.write_text("asked\tbetter\tworse\np\tc\tr\nq\tsame\tsame\n")
    page, watch = new_page(at.page.context.browser, at.base)
    sign_in(page, at.studio, at.base, "boss", "admin")
    page.goto(f"{at.base}/admin/projects/{at.project}")
    page.set_input_files("#import input[type=file]", file)
    page.click("#import button")
    contains = "told => document.getElementById('imported').textContent.includes(told)"
    page.wait_for_function(contains, arg="read it with columns chosen=better,rejected=worse")
    page.click("#import summary")
    page.fill("[name=columns]", "prompt=asked, chosen=better, rejected=worse")
    page.click("#import button")
    page.wait_for_function(contains, arg="1 of them new, 1 bad rows left out")
    assert all("422" in wrong for wrong in watch.wrong)
    page.context.close()


def test_ranks_are_gone_where_all_are_bad(studio: Studio, browser: Any) -> None:
    ids = fill(studio.store, 1, k=3, mark="k")
    project = studio.create_project(ProjectSettings(name="rank", kind="rank")).id
    studio.add_tasks(project, studio.store.add_items([ids], kind="rank"))
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector(".response")
        for key in ("ArrowDown", "2", "ArrowDown", "1", "0"):
            page.keyboard.press(key)
        assert page.locator(".rank-place").all_text_contents() == ["–"] * 3
        page.wait_for_timeout(1000)  # the draft is kept
        page.reload()
        page.wait_for_selector("[data-choice='both_bad'][aria-pressed='true']")
        assert page.locator(".rank-place").all_text_contents() == ["–"] * 3
        assert watch.wrong == []


def test_an_answer_on_a_connection_that_hangs_is_sent_again(at: At) -> None:
    first, second = at.texts()
    at.page.evaluate(
        "() => { const real = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (milliseconds) => real(milliseconds / 200); }"
    )
    at.page.route("**/submit", lambda route: None)  # neither answered nor refused
    answer(at.page, "1", "Enter")
    at.page.wait_for_selector("#saved.waiting")
    assert "the server does not answer" in at.page.text_content("#saved")
    at.page.unroute("**/submit")
    wait_saved(at.page)
    assert at.pairs() == {(first, second)}


def test_two_windows_keep_each_others_answers(at: At) -> None:  # P3
    fill(at.studio.store, 1, mark="other")
    project = at.studio.create_project(ProjectSettings(name="other")).id
    at.studio.add_tasks(project, at.studio.store.add_pairs().ids[-1:])
    other = at.page.context.new_page()
    other.goto(f"{at.base}/label/{project}")
    other.wait_for_selector(".response")
    other.wait_for_load_state("networkidle")
    for page in (at.page, other):
        page.route("**/submit", lambda route: route.abort())
        page.bring_to_front()
        page.keyboard.press("1")
        page.wait_for_selector(".response.chosen")
        page.keyboard.press("Enter")
        page.wait_for_selector("#saved.waiting")
    other.close()
    at.page.unroute("**/submit")
    wait_stored(at.page, at.studio, at.project, 1)
    at.page.reload()
    wait_stored(at.page, at.studio, project, 1)
