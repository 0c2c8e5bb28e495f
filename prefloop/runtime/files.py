"""Writing to disk so that what is there is whole, and saying plainly why it could not be written."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefloop.errors import InputError

_REASONS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would pass the limit on a file's size",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file is in the way",
    errno.EISDIR: "a folder is in the way",
    errno.EIO: "the device failed",
}


@contextmanager
def writing(path: Path, *, way_out: str) -> Iterator[None]:
    """Turn a full disk or an unwritable place met in the body into one line for the user; other errors pass.

    Args:
        path: What is being written, named in the message.
        way_out: What the user can do, as a clause that ends the message.

    Raises:
        InputError: The body failed because of the disk.
    """
    try:
        yield
    except Exception as error:
        reason = disk_trouble(error)
        if reason is None:
            raise
        raise InputError(f"cannot write {path}: {reason}; {way_out}") from error


def disk_trouble(error: Exception) -> str | None:
    """Why the disk refused, in words; None where `error` is about something else.

    Libraries written in Rust (safetensors, tokenizers) report the number in their text and not as an `OSError`.
    """
    if isinstance(error, InputError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return _REASONS.get(error.errno)
    number = re.search(r"os error (\d+)", str(error))
    return _REASONS.get(int(number[1])) if number else None


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """`fsync` every file and folder below `folder`, and `folder` itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync(Path(parent) / name)
        fsync(Path(parent))


def write_whole(path: Path, text: str) -> None:
    """Replace a file's content in one step: a reader, or a crash, sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)
