"""Texts of prompts and completions as HTML. They are written by models and strangers, so nothing in them is trusted.

Plain text is escaped and nothing else. Markdown is rendered without HTML, code in colours, formulas found, then passed through an allow-list; images are
left out, because loading one tells its server who is looking, and links do not say where they were followed from; those of the store
are shown where their marks stand (`marks.py`). Characters that are invisible, or that turn the
direction of writing round, are shown by their number: they can make a text look like another one.
"""

import html
import re

import nh3
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

from prefloop.marks import ImageMark, in_words, split
from prefloop.studio.formulas import with_formulas

ODD = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"),
    *("span", "div"),
}
_LANGUAGES = frozenset(
    [
        "bash",
        "c",
        "c++",
        "c#",
        "clojure",
        "css",
        "dart",
        "diff",
        "docker",
        "elixir",
        "erlang",
        "fortran",
        "go",
        "graphql",
        "haskell",
        "html",
        "ini",
        "java",
        "javascript",
        "json",
        "jsx",
        "julia",
        "kotlin",
        "lua",
        "make",
        "matlab",
        "nasm",
        "nix",
        "objective-c",
        "ocaml",
        "perl",
        "php",
        "powershell",
        "prolog",
        "protobuf",
        "python",
        "r",
        "ruby",
        "rust",
        "scala",
        "scheme",
        "scss",
        "sql",
        "swift",
        "tcl",
        "tex",
        "toml",
        "tsx",
        "typescript",
        "verilog",
        "vhdl",
        "vim",
        "xml",
        "yaml",
        "zig",
    ]
)
"""Languages whose code is coloured. Not every lexer: the expressions of the rare ones have been made to run for hours by a text."""
_CLASSES = {"math", "display", *STANDARD_TYPES.values()} - {""}
_LONGEST_CODE = 50_000
"""Characters of code that is coloured."""


def _coloured(code: str, language: str, _: str) -> str:
    """Code as spans with Pygments' classes; empty, so that it is only escaped, where its language is not known."""
    name = language.lower()
    if len(code) > _LONGEST_CODE or not name:
        return ""
    try:
        lexer = get_lexer_by_name(name, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return ""
    if not _LANGUAGES & {lexer.name.lower(), *lexer.aliases}:
        return ""
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def _reader(*, breaks: bool) -> MarkdownIt:
    reader = MarkdownIt(
        "commonmark", {"html": False, "linkify": False, "breaks": breaks, "highlight": _coloured}
    )
    return with_formulas(reader.enable(["table", "strikethrough"]).disable("image"))


_said, _written = _reader(breaks=True), _reader(breaks=False)


SHOWN_WIDTH, SHOWN_HEIGHT = 640, 384
"""Pixels of an image on a page, at most; it is enlarged by hand."""


def to_html(text: str, render: str, images: str = "") -> str:
    """A text as safe HTML: `plain`, to be shown with `white-space: pre-wrap`, or `markdown`, in which a line's end is one.

    `images`: the address under which the item's images are, by their hashes. Without it they are told in words.
    """
    pieces = split(text) if images else [in_words(text)]
    return "".join(
        _picture(piece, images) if isinstance(piece, ImageMark) else _text(piece, render) for piece in pieces
    )


def _text(text: str, render: str) -> str:
    return _clean(_said, text) if render == "markdown" else plain(text)


def _picture(mark: ImageMark, images: str) -> str:
    """An image, as `static/pictures.js` makes it too."""
    scale = min(1.0, SHOWN_WIDTH / max(1, mark.width), SHOWN_HEIGHT / max(1, mark.height))
    width, height = (max(1, round(side * scale)) for side in (mark.width, mark.height))
    alt = ODD.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", mark.alt)
    says = f'<figcaption dir="auto">{html.escape(alt)}</figcaption>' if alt else ""
    return (
        f'<figure class="picture"><img src="{html.escape(images)}/{mark.sha256}" alt="{html.escape(alt) or "Image"}" width="{width}" '
        f'height="{height}" loading="lazy" decoding="async">{says}</figure>'
    )


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
    """Guidelines, whose lines may be wrapped as in a file: rendered, then cleaned by allow-list."""
    return _clean(_written, text)


def _clean(reader: MarkdownIt, text: str) -> str:
    visible = ODD.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text.replace("\r\n", "\n"))
    return nh3.clean(
        reader.render(visible),
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        allowed_classes={"span": _CLASSES, "div": _CLASSES},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        # Where the numbers of a list stand follows its own first letter; paragraphs do so by the style sheet.
        set_tag_attribute_values={"a": {"target": "_blank"}}
        | {tag: {"dir": "auto"} for tag in ("ul", "ol", "blockquote", "table")},
    )
