"""`prefloop study` as a function."""

import json
from pathlib import Path
from typing import Any

from prefloop.api.given import free_folder, settings_from
from prefloop.configs.study import ALL, StudyConfig
from prefloop.errors import InputError
from prefloop.studies.run import study as _study


class FinishedStudy:
    """What came of a study: its findings, tables, page and figure."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.numbers: dict[str, Any] = json.loads((self.folder / "study.json").read_text("utf-8"))
        """`study.json`: findings (published claim, what came out, whether it holds), tables, and how they were made."""

    @property
    def findings(self) -> list[dict[str, Any]]:
        """Published claims with what came out here; `holds` is None where the intervals do not decide it."""
        return self.numbers["findings"]

    @property
    def text(self) -> str:
        """The page, as Markdown."""
        return (self.folder / "study.md").read_text("utf-8")

    @property
    def figure(self) -> Path:
        """The drawing, an SVG file."""
        return self.folder / "figure.svg"

    def __repr__(self) -> str:
        words = {True: "holds", False: "does not hold", None: "open"}
        lines = [
            f"{words[finding['holds']]}: {finding['expected']}; here {finding['found']}"
            for finding in self.findings
        ]
        return "\n".join([f"FinishedStudy({str(self.folder)!r})", *lines])


def study(**given: Any) -> FinishedStudy:
    """Make one of the field's published curves again: `prefloop study`. Without `out` it goes into the next free folder of `runs`.

    Raises:
        InputError: A setting is wrong, or a cell of the study failed.
    """
    if "out" not in given:
        given = {**given, "out": str(free_folder("study"))}
    config = settings_from(StudyConfig, given, stage="study")
    if config.list or config.name == ALL:
        raise InputError(
            "name is not one study; `prefloop study --list` lists them, and `prefloop study all` runs all"
        )
    failed = _study(config)
    if failed:
        raise InputError(f"a cell failed, see the logs in {config.out}/cells; retry with resume=True")
    return FinishedStudy(config.out)
