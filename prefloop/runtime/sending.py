"""Files between machines that do not see the same disk. The first process has the run's files: it reads and writes for all.

`bring` gives every machine what is read, `filling` brings together what the processes write. Both look first: where a machine sees the files nothing
is sent. Pieces of 16 MiB travel through the process group, so no process holds more of a file than that. A machine's copies are in a folder
below TMPDIR, which is removed when its process ends, or by the next one that finds it left over.
"""

import atexit
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import torch

from prefloop.configs.copies import keep_copy
from prefloop.errors import InputError
from prefloop.runtime.files import disk_trouble
from prefloop.runtime.folder import FolderLock
from prefloop.runtime.world import World

PIECE = 16 * 2**20
"""Bytes sent at a time."""
_CLOCK = 2.0
"""Seconds by which file systems may round the time of a file that two machines see."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Weights that are never read."""
_PREFIX = "prefloop-copies-"
_JUST_MADE = 60.0
"""Seconds in which another process may not have locked its folder yet."""

_notes: list[str] = []
_brought: dict[str, list["_File"]] = {}
"""What was looked at already, by name; the same on all processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    path: str
    """In the folder; empty for a file by itself."""
    size: int
    changed: float


def bring(world: World, *names: str) -> None:
    """See to it that every machine has the files and folders that process 0 reads under these names. Collective: all processes call it.

    What process 0 does not have under a name is left to each: it may be the name of a hub model. `configs.copies.here` says where a copy is.

    Raises:
        InputError: A machine could not write its copy, or process 0 could not read the files; on all processes.
    """
    if world.size == 1:
        return
    for name in dict.fromkeys(names):
        if name:
            _bring(world, name)


def take_notes() -> list[str]:
    """A line for each name that was sent since this was last asked."""
    taken = list(_notes)
    _notes.clear()
    return taken


def _bring(world: World, name: str) -> None:
    source = Path(name).expanduser()
    listed = world.broadcast_object(_listed(source) if world.is_main else [])
    if not listed or _brought.get(name) == listed:
        return
    _brought[name] = listed
    views = world.gather_objects(_same(listed, _listed(source)) if world.is_leader else None)
    sees = [bool(views[_leader(world, rank)]) for rank in range(world.size)]
    if all(sees):
        return
    writes = world.is_leader and not sees[world.rank]
    target = scratch() / secrets.token_hex(4) / source.name if writes else None
    problem = None
    for file in listed:
        problem = _send(world, 0, source / file.path, target and target / file.path, file.size) or problem
    problems = [text for text in world.gather_objects(problem) if text]
    if problems:
        raise InputError(problems[0])
    absolute, copies = world.broadcast_object(str(source.resolve())), world.gather_objects(target)
    if not sees[world.rank]:
        copy = copies[_leader(world, world.rank)]
        assert copy is not None
        keep_copy(name, copy)
        keep_copy(absolute, copy)
    hosts = dict.fromkeys(world.host(rank) for rank, seen in enumerate(sees) if not seen)
    size = sum(file.size for file in listed) / 1e3
    shown = f"{size / 1e3:,.1f} MB" if size >= 100 else f"{size:,.1f} kB"
    _notes.append(f"{name} is not on {', '.join(hosts)} as it is here: process 0 sent it, {shown}")


def _leader(world: World, rank: int) -> int:
    """The first process of the machine that process `rank` is on."""
    return max(place for place in range(rank + 1) if world.peers[place].leads)


def _listed(source: Path) -> list[_File]:
    """The files that are there, by path; hidden ones and pickled weights left out."""
    if source.is_file():
        return [_file(source, "")]
    found: list[_File] = []
    for parent, folders, names in os.walk(source):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        found += [
            _file(Path(parent, name), str(Path(parent, name).relative_to(source)))
            for name in sorted(names)
            if not name.startswith(".") and not name.endswith(_PICKLED)
        ]
    return found


def _file(path: Path, name: str) -> _File:
    found = path.stat()
    return _File(path=name, size=found.st_size, changed=found.st_mtime)


def _same(listed: Sequence[_File], seen: Sequence[_File]) -> bool:
    """Whether a machine sees the files that were listed: their names, sizes and times."""
    return len(seen) == len(listed) and all(
        a.path == b.path and a.size == b.size and abs(a.changed - b.changed) <= _CLOCK
        for a, b in zip(listed, seen, strict=True)
    )


def _send(world: World, rank: int, source: Path, target: Path | None, size: int) -> str | None:
    """Send a file of process `rank` to all, and write it to `target` where there is one. Collective.

    What goes wrong with the disk is returned, so that all processes go on sending and hear of it together.
    """
    problem: str | None = None
    stream: BinaryIO | None = None
    try:
        if world.rank == rank:
            stream = source.open("rb")
        elif target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = target.open("wb")
    except OSError as error:
        problem = _trouble(error, target or source)
    for begin in range(0, size, PIECE):
        view = bytearray(min(PIECE, size - begin))
        piece = torch.frombuffer(view, dtype=torch.uint8)
        try:
            if world.rank == rank and stream is not None and stream.readinto(view) < len(view):
                problem = f"{source} was cut off while it was sent; leave it as it is while the run starts"
        except OSError as error:
            problem = _trouble(error, source)
        world.broadcast_tensor(piece, source=rank)
        try:
            if world.rank != rank and stream is not None and problem is None:
                stream.write(view)
        except OSError as error:
            problem = _trouble(error, target or source)
    if stream is not None:
        stream.close()
    return problem


def _trouble(error: OSError, path: Path) -> str:
    reason = disk_trouble(error) or str(error)
    return f"{path} on {socket.gethostname()}: {reason}; make room there, or set TMPDIR to a folder that has room"


@contextmanager
def filling(world: World, folder: Path) -> Iterator[Path]:
    """Let all processes write into a folder of process 0, each files of its own. Collective: all processes call it with what is to them `folder`.

    Gives the folder to write to: that of process 0 where this process sees it, else one for itself, whose files are sent to process 0 afterwards.
    Process 0 makes the folder first.

    Raises:
        InputError: Process 0 could not write what was sent; on all processes.
    """
    if world.size == 1:
        yield folder
        return
    mark = f".{secrets.token_hex(8)}"
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / mark).touch()
    main, mark = world.broadcast_object((str(folder.absolute()), mark))
    sees = (Path(main) / mark).exists()
    if all(world.gather_objects(sees)):
        (folder / mark).unlink() if world.is_main else None
        yield Path(main)
        return
    with tempfile.TemporaryDirectory(dir=None if sees else scratch()) as own:
        yield Path(main) if sees else Path(own)
        files = world.gather_objects([] if sees else _listed(Path(own)))
        problem = None
        for rank, listed in enumerate(files):
            for file in listed:
                target = Path(main, file.path) if world.is_main else None
                problem = _send(world, rank, Path(own, file.path), target, file.size) or problem
        (folder / mark).unlink() if world.is_main else None
        problems = [text for text in world.gather_objects(problem) if text]
        if problems:
            raise InputError(problems[0])


@cache
def scratch() -> Path:
    """This process's folder of copies."""
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_PREFIX}*"):
        with suppress(InputError, OSError):  # another process has it, or it goes at this moment
            if time.time() - left.stat().st_mtime < _JUST_MADE:
                continue
            lock = FolderLock(left)
            shutil.rmtree(left, ignore_errors=True)
            lock.close()
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = FolderLock(made)

    def remove() -> None:
        shutil.rmtree(made, ignore_errors=True)
        lock.close()

    atexit.register(remove)
    return made
