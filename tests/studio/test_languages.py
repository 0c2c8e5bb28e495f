"""The pages of annotators in other languages: nothing unmarked, every catalogue complete, and whole from right to left."""

import re
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.studio import languages
from prefloop.studio.languages import (
    HERE,
    LANGUAGES,
    SCRIPTS,
    SERVER,
    TEMPLATES,
    catalogue,
    choose,
    messages,
    read_po,
    words,
)
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.web import Person, client_of

OTHERS = [code for code in LANGUAGES if code != "en"]
FORMS = {"de": 2, "es": 2, "zh": 1, "ar": 6}
SAME_EVERYWHERE = ("prefloop", "Esc", "UTC", "Authorization: Bearer")
"""Names, keys and code."""
NO_WORDS = re.compile(
    r"([a-z]+,?[ -]?){1,3}|prefloop .*|(Shift\+)?(Arrow\w*|Enter|Esc(ape)?|Backspace)?|GET|POST|PUT|U\+|[A-Z][\w-]*-[\w-]+|application/json|TimeoutError|AbortError|Digit.*"
)
"""What strings of scripts say to programs: classes, keys, methods, headers."""


@pytest.mark.parametrize("language", OTHERS)
def test_every_catalogue_is_complete(language: str) -> None:
    """The same messages, none empty, each with the same places for values, and a text for every form of a number."""
    texts, counted = messages()
    found = catalogue(language)
    assert sorted(found.texts) == sorted(texts)
    assert sorted(found.counted) == sorted(counted)
    for message, text in found.texts.items():
        assert text.strip(), message
        assert _places(text) == _places(message), message
    for one, forms in found.counted.items():
        assert len(forms) == FORMS[language], one
        assert all(_places(text) <= _places(counted[one]) for text in forms), one


def _places(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_text_of_a_template_is_marked(name: str) -> None:
    assert _unmarked_html((HERE / f"templates/{name}.html").read_text("utf-8")) == []


def _unmarked_html(source: str) -> list[str]:
    """Texts and spoken attributes with letters outside of Jinja's brackets."""
    source = re.sub(r"\{% block body_class %\}.*", "", source)
    plain = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", source, flags=re.DOTALL)
    spoken = re.findall(r'(?:aria-label|placeholder|title|alt)="([^"]*)"', plain)
    found = [text.strip() for text in [*re.sub(r"<[^>]*>", "\n", plain).split("\n"), *spoken]]
    for same in SAME_EVERYWHERE:
        found = [text.replace(same, "") for text in found]
    # A language's quoted strings inside Jinja are looked at too: what a page would say by itself.
    inside = re.findall(r"\{\{(.*?)\}\}", source, flags=re.DOTALL)
    marked = re.compile(r'\b_\("(?:[^"\\]|\\.)*"')
    said = [
        text for part in inside for text in re.findall(r'"([A-Z][a-z][^"]* ?[^"]*)"', marked.sub("", part))
    ]
    return [text for text in [*found, *said] if re.search(r"[A-Za-z]{2,}", text)]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "pages.js"])
def test_every_text_of_a_script_is_marked(name: str) -> None:
    """`pages.js` is of the admin's pages too, which are English."""
    assert _unmarked_script((HERE / "static" / name).read_text("utf-8")) == []


def _unmarked_script(source: str) -> list[str]:
    source = re.sub(r"(?m)(^|\s)//.*$|/\*.*?\*/|^(?:import|export) .* from .*$", "", source)
    string = r'"(?:[^"\\\n]|\\.)*"'
    source = re.sub(rf"\b(?:t|n)\({string}(?:, {string})?", "", source)
    found = [text[1:-1] for text in re.findall(string, source)]
    found += [re.sub(r"\$\{[^{}]*\}", "", text) for text in re.findall(r"`([^`]*)`", source)]
    return [
        text
        for text in found
        if re.search(r"[A-Z][a-z]{2}|[a-z]{2,},? [a-z]{2,}", text)
        and not NO_WORDS.fullmatch(text.strip())
        and not re.search(r"[#/\[<=_.:]\w|^\.", text)
    ]


def test_a_text_that_is_not_marked_is_found() -> None:
    assert _unmarked_html('<p>Hello there</p><b aria-label="Close it">{{ _("Fine") }}</b>') == [
        "Hello there",
        "Close it",
    ]
    assert _unmarked_html('{{ "Say this" if x else _("And that") }}') == ["Say this"]
    assert _unmarked_script('say("Not this"); say(t("But this")); make("p", { class: "muted small" });') == [
        "Not this"
    ]
    assert _unmarked_script("say(`Rank ${rank}`);") == ["Rank "]


def test_what_the_server_puts_together_is_in_the_catalogue() -> None:
    """A sentence that is changed where it is written must be changed here too."""
    source = "".join(path.read_text("utf-8") for path in HERE.glob("*.py") if path.name != "languages.py")
    for message in SERVER:
        for part in re.split(r"\{\w+\}", message):
            assert part.removeprefix(" is ") in source, message


