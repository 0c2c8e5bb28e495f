"""Sentences of the documentation that are over 40 words long: `python -m tests.long_sentences [PAGE ...]` lists and counts them.

Sentences are counted in paragraphs, lists and cells of tables, from five words on. Code in backticks is one word.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
_END = re.compile(r"(?<=[.!?])[)\"'*]*\s+(?=[A-Z(`*\d\"'])|(?<=[.!?])$")
LEAST, MOST = 5, 40
_STOPS = re.compile(r"\b(?:e\.g|i\.e|eqs?|secs?|figs?|vs|cf|no|al)\.$")


def sentences(text: str) -> Iterator[str]:
    """Those of a page of Markdown, without its code."""
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        if token.type != "inline":
            continue
        said = "".join(
            "`c`" if piece.type == "code_inline" else " " if piece.type == "softbreak" else piece.content
            for piece in token.children or ()
        )
        begun = ""
        for piece in _END.split(said):
            begun = f"{begun} {piece}".strip()
            if not _STOPS.search(begun):
                yield begun
                begun = ""
        yield begun


def long(text: str) -> list[str]:
    """Sentences of a page that are over the limit."""
    return [said for said in sentences(text) if len(said.split()) > MOST]


def main(pages: Sequence[Path]) -> None:
    """Print them, page by page, and how many there are."""
    count = total = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = long(text)
        count, total = count + len(found), total + sum(len(said.split()) >= LEAST for said in sentences(text))
        for said in found:
            print(f"{page.name} ({len(said.split())} words): {said}\n")
    print(f"{count} of {total} sentences have over {MOST} words")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or PAGES)
