"""Whether checkpoints and finished models are as they were written."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from prefloop.errors import InputError
from prefloop.runtime.manifest import MANIFEST, faults, listed, others

_SHOWN = 5
"""Faults in the error's line."""


def checked(folder: Path) -> Iterator[str]:
    """Check every manifest in the folder: a line for each place whose files are as they were written.

    Raises `InputError` at the end, which names the files that were changed, up to five.
    """
    if not folder.is_dir():
        raise InputError(
            f"{str(folder)!r} is not a folder; name a run's folder, a checkpoint or a finished model"
        )
    found: list[str] = []
    for place, wanted in _places(folder):
        wrong = faults(place, wanted)
        found += wrong
        if not wrong:
            count = sum(map(wanted, listed(place)))
            yield f"{place}: {count} files as they were written{_beside(place, wanted)}"
    if found:
        more = f" (and {len(found) - _SHOWN} more)" if found[_SHOWN:] else ""
        raise InputError("; ".join(found[:_SHOWN]) + more)


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