@pytest.mark.parametrize(
    ("setting", "accepted", "language"),
    [
        ("", "", "en"),
        ("auto", "de-AT,de;q=0.9,en;q=0.8", "de"),
        ("", "fr,es;q=0.5,en;q=0.7", "en"),
        ("", "ar-EG, zh;q=0", "ar"),
        ("", "zh-Hant-TW", "zh"),
        ("es", "de", "es"),
        ("xx", "tlh;q=nonsense,,;q=,de", "de"),
    ],
)
def test_the_language_is_the_persons_then_the_browsers(setting: str, accepted: str, language: str) -> None:
    assert choose(setting, accepted) == language


def test_sentences_of_the_server_are_translated_and_those_of_people_stay() -> None:
    german = words("de")
    assert german.said("1 is much better") == "1 ist viel besser"
    told = german.said("You have given today's 20 answers here. You can continue at midnight UTC.")
    assert (
        told
        == "Sie haben hier die 20 Bewertungen von heute gegeben. Um Mitternacht UTC können Sie weitermachen."
    )
    assert german.said("Take a break! Thank you.") == "Take a break! Danke."
    assert words("en").said("1 is better") == "1 is better"


def test_a_bad_catalogue_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "xx.po"
    path.write_text('msgid "a"\nmsgstr "b\n')
    with pytest.raises(InputError, match=r"xx\.po:2: not a line of a gettext catalogue"):
        read_po(path)


def test_pages_are_served_in_the_language_asked_for(studio: Studio) -> None:
    door = client_of(studio)
    page = door.get("/login", headers={"Accept-Language": "ar,en;q=0.5"}).text
    assert '<html lang="ar" dir="rtl"' in page
    ann = Person(studio, "ann")
    assert ann.send("PUT", "/me/settings", {"language": "de"}).status_code == 204
    page = ann.client.get("/", headers={"Accept-Language": "es"}).text
    assert '<html lang="de" dir="ltr"' in page
    assert "Noch nichts zu bewerten" in page
    assert ann.send("PUT", "/me/settings", {"language": "xx"}).status_code == 422
    boss = Person(studio, "boss", "admin", client=ann.client)
    page = boss.client.get("/admin", headers={"Accept-Language": "de"}).text
    assert '<html lang="en" dir="ltr"' in page


def test_no_catalogue_text_acts_in_a_page(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """A translator's text is escaped as any other, also where scripts get it."""
    hostile = languages.Words("de")
    monkeypatch.setattr(hostile, "_of", languages.Catalogue(texts={"Good": "</script><b>", "Label": "<b>"}))
    monkeypatch.setattr(languages, "words", lambda _: hostile)
    page = client_of(studio).get("/login", headers={"Accept-Language": "de"}).text
    assert "</script><b>" not in page
    assert "\\u003c/script>" in page


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())
@pytest.mark.parametrize("language", ["de", "ar"])
def test_somebody_works_in_their_language(
    studio: Studio, browser: Any, language: str, tmp_path: Path
) -> None:
    """By keyboard, from the first item to the history. The first response is where one begins to read, and its arrow points there."""
    project = studio.create_project(ProjectSettings(name="Helpful?", strength_levels=2)).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    text = words(language)
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.set_extra_http_headers({"Accept-Language": language})
        page.goto(f"{base}/label/{project}")
        page.wait_for_selector("#stage[data-shown]")
        assert page.inner_text("#ask") == text("Which response is better?")
        assert page.locator("html").get_attribute("dir") == text.direction
        first, second = (page.locator(f'[data-place="{at}"]').bounding_box() for at in (0, 1))
        assert (first["x"] > second["x"]) == (text.direction == "rtl")
        page.keyboard.press("ArrowRight" if text.direction == "rtl" else "ArrowLeft")
        assert text("better") in page.inner_text('[data-place="0"] .mark')
        page.screenshot(path=tmp_path / f"{language}.png")
        turns = "import('/static/words.js').then((m) => [0, 1, 2, 3, 11, 100].map((c) => m.n('{n} turn', '{n} turns', c)))"
        assert (
            page.evaluate(turns)
            == {
                "de": ["0 Runden", "1 Runde", "2 Runden", "3 Runden", "11 Runden", "100 Runden"],
                "ar": ["لا جولات", "جولة واحدة", "جولتان", "3 جولات", "11 جولة", "100 جولة"],
            }[language]
        )
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        with page.expect_response("**/submit"):
            page.keyboard.press("Enter")
        page.locator("#saved", has_text=text("saved")).wait_for()
        page.goto(f"{base}/history")
        assert text.said("1 is better") in page.inner_text("main")
        assert watch.wrong == []
