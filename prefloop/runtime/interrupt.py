"""Ctrl-C and SIGTERM: finish the step, save, and say how to resume; a second time, stop at once."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

_SAME_PRESS = 1.0
"""Seconds within which a second signal is the first one again: torchrun and other launchers pass on a Ctrl-C that the terminal has sent to all."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and did so after saving. The message is the command that goes on with it."""

    exit_code = 130
    """What a shell expects of a program stopped by Ctrl-C."""


class StopSignal:
    """Notes a request to stop, from `install` until `remove`; says so if it is `shown`."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self.requested = False
        self._when = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take over the signals. Only the main thread may; elsewhere Ctrl-C keeps its meaning."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def remove(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._when = True, now
            if self._shown:
                # Not print: a handler may run in the middle of another print to the same stream.
                os.write(2, b"\nstopping: finishing this step, then saving; once more to stop at once\n")
        elif now - self._when > _SAME_PRESS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
