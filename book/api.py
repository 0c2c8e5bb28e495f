"""The reference of the Python interface, from signatures and docstrings, which are read and not imported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

import prefloop
from book.commands import file_of
from book.pages import REPOSITORY
from prefloop.cli.commands import commands

PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "python": (
        "The Python API",
        "What `import prefloop as pl` offers in addition to the stages.",
        (
            "prefloop.api.texts",
            "prefloop.api.results",
            "prefloop.api.measures",
            "prefloop.data.store",
            "prefloop.errors",
        ),
    ),
    "records": ("Records", "What prompts, comparisons and labels are.", ("prefloop.records",)),
    "losses": (
        "Losses",
        "Pure functions of tensors. What they return is not reduced; `reduce` alone does that.",
        ("prefloop.losses.*",),
    ),
    "loop": (
        "Parts of a training loop",
        "The building blocks of your own algorithm: [a tutorial](../tutorials/own_algorithm.md) combines them.",
        (
            "prefloop.loop.session",
            "prefloop.loop.learn",
            "prefloop.loop.inputs",
            "prefloop.loop.adaptive",
            "prefloop.loop.sources",
        ),
    ),
}
"""Page -> its title, what it says first, and the modules it shows."""


def write_api(folder: Path) -> list[dict[str, str]]:
    """Write the pages into a folder. Returns their entries in the navigation."""
    folder.mkdir(parents=True, exist_ok=True)
    loader = griffe.GriffeLoader(search_paths=[REPOSITORY])
    loader.load("prefloop", try_relative_path=False)
    for file, (title, about, names) in PAGES.items():
        lines = [f"# {title}", "", about]
        if file == "python":
            lines += ["", *_stages()]
        for name in names:
            lines += _module_lines(loader, name)
        (folder / f"{file}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [{title: f"reference/{file}.md"} for file, (title, _, _) in PAGES.items()]


def _stages() -> Iterator[str]:
    """The functions that are commands: their settings are on the commands' pages."""
    summaries = {name.replace("+", "p"): (name, command.summary) for name, command in commands().items()}
    yield from (
        "## Stages",
        "",
        "A function for every training command; [its settings](commands/index.md) are keyword arguments.",
        "",
    )
    yield from ("| function | what it does |", "| --- | --- |")
    for name in prefloop.STAGE_NAMES:
        command, summary = summaries.get(name.replace("reinforce_pp", "reinforcepp"), ("", ""))
        yield f"| [`pl.{name}`](commands/{file_of(command)}.md) | {summary} |"


def _module_lines(loader: griffe.GriffeLoader, name: str) -> Iterator[str]:
    if name.endswith(".*"):
        package: Any = loader.modules_collection[name.removesuffix(".*")]
        for inner in sorted(package.modules):
            yield from _module_lines(loader, f"{package.path}.{inner}")
        return
    module: Any = loader.modules_collection[name]
    public = [each for each in module.members.values() if _is_shown(each)]
    if public:
        yield from ("", f"## `{name}`", "", *_docstring(module))
    for each in public:
        yield from _object(each, 3)


def _is_shown(each: Any) -> bool:
    return (
        not each.is_alias and each.name[0] != "_" and each.kind in (griffe.Kind.CLASS, griffe.Kind.FUNCTION)
    )


def _object(each: Any, level: int) -> Iterator[str]:
    """A function, or a class with its methods."""
    yield from (
        "",
        f"{'#' * level} `{each.name}`",
        "",
        "```python",
        _signature(each),
        "```",
        "",
        *_docstring(each),
    )
    if each.kind is griffe.Kind.CLASS:
        fields = [
            one for one in each.members.values() if one.is_attribute and one.name[0] != "_" and one.docstring
        ]
        if fields:
            yield from ("", "| attribute | |", "| --- | --- |")
        for one in fields:
            said = " ".join(one.docstring.value.split()).replace("|", "\\|")
            yield f"| `{one.name}` | {said} |"
        for method in each.members.values():
            if _is_shown(method):
                yield from _object(method, level + 1)


def _signature(each: Any) -> str:
    """As Python writes it, an argument a line where it is long."""
    if each.kind is griffe.Kind.CLASS:
        bases = ", ".join(map(str, each.bases))
        return f"class {each.name}{f'({bases})' if bases else ''}"
    said = str(each.signature())
    if len(said) <= 90 or not len(each.parameters):
        return f"def {said}"
    inner, _, result = said.removeprefix(f"{each.name}(").rpartition(")")
    lines, depth, line = [], 0, ""
    for letter in inner:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            lines, line = [*lines, f"    {line.strip()},"], ""
        else:
            line += letter
    lines.append(f"    {line.strip()},")
    return "\n".join([f"def {each.name}(", *lines, f"){result}"])


def _docstring(each: Any) -> Iterator[str]:
    if not each.docstring:
        return
    for section in each.docstring.parse("google", warnings=False):
        if section.kind is griffe.DocstringSectionKind.text:
            yield from (section.value, "")
        elif isinstance(section.value, list):
            yield from (f"**{section.kind.value.capitalize()}**", "")
            for item in section.value:
                name = getattr(item, "name", "") or str(getattr(item, "annotation", "") or "")
                yield f"- `{name}`: {' '.join(item.description.split())}" if name else f"- {item.description}"
            yield ""
