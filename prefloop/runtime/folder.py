"""Taking possession of a run folder, and the files in it that are written once."""

import dataclasses
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from prefloop.addresses import without_passwords
from prefloop.errors import InputError
from prefloop.runtime.environment import environment
from prefloop.runtime.files import write_whole, writing
from prefloop.runtime.manifest import MANIFEST, listed, write_manifest

_OWN = (
    "config.yaml",
    "metrics.jsonl",
    "log.txt",
    "checkpoints",
    "final",
    "summary.json",
    "tensorboard",
    "samples",
)
"""What marks a folder as holding a run."""

_SEPARATORS = "\x85\u2028\u2029"
"""PyYAML writes these as they are and reads them back as line breaks; with everything but ASCII escaped they stay what they are."""

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's, where PyYAML was built with it: a tenth of the time."""

RESUME_DIR = "resume"
"""The part of a checkpoint that serves to go on, beside what the algorithm saved."""


class FolderLock:
    """Holds a run folder for this process. The kernel lets go of it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            InputError: Another process has it.
        """
        self._descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise InputError(
                f"{folder} is being written by another process; wait for it, or name another folder"
            ) from error

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def marks_of_a_run(folder: Path) -> list[str]:
    """What in a folder says that it holds a run; nothing if it holds none."""
    return [name for name in _OWN if (folder / name).exists()]


def claim(folder: Path, *, resume: bool) -> FolderLock:
    """Make a run folder, or enter one to resume its run.

    Raises:
        InputError: It holds a run and `resume` is off, another process writes in it, or it cannot be written.
    """
    held = marks_of_a_run(folder)
    if held and not resume:
        raise InputError(
            f"{folder} already holds a run (it has {', '.join(held)}); "
            "resume it with --run.resume true, or name another folder with --run.out"
        )
    with writing(folder, way_out="name another folder with --run.out"):
        folder.mkdir(parents=True, exist_ok=True)
        return FolderLock(folder)


def contents(folder: Path) -> frozenset[str] | None:
    """Names of what is in a folder; None if there is no such folder."""
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else None


def withdraw(folder: Path, before: frozenset[str] | None) -> None:
    """Leave a folder as `contents` found it: for a run that was refused before its first step was done."""
    for path in folder.iterdir():
        if path.name not in (before or ()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if before is None:
        folder.rmdir()


def describe(folder: Path, config: Any) -> None:
    """Write `config.yaml` and `environment.json`."""
    versions = environment()
    settings = without_passwords(dataclasses.asdict(config))
    # This file is for starting and resuming alike; whether to resume is said on the command line.
    settings["run"]["resume"] = False
    header = "".join(f"# {name}: {value}\n" for name, value in versions.items())
    text = yaml.dump(settings, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=1000)
    if any(separator in text for separator in _SEPARATORS):
        text = yaml.dump(settings, Dumper=_DUMPER, sort_keys=False, width=1000)
    with writing(folder, way_out="make room, then start again"):
        write_whole(folder / "config.yaml", header + text)
        write_whole(folder / "environment.json", json.dumps(versions, indent=1) + "\n")


def publish(checkpoint: Path, new: Path) -> None:
    """Fill `new` with what the algorithm saved in `checkpoint`, without the part that serves to go on; files are shared, not copied."""

    def rest(folder: str, names: list[str]) -> set[str]:
        return {RESUME_DIR, MANIFEST} & set(names) if Path(folder) == checkpoint else set()

    shutil.copytree(checkpoint, new, dirs_exist_ok=True, copy_function=_link, ignore=rest)
    # The checkpoint's list, not the bytes as they are now: what was changed in between is still found.
    write_manifest(new, known=listed(checkpoint) if (checkpoint / MANIFEST).exists() else None)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target)
