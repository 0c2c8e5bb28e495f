"""`prefloop plan`: look, decide and say."""

from pathlib import Path

from prefloop.configs.align import PlanConfig
from prefloop.recipes.align.decide import Decided, decide
from prefloop.recipes.align.look import look
from prefloop.recipes.align.screen import screen


def plan(config: PlanConfig) -> Decided:
    """What `align` would do with these settings, and what it would take; nothing is written.

    Raises:
        InputError: Something given could not be trained on.
    """
    return decide(config, look(config), Path("OUT"))


def show_plan(config: PlanConfig) -> None:
    """Print the plan."""
    print(screen(plan(config)))
