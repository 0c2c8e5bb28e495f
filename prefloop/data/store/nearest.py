"""The store that a command takes where none is named."""

from pathlib import Path

from prefloop.errors import InputError

STORE = "prefloop.db"


def nearest_store(checkpoint: str) -> Path:
    """The first `prefloop.db` in the folders above a checkpoint's, then in the current folder. Raises `InputError` if there is none."""
    places = [*Path(checkpoint).resolve().parents, Path.cwd()] if Path(checkpoint).exists() else [Path.cwd()]
    for folder in places:
        if (folder / STORE).is_file():
            return folder / STORE
    raise InputError(
        f"there is no {STORE} above {checkpoint!r} or here; name the store that knows the checkpoint with --store"
    )
