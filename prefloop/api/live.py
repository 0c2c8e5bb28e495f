"""A run in a notebook: a bar and the charts of training that follow it while it runs."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from pathlib import Path
from typing import Any

from prefloop.errors import InputError
from prefloop.runtime.progress import Progress, watched

BAR_SECONDS = 0.5
"""Between two pictures of the bar, at least."""
CHART_SECONDS = 3.0
"""Between two readings of the metrics, at least."""


def charts(stage: str, metrics: Path, *, every: bool = True) -> str:
    """A run's training charts as HTML; empty if there are none yet. Without `every`, only the main ones."""
    from prefloop.evaluation.metrics_log import read_metrics
    from prefloop.evaluation.training_curves import training

    try:
        figures, more = training(stage, read_metrics(metrics))
    except InputError:  # no step was logged yet
        return ""
    return "".join(figure.svg for figure in [*figures, *(more if every else ())])


@contextmanager
def shown_live(stage: str, folder: Path) -> Iterator[None]:
    """In a notebook, show a bar and charts while the stage runs; elsewhere this does nothing."""
    with watched(_Display(stage, folder)) if _in_notebook() else nullcontext():
        yield


def _in_notebook() -> bool:
    """Whether this is a process that a notebook talks to."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class _Display:
    """What is shown below the cell."""

    def __init__(self, stage: str, folder: Path) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]  there in every notebook

        self._html: Any = HTML
        self._handle: Any = display(HTML(""), display_id=True)
        self._stage, self._metrics = stage, folder / "metrics.jsonl"
        self._charts = ""
        self._bar_at = self._charts_at = float("-inf")

    def __call__(self, progress: Progress) -> None:
        """Draw it again, if it is time to."""
        now = time.monotonic()
        done = progress.share >= 1
        if now - self._bar_at < BAR_SECONDS and not done:
            return
        self._bar_at = now
        if now - self._charts_at >= CHART_SECONDS or done:
            self._charts_at, self._charts = now, charts(self._stage, self._metrics, every=False)
        line = escape(progress.line())
        bar = f'<progress max="1" value="{progress.share:.4f}" style="width: 20em"></progress>'
        self._handle.update(self._html(f"<div>{bar} <code>{line}</code></div>{self._charts}"))
