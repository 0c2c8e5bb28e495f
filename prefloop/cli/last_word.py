"""Under torchrun: the line that says what was wrong, as the last one.

When a process ends with an error, torchrun writes some thirty lines of its own after what that process said. So the line is written once more,
by a small process that waits until torchrun has ended.
"""

import os
import sys

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


def repeat_last(text: str) -> None:
    """Write a line to standard error once torchrun has ended; nothing where torchrun did not start this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    import subprocess  # what it imports takes longer than a page of help

    # A session of its own: torchrun ends the group of every process that it started.
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WAITS, str(os.getppid()), text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
