"""What a command of the program is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command of the program."""

    summary: str
    settings: str
    """`module:dataclass`."""
    work: str
    """`module:function` of the settings. It returns what the next command starts from (a path), an exit code, or nothing."""
    positional: tuple[str, ...] = ()
    """Settings that may be given without their flag, in order."""
    examples: tuple[str, ...] = ()
    single: bool = False
    """One process does all of it, so several that torchrun has started are refused."""
    then: str = ""
    """The next command to type, shown when this one has ended; `{}` is what the work returned."""
