"""Settings of `prefloop report` and `prefloop lineage`."""

from dataclasses import dataclass

from prefloop.configs.common import require


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Build report.html from what a project folder holds: results, curves, samples, lineage. One file, with everything inside."""

    project: str
    """Folder that `prefloop run` or `prefloop eval` wrote."""

    def __post_init__(self) -> None:
        require(bool(self.project), "project is empty; name the folder that `prefloop run` wrote")


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageConfig:
    """Print how a model was made: the runs, labels, annotators and data behind it, back to the beginning."""

    checkpoint: str
    """Folder, name or number of the checkpoint, or the first 8 or more digits of its weights' hash."""
    store: str = ""
    """Store that knows it: a file or a database URL; empty uses the nearest prefloop.db above the folder, or here."""
    json: bool = False
    """Print the tree as JSON."""

    def __post_init__(self) -> None:
        require(
            bool(self.checkpoint),
            "checkpoint is empty; give a folder, a name, a number or the beginning of a hash",
        )
