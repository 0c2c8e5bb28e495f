"""What models write, as HTML: nothing in it acts, and nothing in it hides."""

import re

import pytest

from prefloop.feedback.studio.render import markdown, plain, to_html
from tests.feedback.studio.hostile import HOSTILE


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("render", ["plain", "markdown"])
def test_no_hostile_text_makes_an_element_that_acts(text: str, render: str) -> None:
    made = to_html(text, render)
    tags = re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)([^>]*)>", made)
    allowed = (
        {"span"}
        if render == "plain"
        else {
            "p",
            "br",
            "hr",
            "em",
            "strong",
            "s",
            "code",
            "pre",
            "blockquote",
            "ul",
            "ol",
            "li",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "a",
        }
    )
    for tag, attributes in tags:
        assert tag in allowed, made
        names = set(re.findall(r"""([\w-]+)\s*=\s*["']""", attributes))
        assert names <= {"class"} | ({"href", "rel", "target", "start"} if render == "markdown" else set()), (
            made
        )
        for link in re.findall(r'href="([^"]*)"', attributes):
            assert link.lower().startswith(("http:", "https:", "mailto:", "/", "#")) or ":" not in link, made


def test_plain_text_is_only_escaped() -> None:
    assert plain("<b>1 & 2</b>\n'\"") == "&lt;b&gt;1 &amp; 2&lt;/b&gt;\n&#x27;&quot;"


@pytest.mark.parametrize("odd", ["\u202e", "\u200b", "\x00", "\u2066", "\ufeff", "\U000e0041"])
def test_invisible_characters_are_shown(odd: str) -> None:
    name = f"U+{ord(odd):04X}"
    assert plain(f"a{odd}b") == f'a<span class="odd">{name}</span>b'
    assert name in markdown(f"a{odd}b")
    assert odd not in markdown(f"a{odd}b")


def test_writing_from_right_to_left_and_emoji_stay_as_they_are() -> None:
    for text in ("שלום", "مرحبا", "👩‍👩‍👧 ok", "é"):
        assert plain(text) == text


def test_images_are_left_out_and_links_do_not_tell_where_they_were_followed() -> None:
    made = markdown("![x](https://evil.example/pixel.png) [y](https://example.org)")
    assert "<img" not in made
    assert 'rel="noopener noreferrer nofollow"' in made


def test_markdown_reads_well() -> None:
    made = markdown("# Title\n\n1. **one**\n2. `two`\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    for part in ("<h1>Title</h1>", "<strong>one</strong>", "<code>two</code>", "<td>2</td>"):
        assert part in made
