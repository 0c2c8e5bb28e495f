"""`prefloop eval` as a function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefloop.api.given import free_folder, name_of, settings_from
from prefloop.cli.commands import STAGES, load
from prefloop.configs.evaluate import EvalConfig
from prefloop.evaluation.report import write_report
from prefloop.evaluation.summary import PolicySummary, read_summary


class Evaluated:
    """A finished evaluation: its numbers with their intervals, the alarms and the report."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.summary = read_summary(self.folder / "summary.json")
        """All that was measured: policies, reward model, what it was measured on, alarms."""

    @property
    def policies(self) -> dict[str, PolicySummary]:
        """Each policy's numbers by its name; those of metrics are in `further`."""
        return {policy.name: policy for policy in self.summary.policies}

    @property
    def report(self) -> Path:
        """A page to open in a browser; it is written now."""
        return write_report(self.folder)

    def __repr__(self) -> str:
        return f"Evaluated({str(self.folder)!r}): {', '.join(self.policies) or 'a reward model'}"


def evaluate(**given: Any) -> Evaluated:
    """Measure policies on the same held-out prompts, and a reward model on held-out comparisons: `prefloop eval`.

    `policies` is a dict of names and models or finished runs, the first of which the others are compared with. Metrics, the gold judge and
    scorers may be functions: a metric takes (prompts, completions, references) and returns a number for each completion.

    Raises:
        InputError: A setting is wrong, or names something that cannot be measured.
    """
    asked = dict(given)
    policies = asked.get("policies")
    if isinstance(policies, Mapping):
        asked["policies"] = [f"{name}={name_of(model)}" for name, model in policies.items()]
    if "out" not in asked:
        asked["out"] = str(free_folder("eval"))
    return Evaluated(load(STAGES["eval"].work)(settings_from(EvalConfig, asked, stage="eval")))
