"""The reference of commands: a page for each, with every setting, from the dataclasses of the settings."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from prefloop.cli.commands import Command, commands, load
from prefloop.cli.help import metavar, sections
from prefloop.configs.names import short_names

_SHARED = 4
"""A group of settings that so many commands have is searched for on the page of shared settings, not on each of theirs."""


def write_commands(folder: Path) -> list[dict[str, str]]:
    """Write the pages into a folder. Returns their entries in the navigation."""
    folder.mkdir(parents=True)
    known = {name: (command, load(command.settings)) for name, command in commands().items()}
    groups = Counter(title for _, cls in known.values() for title, _, _ in sections(cls, "", "", None))
    shared = {title for title, count in groups.items() if title and count >= _SHARED}
    for name, (command, cls) in known.items():
        (folder / f"{file_of(name)}.md").write_text(_page(name, command, cls, shared), encoding="utf-8")
    (folder / "settings.md").write_text(_shared_page(known, shared), encoding="utf-8")
    (folder / "index.md").write_text(_overview(known), encoding="utf-8")
    names = {
        "All commands": "index",
        "Shared settings": "settings",
        **{name: file_of(name) for name in known},
    }
    return [{title: f"reference/commands/{file}.md"} for title, file in names.items()]


def file_of(name: str) -> str:
    """Name of a command's page."""
    return name.replace(" ", "-").replace("+", "p")


def _overview(known: dict[str, tuple[Command, Any]]) -> str:
    rows = [
        f"| [`prefloop {name}`]({file_of(name)}.md) | {command.summary} |"
        for name, (command, _) in known.items()
    ]
    head = "# Commands\n\nEvery command with its settings, written from the code. `prefloop COMMAND --help` prints the same."
    return "\n".join([head, "", "| command | what it does |", "| --- | --- |", *rows, ""])


def _page(name: str, command: Command, cls: Any, shared: set[str]) -> str:
    own, *groups = sections(cls, "", cls.__doc__ or "", None)
    lines = [f"# `prefloop {name}`", "", f"{command.summary[:1].upper()}{command.summary[1:]}.", ""]
    if own[1].strip():
        lines += [own[1].strip(), ""]
    lines += ["```sh", *command.examples, "```", ""] if command.examples else []
    lines += ["A setting is a flag, and a key of the YAML file that `--config FILE` names.", ""]
    spelt = {long: short for short, long in short_names(cls).items()}
    lines += _table(own[2], spelt)
    for title, doc, settings in groups:
        hidden = " { data-search-exclude }" if title in shared else ""
        lines += ["", f"## `{title}`{hidden}", "", doc, "", *_table(settings, spelt)]
    return "\n".join(lines) + "\n"


def _shared_page(known: dict[str, tuple[Command, Any]], shared: set[str]) -> str:
    lines = [
        "# Shared settings",
        "",
        "Groups of settings that several commands have. Defaults can differ from command to command.",
    ]
    seen: set[str] = set()
    for _, cls in known.values():
        spelt = {long: short for short, long in short_names(cls).items()}
        for title, doc, settings in sections(cls, "", "", None):
            if title in shared - seen:
                seen.add(title)
                lines += ["", f"## `{title}`", "", doc, "", *_table(settings, spelt)]
    return "\n".join(lines) + "\n"


def _table(settings: list[Any], spelt: dict[str, str]) -> Iterator[str]:
    if settings:
        yield from ("| setting | value | default | |", "| --- | --- | --- | --- |")
    for name, kind, default, doc in settings:
        flag = f"`--{name}`" + (f", `--{spelt[name]}`" if name in spelt else "")
        said = doc.replace("|", "\\|").replace("\n", " ")
        value = metavar(kind).strip("[]").replace("|", " | ")
        yield f"| {flag} | `{value}` | {_default(default)} | {said} |"


def _default(default: Any) -> str:
    if default is MISSING:
        return "required"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    return "" if default in ("", None) else f"`{default}`"
