"""What is to be read, in a real browser: formulas, code, long lines, writing from right to left, the text as written; and buttons for what has keys."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefloop.data.store import Store
from prefloop.records import Message, Prompt
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.accessible import problems
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.made import completion

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
PHONE: Any = {"width": 390, "height": 844}
WIDE: Any = {"width": 1280, "height": 800}
TEXTS = {
    "formulas": (
        "Is \\(x^2\\) even?",
        "Let \\(a_1\\).\nThen\n\\[\n\\frac{1}{2} \\\\\n- b\n\\]\n\n```python\ndef f(x):\n    return 1\n```",
        "It is $\\frac{1}{$, and \\(\\color{red}{x}\\). C:\\\\dir",
    ),
    "long": (
        "Which line?",
        "```\n" + "y = " + "z" * 3000 + "\n```",
        "w" * 3000 + " \\[" + "+ x" * 900 + "\\]",
    ),
    "from the right": ("מה עושים?", "שלום (1)\n\nThen English.", "1. אחת\n2. שתיים"),
    "odd": ("Who?", "user\u202egpj.exe", "user exe"),
}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def opened_at(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """A function that opens a page on the texts of a name, in a project of a kind."""
    with Store.open(tmp_path_factory.mktemp("reading") / "s.db") as store:
        studio = Studio(store)
        checkpoint = store.add_checkpoint("secret-policy-7b")
        projects: dict[tuple[str, str, str], int] = {}
        for name, (prompt, *replies) in TEXTS.items():
            asked = Prompt(content=(Message(role="user", content=prompt),))
            ids = store.add_completions(
                [completion(asked, text, side) for side, text in enumerate(replies)], checkpoint
            )
            items = {
                "pair": store.add_items([ids], kind="pair")[0],
                "rank": store.add_items([ids], kind="rank")[0],
                "edit": store.add_items([ids[:1]], kind="single")[0],
            }
            for kind, item in items.items():
                for render in ("plain", "markdown"):
                    made: Any = {
                        "kind": kind,
                        "render": render,
                        "overlap": 9,
                        "name": f"{name} {kind} {render}",
                    }
                    projects[name, kind, render] = studio.create_project(ProjectSettings(**made)).id
                    studio.add_tasks(projects[name, kind, render], [item])
        with served(studio) as base:
            page, watch = new_page(browser, base)
            page.emulate_media(reduced_motion="reduce")
            sign_in(page, studio, base, "ann", "admin")

            def go(name: str, kind: str = "pair", render: str = "markdown", size: Any = WIDE) -> Any:
                page.set_viewport_size(size)
                page.goto(f"{base}/label/{projects[name, kind, render]}")
                page.wait_for_selector(".response")
                return page

            go.studio, go.base, go.projects = studio, base, projects  # type: ignore[attr-defined]
            yield go
            assert watch.wrong == []
            page.context.close()


def draw(page: Any, count: int) -> None:
    """Wait until so many formulas are drawn."""
    page.wait_for_function(f"() => document.querySelectorAll('.math.drawn .katex').length === {count}")


def test_formulas_are_drawn_and_code_is_coloured_with_nothing_from_elsewhere(opened_at: Open) -> None:
    page = opened_at("formulas")
    draw(page, 4)
    page.wait_for_function(
        "() => [...document.fonts].some((font) => font.family.startsWith('KaTeX') && font.status === 'loaded')"
    )
    # A fraction is drawn over more than a line's height, in KaTeX's own font; two lines of the formula stay two.
    box = page.evaluate("document.querySelector('.math.display .mfrac').getBoundingClientRect().height")
    assert box > 20
    whole = page.evaluate("document.querySelector('.math.display').getBoundingClientRect().height")
    assert whole > box + 20
    # What KaTeX cannot read stays as it was written.
    assert page.locator(".math:not(.drawn)").all_text_contents() == ["$\\frac{1}{$"]
    ink = page.evaluate("getComputedStyle(document.querySelector('pre .k')).color")
    assert ink != page.evaluate("getComputedStyle(document.querySelector('pre')).color")


def test_a_text_is_shown_as_it_was_written_by_a_key_and_by_a_button(opened_at: Open) -> None:
    page = opened_at("formulas")
    draw(page, 4)
    written = {TEXTS["formulas"][1], TEXTS["formulas"][2]}
    page.keyboard.press("w")
    assert set(page.locator(".response .text").all_text_contents()) == written
    assert page.text_content("#prompt .text") == TEXTS["formulas"][0]
    button = page.locator("#views [data-do='written']")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    draw(page, 4)
    # Plain text is shown as it was written anyway.
    page = opened_at("formulas", render="plain")
    assert page.locator("#views [data-do='written']").count() == 0
    assert set(page.locator(".response .text").all_text_contents()) == written
    page = opened_at("odd")
    page.keyboard.press("w")
    assert "user U+202E gpj.exe".replace(" ", "") in "".join(
        page.locator(".response .text").all_text_contents()
    )
    page.keyboard.press("d")
    assert page.locator(".response .odd").count() == 1


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("kind", ["pair", "rank", "edit"])
def test_a_long_line_does_not_push_anything_off_the_screen(opened_at: Open, kind: str, size: Any) -> None:
    for render in ("markdown", "plain"):
        page = opened_at("long", kind, render, size)
        for key in ("", "w", "d"):
            if key:
                page.keyboard.press(key)
            assert page.evaluate("document.documentElement.scrollWidth") == size["width"], (render, key)
            for card in page.locator(".response").all():
                box = card.bounding_box()
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= size["width"]


def test_a_long_line_can_be_read_by_scrolling_its_block(opened_at: Open) -> None:
    page = opened_at("long")
    draw(page, 1)
    for block in ("pre", ".math.display"):
        wide, shown = page.evaluate(
            f"(() => {{ const node = document.querySelector('.response {block}'); return [node.scrollWidth, node.clientWidth]; }})()"
        )
        assert wide > 2 * shown
        assert (
            page.evaluate(f"getComputedStyle(document.querySelector('.response {block}')).overflowX")
            == "auto"
        )


@pytest.mark.parametrize("render", ["plain", "markdown"])
def test_every_text_of_a_person_or_a_model_has_its_own_direction(opened_at: Open, render: str) -> None:  # P4
    page = opened_at("from the right", render=render)
    for text in page.locator(".text:not(dialog .text), textarea").all():
        assert text.get_attribute("dir") == "auto"
    # The English paragraph of the same reply begins at the left, and the numbers of the list stand at the right.
    lines = page.evaluate(
        """() => [...document.querySelectorAll('.response')].flatMap((card) => {
          const found = [], box = card.getBoundingClientRect(), walk = document.createTreeWalker(card.querySelector('.text'), 4);
          while (walk.nextNode()) for (const line of walk.currentNode.data.split('\\n')) {
            if (!line.trim()) continue;
            const range = document.createRange(), at = walk.currentNode.data.indexOf(line);
            range.setStart(walk.currentNode, at); range.setEnd(walk.currentNode, at + line.length);
            const drawn = range.getBoundingClientRect();
            found.push([line.trim(), drawn.left - box.left < box.right - drawn.right ? 'left' : 'right']);
          }
          return found;
        })"""
    )
    sides = dict(lines)
    assert sides.pop("Then English.") == "left"
    assert len(sides) == 3
    assert set(sides.values()) == {"right"}
    if render == "markdown":
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.response ol')).paddingRight") == "40px"
        )


def test_reason_rewrite_and_difference_have_buttons_on_a_phone(opened_at: Open) -> None:
    page = opened_at("formulas", size=PHONE)
    for name in ("What differs", "As written", "Say why", "Rewrite response 1", "Rewrite response 2"):
        button = page.get_by_role("button", name=name)
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 32, name
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 390, name
    page.get_by_role("button", name="What differs").click()
    assert page.locator(".response ins").count() > 0
    page.get_by_role("button", name="What differs").click()
    assert page.locator(".response ins").count() == 0
    page.get_by_role("button", name="Say why").click()
    assert page.evaluate("document.activeElement.id") == "rationale"
    page.get_by_role("button", name="Rewrite response 2").click()
    assert page.evaluate("document.activeElement.id") == "edited"
    assert page.locator(".response.chosen").get_attribute("data-place") == "1"
    assert problems(page) == []
    page.emulate_media(color_scheme="dark")
    assert problems(page) == []
    page.emulate_media(color_scheme="light")


@pytest.mark.parametrize("kind", ["pair", "rank"])
def test_selecting_text_answers_nothing(opened_at: Open, kind: str) -> None:
    page = opened_at("odd", kind)
    words = page.locator(".response .text")
    for place in (0, 1):
        words.nth(place).dblclick(position={"x": 12, "y": 12})
        assert page.evaluate("getSelection().toString().trim()").startswith("user")
        box = words.nth(place).bounding_box()
        page.mouse.move(box["x"] + 2, box["y"] + 12)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 12, steps=4)
        page.mouse.up()
        assert "user".startswith(page.evaluate("getSelection().toString().slice(0, 4)"))
        assert page.evaluate("getSelection().toString().length") > 2
    assert page.locator(".response.chosen, [aria-pressed='true']").count() == 0
    assert page.is_disabled("#submit")


def test_who_decides_reads_formulas_and_the_text_as_written(opened_at: Open) -> None:
    studio, project = opened_at.studio, opened_at.projects["formulas", "pair", "markdown"]  # type: ignore[attr-defined]
    for login, better in (("p1", 1), ("p2", 2)):
        who = studio.store.add_annotator(login)
        got = studio.lease(project, who)
        at: Any = ("first", "second")[got.completions.index(TEXTS["formulas"][better])]
        studio.submit(got.token, who, Answer(choice=at), key="12345678")
    page = opened_at("odd")
    page.goto(f"{opened_at.base}/adjudicate?project={project}")  # type: ignore[attr-defined]
    draw(page, 4)
    page.keyboard.press("w")
    shown = page.locator(".case-responses .text:visible").all_text_contents()
    assert set(shown) == {TEXTS["formulas"][1], TEXTS["formulas"][2]}
    assert page.evaluate(
        "[...document.querySelectorAll('.text, textarea, blockquote')].every((each) => each.dir === 'auto')"
    )
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
