"""A recipe's project folder: made new, or resumed under the settings it was made with."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from prefloop.errors import InputError
from prefloop.runtime.checkpoint import compare_fingerprints
from prefloop.runtime.environment import flatten
from prefloop.runtime.files import write_whole, writing
from prefloop.runtime.folder import contents

SETTINGS = "config.yaml"
"""The project's settings, which `--config` reads back."""
NOT_KEPT = ("resume", "yes")
"""What is said again each time."""


def check_free(project: Path, *, resume: bool) -> frozenset[str] | None:
    """Raise `InputError` for a folder that holds something, unless it is to be gone on with; its contents, None if it is not there."""
    before = contents(project)
    if before and not resume:
        raise InputError(
            f"{project} is not empty; add --resume true to continue it, or name another folder with --out"
        )
    return before


def enter(project: Path, config: Any, *, may_differ: Sequence[str]) -> frozenset[str] | None:
    """Make the folder, or enter one that was made with the same settings; what was in it, None if it was not there."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_KEPT}
    file = project / SETTINGS
    with writing(project, way_out="name another folder with --out"):
        before = check_free(project, resume=config.resume)
        if file.exists():
            saved = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
            compare_fingerprints(saved, flatten(_plain(settings)), may_differ=may_differ)
            return before
        project.mkdir(parents=True, exist_ok=True)
        write_whole(file, yaml.safe_dump(_plain(settings), sort_keys=False))
        return before


def _plain(value: Any) -> Any:
    """Lists instead of tuples, as YAML has them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
