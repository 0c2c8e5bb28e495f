"""Settings of `prefloop study`."""

import math
from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require

Size = Literal["smallest", "small", "large"]
ALL = "all"
"""The name that stands for every study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """Make one of the field's published curves again: cells run over seeds in parallel, a table and a figure with intervals, and what differs."""

    name: str = ""
    """Study to run, see --list; `all` runs one after another those that fit into --minutes."""
    out: str = ""
    """Folder of the study: settings, finished cells, table, figure and page. With `all`, a folder for each study."""
    list: bool = False
    """List the studies instead of running one."""
    size: Size = "small"
    """Which of the study's settings: smallest takes seconds and shows that it runs, small is for two cores, large for a bigger machine."""
    settings: tuple[str, ...] = ()
    """NAME=VALUE of the study's own settings, over those of the size; the values as in a YAML file: `methods=[ppo, ilql]`."""
    seeds: int = 0
    """Number of seeds; 0 takes the number in the settings. A study can be gone on with under more seeds."""
    jobs: int = 0
    """Processes that share the cores; 0 takes one for each core, 1 runs everything in this process."""
    data: str = ""
    """Folder of the data set that the study reads, if it reads one."""
    model: str = ""
    """Folder of the model that the study starts from, if it starts from a given one."""
    resume: bool = False
    """Go on with the study: finished cells are kept."""
    docs: str = ""
    """Folder of documentation: the study's section of `studies.md` and its figures there are written anew; empty writes only into --out."""
    minutes: float = 0.0
    """With `all`: start no study that would end after so many minutes, by what each took before; 0 for no limit."""

    @property
    def limit(self) -> float:
        """Minutes by which a study of `all` must end to be started."""
        return self.minutes if self.minutes and self.size == "small" else math.inf

    def __post_init__(self) -> None:
        require(
            self.list or bool(self.name), "name is empty; name a study (prefloop study NAME), or see --list"
        )
        require(
            self.list or bool(self.out),
            "out is empty; name the folder of the study, for example --out runs/study",
        )
        require(self.minutes >= 0, f"minutes is {self.minutes}; it must be 0 (no limit) or more")
        require(
            self.name == ALL or not self.minutes,
            f"minutes is {self.minutes:g}, which applies to `all` studies; leave it out",
        )
        require(
            self.name != ALL or not (self.settings or self.seeds),
            "settings and seeds are those of one study; name it, or leave them out",
        )
