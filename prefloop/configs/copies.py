"""Files and folders that the first process of a run has sent to this machine, which does not see its disk: where they are here. No torch.

Settings, log and store keep the names that were given. Code that opens a file or a model asks `here` for its place.
"""

from pathlib import Path

_copies: dict[str, Path] = {}
"""Place on this machine by the name that was given. The processes of a machine share the copies."""


def keep_copy(name: str, copy: Path) -> None:
    """From now on `name`, and what is below it, is at `copy`."""
    _copies[name] = copy


def forget_copies() -> None:
    """Names stand for themselves again."""
    _copies.clear()


def here(name: str) -> str:
    """Where the file or folder of this name is on this machine: the copy that was sent, else the name itself.

    >>> keep_copy("runs/sft", Path("/tmp/copy"))
    >>> here("runs/sft/final"), here("runs/other")
    ('/tmp/copy/final', 'runs/other')
    >>> forget_copies()
    """
    for original in sorted(_copies, key=len, reverse=True):
        if name == original:
            return str(_copies[original])
        if name.startswith(f"{original}/"):
            return str(_copies[original] / name[len(original) + 1 :])
    return name
