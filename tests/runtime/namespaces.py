"""A process that does not see a folder, as if it were on another machine: a mount namespace of its own, in which an empty one lies over it. Linux only."""

import ctypes
import os
import sys
from pathlib import Path

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE = 0x4000 | (1 << 18)
"""MS_REC and MS_PRIVATE: what is mounted here stays here."""


def hide(folder: Path) -> None:
    """From now on this process sees an empty folder there. It must have one thread, unless it is root's.

    Raises:
        OSError: The system does not let this user make mount namespaces.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def check(code: int, what: str) -> None:
        if code:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    if libc.unshare(_NEW_MOUNTS):
        check(libc.unshare(_NEW_MOUNTS | _NEW_USER), "no mount namespace")
    check(libc.mount(b"none", b"/", None, _PRIVATE, None), "mounts cannot be made private")
    check(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, None), "an empty folder cannot be mounted")


def why_not(folder: Path) -> str:
    """Why `hide` does not work for this user, tried in a child; empty where it works."""
    if sys.platform != "linux":
        return "folders are hidden by Linux's mount namespaces"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            hide(folder)
        except OSError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said
