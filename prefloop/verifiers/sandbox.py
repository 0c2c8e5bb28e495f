"""Programs that a policy wrote, each in a process of its own that the kernel closes in (`confine.py`).

What it holds and what it does not is in docs/verifiers.md, which users rely on: change both together.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from prefloop.errors import InputError

_CONFINE = str(Path(__file__).with_name("confine.py"))
_CLOCK = 3
"""Seconds by the clock for one of processor time: machines are busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What became of a program."""

    passed: bool
    """It ran to its end, and all tests after it passed."""
    output: str
    """What it wrote to its output, as far as it was let."""
    errors: str
    """The same of its errors."""
    timed_out: bool
    """It was stopped by the clock; the limit of processor time looks like any other death."""


class RunLimits(Protocol):
    """What a program may use."""

    @property
    def seconds(self) -> int:
        """Of processor time."""
        ...

    @property
    def memory_mb(self) -> int:
        """Of address space."""
        ...

    @property
    def output_kb(self) -> int:
        """Written to its output, and to its errors."""
        ...

    @property
    def unconfined(self) -> bool:
        """Whether it may run where it cannot be confined."""
        ...


def run_program(
    program: str, tests: str, limits: RunLimits, *, given: str = "", may_exit: bool = False
) -> Ran:
    """Run a program, then its tests in what it has defined.

    Args:
        program: Python source. It runs as `__main__`.
        tests: Python source that raises where a test fails; empty if the output is what is looked at.
        limits: Time, memory and output.
        given: What the program reads from its input.
        may_exit: Whether `sys.exit()` is an end like any other. Otherwise a program that exits has not come to its tests.

    Raises:
        InputError: This machine cannot confine a program, and `unconfined` is off.
    """
    token = secrets.token_hex(16)
    task_lines = f"{json.dumps(program)}\n{json.dumps([tests, token])}\n"
    settings = {
        "seconds": limits.seconds,
        "memory_mb": limits.memory_mb,
        "output_kb": limits.output_kb,
        "unconfined": limits.unconfined,
        "may_exit": may_exit,
    }
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="prefloop-") as folder:
        stdin, task, result, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(5))
        for file, text in ((stdin, given), (task, task_lines)):
            file.write(text.encode("utf-8", "surrogatepass"))
            file.seek(0)
        command = [sys.executable, "-I", _CONFINE, json.dumps(settings)]
        process = subprocess.Popen(
            [*command, str(task.fileno()), str(result.fileno())],
            stdin=stdin,
            stdout=out,
            stderr=err,
            pass_fds=(task.fileno(), result.fileno()),
            cwd=folder,
            env={"PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        timed_out = False
        try:
            process.wait(limits.seconds * _CLOCK)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _end(process)
        output = _read(result, 1 << 12)
        if output.startswith("not confined: "):
            raise InputError(
                f"programs cannot be confined on this machine ({output.removeprefix('not confined: ')}); run on Linux with seccomp, or set "
                "unconfined true in the verifier's file if you trust the programs with all that you can do"
            )
        most = limits.output_kb << 10
        return Ran(
            passed=output == token, output=_read(out, most), errors=_read(err, most), timed_out=timed_out
        )


def check_sandbox(limits: RunLimits) -> None:
    """Raise `InputError` unless programs run here, and tests that fail are seen, before anything is trained."""
    good = run_program("x = 1", "assert x == 1", limits)
    if not good.passed:
        last = good.errors.strip().splitlines()[-1:] or ["it ended without any output"]
        raise InputError(
            f"a program of one line does not run within memory_mb {limits.memory_mb} and seconds {limits.seconds}: {last[0]}; raise them"
        )
    assert not run_program("x = 1", "assert x == 2", limits).passed


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The process, and whatever it has started, where it could."""
    kill: Callable[[int, int], Any] | None = getattr(os, "killpg", None)
    try:
        if kill:
            kill(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _read(file: IO[bytes], most: int) -> str:
    file.seek(0)
    return file.read(most).decode("utf-8", "replace")
