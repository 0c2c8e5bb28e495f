"""`prefloop verify`: whether checkpoints and finished models are as they were written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from prefloop.configs.verify import VerifyConfig
from prefloop.errors import InputError
from prefloop.runtime.manifest import MANIFEST, faults, listed, others

_SHOWN = 5
"""Faults in the error's line."""


def verify(config: VerifyConfig) -> int:
    """Check every manifest in the folder; print a line for each. Raises `InputError` that names every file that was changed, up to five."""
    folder = Path(config.folder)
    if not folder.is_dir():
        raise InputError(
            f"{config.folder!r} is not a folder; name a run's folder, a checkpoint or a finished model"
        )
    found: list[str] = []
    for place, wanted in _places(folder):
        wrong = faults(place, wanted)
        found += wrong
        if not wrong:
            count = sum(map(wanted, listed(place)))
            print(f"{place}: {count} files as they were written{_beside(place, wanted)}")
    if found:
        more = f" (and {len(found) - _SHOWN} more)" if found[_SHOWN:] else ""
        raise InputError("; ".join(found[:_SHOWN]) + more)
    return 0


def _is_in(folder: str, name: str) -> bool:
    return name.startswith(folder)


def _beside(place: Path, wanted: Callable[[str], bool]) -> str:
    added = [name for name in others(place) if wanted(name)]
    return f"; not listed: {', '.join(added)}" if added else ""


def _places(folder: Path) -> list[tuple[Path, Callable[[str], bool]]]:
    """The folders with manifests, and which of their files are asked about."""
    below = sorted(file.parent for file in folder.rglob(MANIFEST) if not file.parent.name.startswith("."))
    if below:
        return [(place, lambda name: True) for place in below]
    for parent in folder.resolve().parents:
        if (parent / MANIFEST).is_file():
            return [(parent, partial(_is_in, folder.resolve().relative_to(parent).as_posix() + "/"))]
    raise InputError(
        f"{folder} has no {MANIFEST}, nor has a folder in it or above; checkpoints and finished models have one since prefloop writes them"
    )
