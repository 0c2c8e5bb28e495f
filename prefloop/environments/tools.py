"""Programs as a tool: what a policy wrote runs in the sandbox of the verifiers (docs/verifiers.md), beside the other conversations."""

from dataclasses import dataclass
from functools import partial

from prefloop.configs.common import require
from prefloop.environments.calls import in_thread
from prefloop.verifiers.sandbox import run_program


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolLimits:
    """What one program may use."""

    seconds: int = 5
    """Processor time. By the clock it may take three times as long."""
    memory_mb: int = 512
    """Address space."""
    output_kb: int = 16
    """What it may write to its output, and to its errors."""
    unconfined: bool = False
    """Run programs where the kernel cannot keep them from files, network and other processes. They can then do whatever you can."""

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "output_kb"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")


async def run_python(program: str, limits: ToolLimits = ToolLimits(), *, given: str = "") -> str:
    """What a Python program prints, as a tool says it: its output, or the last line of its error, or that it took too long.

    `given` is what it reads from its input. Raises `InputError` if this machine cannot confine a program.
    """
    ran = await in_thread(partial(run_program, program, "", limits, given=given, may_exit=True))
    if ran.timed_out:
        return f"stopped after {limits.seconds} s"
    if ran.passed:
        return ran.output.rstrip() or "no output"
    last = ran.errors.strip().splitlines()[-1:] or [
        f"stopped: more than {limits.seconds} s or {limits.memory_mb} MB"
    ]
    return last[0]
