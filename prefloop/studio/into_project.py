"""Records into a project that is named: one that is there, as it is, or a new one."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from prefloop.data.formats import Record
from prefloop.data.images import Image
from prefloop.data.load import Loaded
from prefloop.errors import InputError
from prefloop.studio import exchange
from prefloop.studio.exchange import ImportedItems, ImportOptions
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound, Project, ProjectSettings


def import_into(
    studio: Studio,
    name: str,
    loaded: Loaded[Record],
    *,
    given: Mapping[str, Any],
    gold_share: float | None = None,
    options: ImportOptions = ImportOptions(),  # noqa: B008  a frozen value
    images: Iterable[Image] = (),
) -> tuple[ProjectSettings, ImportedItems]:
    """Put records' completions into the project of this name or number; its settings, and what was made.

    Args:
        studio: Where the project is, or is made.
        name: Of the project.
        loaded: The records.
        given: Settings of a new project. A project that is there must have the same.
        gold_share: Share of the questions that are known answers; None takes the project's, or a tenth.
        options: What the items are.
        images: Those whose marks the records hold.

    Raises:
        InputError: The project is there with other settings, or the records cannot be asked about in it.
    """
    into: Project | ProjectSettings
    try:
        into = studio.find_project(name)
    except NotFound:
        into = ProjectSettings(name=name, gold_share=gold_share or 0.0, **given)
    else:
        into = replace(into, settings=_with_gold(_unchanged(into.settings, given), gold_share))
    made = exchange.import_loaded(studio, into, loaded, options, images=images)
    return studio.project(made.project).settings, made


def _unchanged(has: ProjectSettings, given: Mapping[str, Any]) -> ProjectSettings:
    """The settings of a project that is there. What was given for a new one, and differs, is an error: it would have no effect."""
    for name, value in given.items():
        if (there := getattr(has, name)) != value:
            told = "other guidelines" if name == "guidelines" else f"{name} {there}"
            raise InputError(
                f"{name} is given, but project {has.name!r} exists already, with {told}; leave --{name} out, "
                "name a new project, or change this one under Admin, Settings"
            )
    return has


def _with_gold(has: ProjectSettings, share: float | None) -> ProjectSettings:
    """The settings, with the share of known answers that was asked for."""
    if share is None:
        return has
    if has.gold_share not in (0, share):
        raise InputError(
            f"gold_share is {share}, but project {has.name!r} has {has.gold_share}; leave it out, "
            "or change it under Admin, Settings"
        )
    return replace(has, gold_share=share)
