"""What the documentation says can be typed and followed: its commands are read by the command line, its links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from book.figures import FIGURES, FOLDER
from prefloop.cli.commands import find, load
from prefloop.cli.flags import read_flags
from prefloop.configs.load import load_config
from tests import long_sentences

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$|^((?:    .*\n)+)", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^ *(?:\w+=\S+ )?(?:torchrun --nproc-per-node \d+ -m )?prefloop (.*?)(?:  +#.*)?$")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of the blocks of code of a page; one that is indented is `sh`."""
    for block in _BLOCK.finditer(text):
        yield block.group(1) or "sh", block.group(2) or block.group(3)


def commands() -> list[tuple[str, str]]:
    """Page and arguments of every command shown in a block of its own."""
    return [
        (name, match.group(1))
        for name, page in zip(NAMES, PAGES, strict=True)
        for language, block in blocks(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if language == "sh" and (match := _COMMAND.match(line))
    ]


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_what_the_command_line_reads(page: str, command: str):
    if command.split()[0].startswith("--"):
        return  # of the program itself
    _, known, rest = find(shlex.split(command))
    settings = load(known.settings)
    flags = read_flags(rest, settings, positional=known.positional)
    if not flags.config:  # a file of settings would be one that a run has left
        load_config(settings, "", flags.given)


THREATS = re.findall(
    r"\[([^\]]+)\]\(\.\./(tests/[\w/]+\.py)\)", (ROOT / "docs/threats.md").read_text("utf-8")
)


@pytest.mark.parametrize(("words", "file"), THREATS)
def test_what_holds_a_threat_is_a_test(words: str, file: str) -> None:
    assert f"\ndef test_{words.replace(' ', '_')}(" in (ROOT / file).read_text("utf-8")


def test_there_are_commands():
    assert len(commands()) > 150


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_links_lead_to_files(page: Path):
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_on_the_map_and_in_the_book():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    book = yaml.safe_dump(yaml.safe_load((ROOT / "book" / "site.yml").read_text(encoding="utf-8"))["nav"])
    assert [name for name in NAMES if name != "index.md" and f"({name})" not in index] == []
    assert [name for name in NAMES if f": {name}\n" not in book and f"- {name}\n" not in book] == []


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_up_to_date(name: str):
    assert (FOLDER / name).read_text(encoding="utf-8") == FIGURES[name](), "run: python -m book.figures"


def test_sentences_are_short():
    found = [said for page in long_sentences.PAGES for said in long_sentences.long(page.read_text("utf-8"))]
    assert len(found) <= 8, "python -m tests.long_sentences lists them"
