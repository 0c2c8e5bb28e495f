"""The bytes of a data file, decompressed as they are read and counted, so that a small file cannot grow past what the user allows."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from prefloop.errors import InputError

LONGEST = 2**27
"""Bytes of a line, and characters of a CSV cell, at most: what is longer is not a row of text."""
PACKED = (".gz", ".zst")
"""Suffixes of files that are decompressed as they are read."""
INSTALL = "install it with `pip install 'prefloop[data]'`"

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def check_size(path: Path, size: int, max_gb: float) -> None:
    """Raise `InputError` if a compressed file holds more than `max_gb` gigabytes."""
    if size > max_gb * 1e9:
        raise InputError(
            f"{path}: it is {path.stat().st_size / 1e9:.2g} GB and more than {max_gb:g} GB once decompressed; "
            "if that is what it should hold, raise data.max_gb"
        )


def open_bytes(path: Path, max_gb: float) -> IO[bytes]:
    """The decompressed bytes of a file. Reading on past `max_gb` gigabytes of a compressed one is an `InputError`."""
    stream: Any = _opened(path, max_gb)
    start = stream.peek(2)[:2]
    if start in _UTF16:
        stream.close()
        raise InputError(f"{path}:1: the file is UTF-16; save it as UTF-8")
    return stream


def lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, from 1."""
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise InputError(
                f"{path}:{number}: the line is longer than {LONGEST >> 20} MiB; write one row on each line"
            )
        yield number, line


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system or a decompressor says into an `InputError` that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        what = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else f"{error}"
        raise InputError(f"{path}: cannot be read ({what}); check that the file is complete") from error


class _Counted(io.RawIOBase):
    """A decompressor's output, counted."""

    def __init__(self, inner: Any, path: Path, max_gb: float) -> None:
        super().__init__()
        self._inner, self._path, self._max_gb, self._count = inner, path, max_gb, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        self._count += len(data)
        check_size(self._path, self._count, self._max_gb)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


def _opened(path: Path, max_gb: float) -> io.BufferedReader:
    name = path.name.lower()
    if not name.endswith(PACKED):
        return path.open("rb")
    inner: Any = gzip.GzipFile(path, "rb") if name.endswith(".gz") else _zstd(path)
    return io.BufferedReader(_Counted(inner, path, max_gb), 2**18)


def _zstd(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(f"{path}: reading .zst needs pyarrow; {INSTALL}") from error
    return pyarrow.input_stream(str(path), compression="zstd")
