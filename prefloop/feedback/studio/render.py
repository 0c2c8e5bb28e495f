"""Texts of prompts and completions as HTML. They are written by models and strangers, so nothing in them is trusted.

Plain text is escaped and nothing else. Markdown is rendered without HTML, then passed through an allow-list; images are left out, because loading one
tells its server who is looking, and links do not say where they were followed from. Characters that are invisible, or that turn the
direction of writing round, are shown by their number: they can make a text look like another one.
"""

import html
import re

import nh3
from markdown_it import MarkdownIt

ODD = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"),
}
_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
_markdown.disable("image")


def to_html(text: str, render: str) -> str:
    """A text as safe HTML: `plain`, to be shown with `white-space: pre-wrap`, or `markdown`."""
    return markdown(text) if render == "markdown" else plain(text)


def plain(text: str) -> str:
    """Escaped, odd characters visible."""
    pieces: list[str] = []
    end = 0
    text = text.replace("\r\n", "\n")
    for match in ODD.finditer(text):
        pieces.append(html.escape(text[end : match.start()]))
        pieces.append(f'<span class="odd">U+{ord(match.group()):04X}</span>')
        end = match.end()
    pieces.append(html.escape(text[end:]))
    return "".join(pieces)


def markdown(text: str) -> str:
    """Rendered, then cleaned by allow-list."""
    visible = ODD.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text.replace("\r\n", "\n"))
    return nh3.clean(
        _markdown.render(visible),
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
