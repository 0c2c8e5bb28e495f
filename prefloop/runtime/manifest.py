"""What is in a checkpoint or a finished model, file by file, so that a changed byte is found before a run resumes from it.

`manifest.json` stands in the folder with every file's length and SHA-256, and the SHA-256 of this list itself. It tells damage and edits,
not forgery: whoever can write the files can write the list.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from prefloop.errors import InputError

MANIFEST = "manifest.json"


def write_manifest(folder: Path, *, known: dict[str, Any] | None = None) -> None:
    """List every file of the folder. `known` are entries by name that need not be worked out again."""
    known = known or {}
    files = {name: known.get(name) or _entry(folder / name) for name in _names(folder)}
    content = {"files": files, "sha256": _of_list(files)}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """The files that the folder's manifest lists.

    Raises:
        InputError: The manifest is not there, or damaged.
    """
    file = folder / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = content["files"]
        intact = content["sha256"] == _of_list(files)
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {MANIFEST}, so its files cannot be checked") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact, files = False, {}
    if not intact:
        raise InputError(f"{file} is damaged or was edited: its own hash does not match")
    return files


def faults(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    """What is not as it was written, a line a file; only of files whose names are `wanted`. Raises `InputError` as `listed` does."""
    found: list[str] = []
    for name, entry in listed(folder).items():
        if not wanted(name):
            continue
        file = folder / name
        try:
            now = _entry(file)
        except FileNotFoundError:
            found.append(f"{file} is missing")
            continue
        except OSError as error:
            found.append(f"{file} cannot be read ({error.strerror})")
            continue
        if now["bytes"] != entry["bytes"]:
            found.append(f"{file} has {now['bytes']} bytes, not the {entry['bytes']} that were written")
        elif now["sha256"] != entry["sha256"]:
            found.append(
                f"{file} was changed after it was written (sha256 {entry['sha256'][:12]} -> {now['sha256'][:12]})"
            )
    return found


def others(folder: Path) -> list[str]:
    """Files that the manifest does not list."""
    known = listed(folder)
    return [name for name in _names(folder) if name not in known]


def check_folder(folder: Path, *, way_out: str) -> bool:
    """Whether the folder has a manifest; raises `InputError` with the first fault if it is not as it was written."""
    if not (folder / MANIFEST).exists():
        return False
    found = faults(folder)
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise InputError(f"{found[0]}{more}; {way_out}")
    return True


def check_finite(folder: Path, *, skip: frozenset[str] = frozenset(), way_out: str) -> None:
    """Raise `InputError` for the first tensor in the folder's safetensors that is not finite; subfolders in `skip` are left out."""
    for name in _names(folder):
        if not name.endswith(".safetensors") or Path(name).parts[0] in skip:
            continue
        try:
            with safe_open(folder / name, framework="pt") as opened:
                keys = list(opened.keys())
            for key in keys:
                # Opened anew for each: what was read of an open file stays in the process's memory.
                with safe_open(folder / name, framework="pt") as opened:
                    tensor = opened.get_tensor(key)
                wrong = _not_finite(tensor)
                if wrong:
                    raise InputError(
                        f"{folder / name}: {wrong} of {tensor.numel()} numbers in {key} are not finite; {way_out}"
                    )
        except SafetensorError as error:
            raise InputError(f"{folder / name} is damaged ({error}); {way_out}") from error


def _not_finite(tensor: torch.Tensor) -> int:
    return int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0


def _names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST
    )


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _of_list(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
