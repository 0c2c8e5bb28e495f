"""A finished run, as an object: what it made, what it logged, what it came from."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import InputError

if TYPE_CHECKING:
    import pandas

    from prefloop.api.texts import TextPolicy, TextScorer
    from prefloop.data.store.lineage import Node


class Table(list[dict[str, Any]]):
    """Rows with named columns, such as a run's metrics."""

    def column(self, name: str) -> list[Any]:
        """A column's values, with None for rows that lack it. Raises `InputError` if no row has it."""
        known = dict.fromkeys(key for row in self for key in row)
        if name not in known:
            raise InputError(f"there is no column {name!r}; the columns are {', '.join(known)}")
        return [row.get(name) for row in self]

    def frame(self) -> "pandas.DataFrame":
        """The table as a pandas frame. Raises `InputError` if pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise InputError("pandas is not installed; run: pip install pandas") from None
        return pandas.DataFrame(list(self))


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a stage."""

    stage: str
    folder: Path
    """Run folder: settings, metrics, checkpoints, samples."""

    @property
    def model_folder(self) -> Path:
        """The finished model, as transformers loads it; other stages take the run itself as `model=`."""
        return self.folder / "final"

    @property
    def metrics(self) -> Table:
        """The logged metrics, one row per step."""
        from prefloop.runtime.journal import read_metrics

        return Table(read_metrics(self.folder / "metrics.jsonl"))

    @property
    def samples(self) -> Table:
        """The last samples that the run wrote; empty if it writes none."""
        files = sorted(
            (self.folder / "samples").glob("*.jsonl"), key=lambda file: (len(file.name), file.name)
        )
        return (
            Table(json.loads(line) for line in files[-1].read_text("utf-8").splitlines())
            if files
            else Table()
        )

    @property
    def settings(self) -> str:
        """All settings of the run, as YAML that `--config` reads."""
        return (self.folder / "config.yaml").read_text("utf-8")

    @property
    def report(self) -> Path:
        """Build the report of the run's project now and return its path; open it in a browser."""
        from prefloop.evaluation.report import write_report

        return write_report(self.folder.parent)

    def lineage(self) -> "Node":
        """What the model was made from: runs, data, annotators and models. `render()` and `print` show it as a tree."""
        from prefloop.data.store import Store, lineage, nearest_store

        with Store.open(nearest_store(str(self.model_folder)), create=False) as store:
            return lineage(store, str(self.model_folder))

    def _repr_html_(self) -> str:
        """In a notebook: the charts of training."""
        from prefloop.api.live import charts

        return charts(self.stage, self.folder / "metrics.jsonl")


class PolicyRun(FinishedRun):
    """A finished run that trained a policy."""

    @cached_property
    def policy(self) -> "TextPolicy":
        """The policy, loaded when it is first asked for."""
        from prefloop.api.texts import TextPolicy

        return TextPolicy(self.model_folder)


class RewardRun(FinishedRun):
    """A finished run that trained a reward model."""

    @cached_property
    def reward_model(self) -> "TextScorer":
        """The reward model, loaded when it is first asked for."""
        from prefloop.api.texts import TextScorer

        return TextScorer(self.model_folder)

    def score(self, prompts: Any, completions: Any) -> list[float]:
        """See `TextScorer.score`."""
        return self.reward_model.score(prompts, completions)


def open_run(folder: str | Path) -> FinishedRun:
    """Open a finished run from its folder. Raises `InputError` if there is none."""
    path = Path(folder)
    summary = path / "summary.json"
    for file in (path / "config.yaml", path / "final"):
        if not file.exists():
            raise InputError(f"{path} holds no finished run (there is no {file.name}); name a run folder")
    stage = json.loads(summary.read_text("utf-8"))["stage"] if summary.exists() else path.name
    return (RewardRun if stage == "reward" else PolicyRun)(stage, path)
