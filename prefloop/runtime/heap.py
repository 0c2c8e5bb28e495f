"""The C library's heap between steps: what a step frees stays for the next one, and does not pile up.

Memory that goes back to the kernel comes again as fresh pages, each with a fault; so `tune` has the C library keep it. But steps of changing
lengths leave holes that fit nothing, and a heap that keeps all of them grows to several times what a step needs. Here its free pages are given
back when it has grown by half of that: once in a while, not at every step.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

GROWTH = 1.5
"""Times what a step needs that may be resident beside what stays between steps."""

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Memory of this process that is in memory now."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Give the kernel every free page of the heap, those between used ones too: malloc_trim(3)."""
    ctypes.CDLL(None).malloc_trim(0)


class Heap:
    """Watches the process's memory from step to step."""

    def __init__(
        self, resident: Callable[[], int] = resident_bytes, give_back: Callable[[], None] = trim
    ) -> None:
        self._resident, self._give_back = resident, give_back
        self._stays = 0
        """Resident when all that was free had been given back; 0 before the first time."""
        self._need = 0
        """What a step adds to that at most, seen at the first step after each time."""
        self._fresh = False

    def settle(self) -> None:
        """After each step: give back what has piled up. Microseconds, or the faults of one step's memory once in a while."""
        now = self._resident()
        if self._fresh:
            self._need, self._fresh = max(self._need, now - self._stays), False
        elif now > self._stays + GROWTH * self._need:
            self._give_back()
            self._stays, self._fresh = self._resident(), True


def keeps_freed_memory() -> bool:
    """Whether this C library's heap can be told to keep what is freed, and to give it back: glibc on Linux."""
    library = ctypes.CDLL(None)
    return hasattr(library, "mallopt") and hasattr(library, "malloc_trim") and _STATM.is_file()
