"""Checkpoints that are whole or not there: written beside, flushed to the device, and renamed into place.

A folder `step-N` exists only if everything in it had reached the device before, so a process may be killed, or a machine lose power, at any
moment. A checkpoint is deleted only after its successor is in place.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import InputError
from prefloop.runtime.files import fsync, fsync_tree, writing
from prefloop.runtime.manifest import MANIFEST, write_manifest

_STEP = re.compile(r"step-(\d+)")
_NEW, _OLD = ".new-", ".old-"


class Checkpoints:
    """The checkpoints of one run, `folder/step-N`, of which the `keep` newest are kept."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Touch nothing on disk, so that a reader may look while a run writes."""
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be 1 or more")
        self.folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        matches = (_STEP.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.folder / f"step-{step}"

    def latest(self) -> tuple[int, Path] | None:
        """The complete checkpoint of the highest step."""
        steps = self.steps()
        return (steps[-1], self.path(steps[-1])) if steps else None

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Call `write` on an empty folder and put the result in place as the checkpoint of `step`, then delete those past `keep`.

        A step that already has its checkpoint is left as it is: the same step of the same run has the same content.

        Raises:
            InputError: The disk is full or cannot be written. What was there before is intact, what was half written is gone.
        """
        final, new = self.path(step), self.folder / f"{_NEW}step-{step}"
        with writing(final, way_out=self._way_out()):
            if not final.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                fsync(self.folder.parent)
                try:
                    replace_folder(final, new, write)
                except BaseException:
                    shutil.rmtree(new, ignore_errors=True)
                    raise
            for old in self.steps()[: -self._keep]:
                self._delete(old)
        return final

    def clean(self) -> None:
        """Delete what killed processes left half written or half deleted. Only for the one process that writes here."""
        if not self.folder.is_dir():
            return
        with writing(self.folder, way_out="make it writable"):
            for path in self.folder.iterdir():
                if path.name.startswith((_NEW, _OLD)):
                    shutil.rmtree(path)

    def _delete(self, step: int) -> None:
        # Renamed first: a half deleted folder under its own name would pass for a checkpoint.
        going = self.folder / f"{_OLD}step-{step}"
        os.rename(self.path(step), going)
        shutil.rmtree(going)

    def _way_out(self) -> str:
        latest = self.latest()
        if latest is None:
            return "no checkpoint was written before; make room or name another folder, then start again"
        return f"the checkpoint of step {latest[0]} is intact in {latest[1]}; make room, then resume with --run.resume true"


def replace_folder(final: Path, new: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill `new`, an empty folder beside `final`, and rename it to `final` once all of it, and its manifest, is on the device."""
    if new.exists():
        shutil.rmtree(new)
    new.mkdir()
    write(new)
    if not (new / MANIFEST).exists():
        write_manifest(new)
    fsync_tree(new)
    if final.exists():
        old = final.with_name(f"{_OLD}{final.name}")
        if old.exists():
            shutil.rmtree(old)
        os.rename(final, old)
        os.rename(new, final)
        shutil.rmtree(old)
    else:
        os.rename(new, final)
    fsync(final.parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Something a run reads that must not change under the same name: a file of data, a model's weights."""

    what: str
    """For the user, for example `the weights of model runs/sft/final`."""
    sha256: str


def compare_fingerprints(
    saved: Mapping[str, object],
    current: Mapping[str, object],
    *,
    may_differ: Iterable[str],
    reads: Mapping[str, Content] | None = None,
) -> list[str]:
    """Check that a checkpoint belongs to this run; return the allowed differences as `key: before -> now`.

    Args:
        saved: What the checkpoint was made with, by dotted key; of what it has read, the hash.
        current: What this run is made with.
        may_differ: Keys that may change between the two; one that ends in a dot stands for all keys below it.
        reads: What this run reads, by key.

    Raises:
        InputError: A key outside `may_differ` differs, or what is read. All such keys are named with both values.
    """
    read = reads or {}
    settings = {key: value for key, value in saved.items() if key not in read}
    changes = _compare_settings(settings, current, may_differ)
    other = [
        f"{content.what} (sha256 {str(saved.get(key, 'not known'))[:12]} -> {content.sha256[:12]})"
        for key, content in read.items()
        if saved.get(key) != content.sha256
    ]
    if other:
        raise InputError(
            f"{' and '.join(other)} changed since the run was started; "
            "restore it, or start a new run in another folder"
        )
    return changes


def _compare_settings(
    saved: Mapping[str, object], current: Mapping[str, object], may_differ: Iterable[str]
) -> list[str]:
    allowed = tuple(may_differ)
    differences = {
        key: f"{key}: {_show(saved, key)} -> {_show(current, key)}"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key, _ABSENT) != current.get(key, _ABSENT)
    }
    fine = [
        key
        for key in differences
        if any(key == a or (a.endswith(".") and key.startswith(a)) for a in allowed)
    ]
    wrong = [text for key, text in differences.items() if key not in fine]
    if wrong:
        raise InputError(
            f"the run was started with other settings ({'; '.join(wrong)}); "
            "resume with those in its config.yaml, or start a new run in another folder"
        )
    return [differences[key] for key in fine]


_ABSENT = object()


def _show(values: Mapping[str, object], key: str) -> str:
    return repr(values[key]) if key in values else "not set"
