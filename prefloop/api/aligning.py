"""`prefloop align` and `prefloop plan` as functions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefloop.api.given import free_folder, settings_from
from prefloop.api.results import PolicyRun
from prefloop.configs.align import AlignConfig, PlanConfig
from prefloop.recipes.align.decide import Decided
from prefloop.recipes.align.run import align as _align
from prefloop.recipes.align.run import plan as _plan
from prefloop.recipes.align.screen import screen


class AlignPlan:
    """What `align` would do, and the time and memory it would take. Printing it shows the command's screen."""

    def __init__(self, decided: Decided) -> None:
        self._decided = decided
        self.seconds = decided.total.seconds
        """Of all stages, by the estimate."""
        self.mib = decided.total.mib
        """Most memory, MiB, by the estimate."""
        self.stages = [
            {"stage": estimate.stage, "seconds": estimate.cost.seconds, "mib": estimate.cost.mib}
            for estimate in decided.estimates
        ]
        """A row for each stage in order."""

    def __str__(self) -> str:
        return screen(self._decided)

    __repr__ = __str__


def plan(**given: Any) -> AlignPlan:
    """Say what `align` would do with these settings and what it would cost, without doing it: `prefloop plan`.

    Raises:
        InputError: A setting is wrong, or names something that cannot be trained on.
    """
    return AlignPlan(_plan(settings_from(PlanConfig, _listed(given), stage="plan")))


class Aligned:
    """A finished `align`: the verdict, the numbers behind it, the policies and the report."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.numbers: dict[str, Any] = json.loads((self.folder / "align.json").read_text("utf-8"))
        """`align.json`: each policy's win rate, raw and at equal length, the judge's accuracy and calibration, estimates beside what was taken."""

    @property
    def verdict(self) -> str:
        """The result in a sentence or two."""
        return self.numbers["verdict"]

    @property
    def policies(self) -> dict[str, PolicyRun]:
        """The trained policies by method."""
        names = [policy["name"] for policy in self.numbers["policies"]]
        return {name: PolicyRun(name, self.folder / name) for name in names}

    @property
    def report(self) -> Path:
        """A page to open in a browser."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"Aligned({str(self.folder)!r}): {self.verdict}"


def align(**given: Any) -> Aligned:
    """Make a model better with comparisons, and report whether it is: `prefloop align`. Called from Python it asks no questions.

    Raises:
        InputError: A setting is wrong, or names something that cannot be trained on.
    """
    asked = {"yes": True, **_listed(given)}
    if "out" not in asked:
        asked["out"] = str(free_folder("align"))
    config = settings_from(AlignConfig, asked, stage="align")
    return Aligned(_align(config).parent)


def _listed(given: Mapping[str, Any]) -> dict[str, Any]:
    """One method may be given by its name alone."""
    method = given.get("method")
    return {**given, "method": (method,)} if isinstance(method, str) else dict(given)
