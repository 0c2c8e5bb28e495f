"""`prefloop plan` as a function."""

from collections.abc import Mapping
from typing import Any

from prefloop.api.given import settings_from
from prefloop.configs.align import PlanConfig
from prefloop.recipes.align.decide import Decided
from prefloop.recipes.align.run import plan as _plan
from prefloop.recipes.align.screen import screen


class AlignPlan:
    """What `align` would do and take; printed, it is the command's screen."""

    def __init__(self, decided: Decided) -> None:
        self._decided = decided
        self.seconds = decided.total.seconds
        """Of all stages, by the estimate."""
        self.mib = decided.total.mib
        """Most memory, MiB, by the estimate."""
        self.stages = [
            {"stage": each.stage, "seconds": each.cost.seconds, "mib": each.cost.mib}
            for each in decided.estimates
        ]
        """A row for each stage in order."""

    def __str__(self) -> str:
        return screen(self._decided)

    __repr__ = __str__


def plan(**given: Any) -> AlignPlan:
    """What `align` would do with these settings, and what it would cost, without doing it: `prefloop plan`.

    Raises:
        InputError: A setting is wrong, or what it names could not be trained on.
    """
    return AlignPlan(_plan(settings_from(PlanConfig, _listed(given), stage="plan")))


def _listed(given: Mapping[str, Any]) -> dict[str, Any]:
    """One method may be given by its name alone."""
    method = given.get("method")
    return {**given, "method": (method,)} if isinstance(method, str) else dict(given)
