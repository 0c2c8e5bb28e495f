"""What is built is whole: every link of the site leads to a page and a place on it, and no page loads anything from a network."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("object", "data"),
}
_NOT_LOADED = {"canonical", "next", "prev", "alternate"}
"""Kinds of `link` that name a page and load nothing."""


class _Page(HTMLParser):
    """Links, what is loaded, and the places that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if given.get("rel") not in _NOT_LOADED:
            self.loaded += [value for name, value in given.items() if (tag, name) in _LOADED]


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a site, a line each."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    if not pages:
        yield f"{site}: no page was built"
    for path, page in pages.items():
        if path.name == "404.html":  # its links are from the root of a server
            continue
        where = path.relative_to(site)
        yield from (f"{where}: loads {each} from a network" for each in page.loaded if urlsplit(each).netloc)
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{where}: {link} leads nowhere"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                yield f"{where}: {link} leads to no place on its page"
