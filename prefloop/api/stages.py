"""Every training command as a function of the same settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefloop import STAGE_NAMES
from prefloop.api.given import settings_from
from prefloop.api.results import FinishedRun, PolicyRun, RewardRun
from prefloop.cli.commands import STAGES, load

COMMANDS = {name: name.replace("_pp", "++") for name in STAGE_NAMES}
"""Function -> command that it runs."""


def stage(name: str) -> Callable[..., FinishedRun]:
    """The function of a training command: keyword arguments are its settings (see `settings_from`), the result is the finished run."""
    command = COMMANDS[name]
    settings = load(STAGES[command].settings)

    def run(**given: Any) -> FinishedRun:
        config = settings_from(settings, given, stage=name)
        from prefloop.api.live import shown_live  # torch, which wrong settings do not wait for

        folder = Path(config.run.out)
        with shown_live(command, folder):
            load(STAGES[command].work)(config)
        kind = RewardRun if command == "reward" else PolicyRun
        return kind(command, folder)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"{settings.__doc__}\n\nAs `prefloop {command}`, whose settings are the keyword arguments; `help(prefloop)` says how they are given."
    run.__module__ = "prefloop"
    return run
