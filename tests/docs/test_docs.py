"""What the documentation says can be typed and followed: its commands are read by the command line, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from prefloop.cli.commands import find, load
from prefloop.cli.flags import read_flags
from prefloop.configs.load import load_config

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```sh\n(.*?)^```$|^((?:    .*\n)+)", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^ *(?:\w+=\S+ )?(?:torchrun --nproc-per-node \d+ -m )?prefloop (.*?)(?:  +#.*)?$")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def commands() -> list[tuple[str, str]]:
    """Page and arguments of every command shown in a block of its own."""
    return [
        (page.name, match.group(1))
        for page in PAGES
        for block in _BLOCK.finditer(page.read_text(encoding="utf-8"))
        for line in (block.group(1) or block.group(2)).splitlines()
        if (match := _COMMAND.match(line))
    ]


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_what_the_command_line_reads(page: str, command: str):
    _, known, rest = find(shlex.split(command))
    settings = load(known.settings)
    flags = read_flags(rest, settings, positional=known.positional)
    if not flags.config:  # a file of settings would be one that a run has left
        load_config(settings, "", flags.given)


def test_there_are_commands():
    assert len(commands()) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path):
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_on_the_map():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.name != "index.md" and f"({page.name})" not in index] == []
