"""What models write, as HTML: nothing in it acts, and nothing in it hides."""

import html
import re

import pytest

from prefloop.studio.render import markdown, plain, to_html
from tests.studio.hostile import HOSTILE


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
            "span",
            "div",
        }
    )
    for tag, attributes in tags:
        assert tag in allowed, made
        names = set(re.findall(r"""([\w-]+)\s*=\s*["']""", attributes))
        assert names <= {"class"} | (
            {"href", "rel", "target", "start", "dir"} if render == "markdown" else set()
        ), made
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


def math(text: str) -> list[tuple[str, str]]:
    """Formulas found in a text: display or not, and what they are."""
    made = re.findall(
        r'<(?:span|div) class="math( display)?">(.*?)</(?:span|div)>', to_html(text, "markdown"), re.S
    )
    return [(kind.strip(), html.unescape(inner)) for kind, inner in made]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"Let \(a_1 * b_2 * c\) be", [("", r"\(a_1 * b_2 * c\)")]),
        ("so\n\\[\na \\\\\n- b\n= c\n\\]\nthen", [("display", "\\[\na \\\\\n- b\n= c\n\\]")]),
        (r"$x_1$ and $$y$$", [("", "$x_1$"), ("display", "$$y$$")]),
        ("- one\n  $$\n  x < y\n  $$", [("display", "$$\nx < y\n$$")]),
        ("> \\[\n> x\n> \\]", [("display", "\\[\nx\n\\]")]),
        (
            "\\begin{align}\na &= b \\\\\nc\n\\end{align}",
            [("display", "\\begin{align}\na &= b \\\\\nc\n\\end{align}")],
        ),
        (r"\[x\] goes on", [("display", r"\[x\]")]),
        ("costs $5 and $6, US$7/US$8, $HOME and $PATH", []),
        (r"`\(code\)` and \(begun, \[a link\](https://example.org)", []),
        ("```\n\\(x\\)\n$$y$$\n```\n\n    \\[z\\]", []),
        (r"\$1\$ and \(\) and $ $", []),
    ],
)
def test_formulas_are_found_as_they_were_written(text: str, found: list[tuple[str, str]]) -> None:  # P4
    assert math(text) == found


def test_nothing_that_was_written_is_lost_around_formulas() -> None:  # P4
    made = to_html(
        "\\[x\\] goes on\n\n$$\ny\n$$ and on\n\n\\begin{align} z \\end{align} to the end", "markdown"
    )
    for part in ("goes on", "and on", "to the end"):
        assert part in made


def test_backslashes_that_are_not_markdowns_stay() -> None:  # P4
    assert (
        to_html(r"C:\\dir \{x\} \% \& a \\\\ b \(", "markdown")
        == "<p>C:\\\\dir \\{x\\} \\% \\&amp; a \\\\\\\\ b \\(</p>\n"
    )
    assert to_html(r"\*not so\* 1\. \#", "markdown") == "<p>*not so* 1. #</p>\n"


def test_a_line_ends_where_it_was_ended() -> None:  # P4
    assert to_html("one\ntwo\r\nthree", "markdown") == "<p>one<br>\ntwo<br>\nthree</p>\n"
    assert markdown("guidelines\nof a file") == "<p>guidelines\nof a file</p>\n"


def test_code_is_coloured_where_its_language_is_known_and_is_the_code_that_was_written() -> None:
    code = "\n  def f(x):\n\treturn '<b>'  \n"
    for name in ("python", "PY", "js", "c++", "no such language", ""):
        made = to_html(f"```{name}\n{code}```", "markdown")
        assert html.unescape(re.sub("<[^>]*>", "", made)).rstrip("\n") == code.rstrip("\n")
        assert ('<span class="' in made) == (name in ("python", "PY", "js", "c++"))
    assert "<span" not in to_html("```python\n" + "x = 1\n" * 20_000 + "```", "markdown")
