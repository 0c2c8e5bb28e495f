"""Pages of the site: those of docs/ with their links turned to the site, and the source files that they link to."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that the repository keeps outside docs/, and their names on the site."""

_FENCE = re.compile(r"^ *```")
_LINK = re.compile(r"\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")
_HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"


def write_pages(site: Path) -> None:
    """Copy docs/, with every link that leads out of it turned to a page of the site."""
    shutil.copytree(DOCS, site)
    for name, page in ELSEWHERE.items():
        if page != "index.md":
            shutil.copy(REPOSITORY / name, site / page)
    sources: set[PurePosixPath] = set()
    for page in sorted(site.rglob("*.md")):
        of = page.relative_to(site).as_posix()
        home = next(
            (name for name, moved in ELSEWHERE.items() if moved == of and of != "index.md"), f"docs/{of}"
        )
        text = page.read_text(encoding="utf-8")
        page.write_text(_turned(text, PurePosixPath(of), PurePosixPath(home), sources), encoding="utf-8")
    write_sources(sources, site)


def _turned(text: str, page: PurePosixPath, home: PurePosixPath, sources: set[PurePosixPath]) -> str:
    """The text of a page whose file in the repository is `home`. Source files that it links to are added to `sources`."""

    def turn(link: re.Match[str]) -> str:
        target, fragment = link.groups()
        if "://" in target or target.startswith("mailto:"):
            return link.group()
        path = PurePosixPath(os.path.normpath(home.parent / target))
        if not (REPOSITORY / path).exists():
            return link.group()  # the check of the links names it
        if path.parts[0] == "docs":
            there = path.relative_to("docs")
        elif path.as_posix() in ELSEWHERE:
            there = PurePosixPath(ELSEWHERE[path.as_posix()])
        else:
            sources.add(path)
            there, fragment = page_of(path), ""
        return f"]({os.path.relpath(there, page.parent)}{fragment})"

    inside, lines = False, []
    for line in text.split("\n"):
        inside ^= bool(_FENCE.match(line))
        lines.append(line if inside else _LINK.sub(turn, line))
    return "\n".join(lines)


def page_of(path: PurePosixPath) -> PurePosixPath:
    """The page that shows a source file or a folder."""
    return (
        PurePosixPath("source", f"{path}.md")
        if (REPOSITORY / path).is_file()
        else PurePosixPath("source", path, "index.md")
    )


def write_sources(sources: set[PurePosixPath], site: Path) -> None:
    """A page for every source file that is linked to, and for every folder with its files."""
    for path in sorted(sources | {file for folder in sources for file in _files(folder)}):
        page = site / page_of(path)
        page.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / path).is_dir():
            files = [f"- [`{file.name}`]({file.name}.md)" for file in _files(path)]
            page.write_text(f"{_HIDDEN}# `{path}/`\n\n" + "\n".join(files) + "\n", encoding="utf-8")
        else:
            text = (REPOSITORY / path).read_text(encoding="utf-8").rstrip()
            language = {".py": "python", ".toml": "toml"}.get(path.suffix, "text")
            page.write_text(f"{_HIDDEN}# `{path}`\n\n````{language}\n{text}\n````\n", encoding="utf-8")


def _files(folder: PurePosixPath) -> Iterator[PurePosixPath]:
    if (REPOSITORY / folder).is_dir():
        yield from (
            folder / file.name for file in sorted((REPOSITORY / folder).glob("*.py")) if file.stat().st_size
        )
