"""A training command that stands in another command's line, after `--`."""

from collections.abc import Sequence
from typing import Any

from prefloop.cli.commands import find, load
from prefloop.cli.flags import read_flags
from prefloop.configs.common import require
from prefloop.configs.load import load_config, names_of
from prefloop.errors import InputError

ENGINE = "http://engine:8000"
"""The address of an engine that is not started yet."""


def training_named(words: Sequence[str], *, engine: bool = False) -> tuple[str, tuple[str, ...], Any, str]:
    """The training that these words start: its name, the words without the program's, its settings, and the file they were read from, if any.

    With `engine` it draws from one that will be started, at `ENGINE`. Raises `InputError` for what is no training, and for settings that are wrong.
    """
    own = tuple(words[1:] if words[0] == "prefloop" else words)
    name, command, rest = find(own or ("",))
    kind = load(command.settings)
    if command.single or "run.out" not in names_of(kind):
        raise InputError(f"prefloop {name} is no training that several processes run; name one, such as dpo")
    named = any(word.partition("=")[0] == "--sampling.engine" for word in rest)
    if engine and not named and "sampling.engine" in names_of(kind):
        rest = [*rest, "--sampling.engine", ENGINE]
    flags = read_flags(rest, kind, positional=command.positional)
    return name, own, load_config(kind, flags.config, flags.given), flags.config


def require_engine(gpus: int, name: str, settings: Any) -> None:
    """Raise `InputError` where GPUs are for an engine that the training of this name has no use for."""
    require(
        not gpus or "sampling.engine" in names_of(type(settings)),
        f"engine_gpus is {gpus}, but prefloop {name} draws nothing from an engine; leave it out",
    )
