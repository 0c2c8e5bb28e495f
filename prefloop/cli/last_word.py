"""Under torchrun: the line that says what was wrong, as the last one, and an end to torchrun where it would not end by itself.

When a process ends with an error, torchrun writes some thirty lines of its own after what that process said. So the line is written once more,
by a small process that waits until torchrun has ended. Where the network to the machine at which torchruns meet is gone, torchrun waits for an answer
from there: no setting of its own bounds that wait, it need not heed signals meanwhile, and Linux gives the connection up after a quarter of an hour only.
Where it has no restart left to do, a second small process ends it.
"""

import os
import socket
import sys

STUCK = 60
"""Seconds in which torchrun ends by itself once its last process has ended; it gives the others 30."""

_WAITS = """
import os, select, sys, time
launcher, text = int(sys.argv[1]), sys.argv[2]
try:
    handle = os.pidfd_open(launcher)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll(120_000)
except AttributeError:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            os.kill(launcher, 0)
        except OSError:
            break
        time.sleep(0.05)
except OSError:
    pass
print(text, file=sys.stderr)
"""

_ENDS = """
import os, select, signal, sys
launcher, seconds, text = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
try:
    handle = os.pidfd_open(launcher)
except (AttributeError, OSError):
    sys.exit()
poll = select.poll()
poll.register(handle, select.POLLIN)
if not poll.poll(1000 * seconds):
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    print(text, file=sys.stderr)
"""


def repeat_last(text: str) -> None:
    """Write a line to standard error once torchrun has ended; nothing where torchrun did not start this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    _start(_WAITS, str(os.getppid()), text)


def end_stuck(seconds: int = STUCK) -> None:
    """End torchrun if it is still there after so many seconds, and say so. For a process that has lost the others and is about to end.

    Only where torchrun started this process beside machines that have a torchrun of their own, and has no restart left: with one left it waits for the
    network to come back, and then goes on. Linux only.
    """
    left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) - int(
        os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    )
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1" or left > 0:
        return
    from prefloop.runtime.machines import launcher

    if launcher():  # it is gone otherwise, and the parent is another one
        text = f"prefloop: torchrun on {socket.gethostname()} still waited for the machine that it lost after {seconds} s; it was ended"
        _start(_ENDS, str(os.getppid()), str(seconds), text)


def _start(script: str, *arguments: str) -> None:
    """A small process that outlives this one."""
    import subprocess  # what it imports takes longer than a page of help

    # A session of its own: torchrun ends the group of every process that it started.
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
