"""A project folder for the report's tests."""

from pathlib import Path

import pytest

from prefloop.evaluation.summary import write_evaluation, write_summary
from tests.evaluation.made_up import make_evaluation, make_metrics


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A whole project folder, but for its report."""
    folder = tmp_path / "toy"
    make_metrics(folder)
    summary, evaluation = make_evaluation()
    write_summary(folder / "summary.json", summary)
    write_evaluation(folder / "evaluation.json", evaluation)
    return folder
