"""One small project for all tests of the stages, and each stage's run in it, done once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.algorithms.small import make_project, settings, train_and_keep_samples


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and starting models; runs go into folders of their own."""
    torch.set_num_threads(1)  # sums in one order, and no fight over the machine's cores
    return make_project(tmp_path_factory.mktemp("project") / "small")


@pytest.fixture(scope="session")
def unbroken(project: Path) -> Callable[[str], Path]:
    """The run folder of a stage trained in one go, in one process, each step in one micro-batch."""

    @cache
    def run(name: str) -> Path:
        config = settings(name, project, out=f"unbroken-{name}")
        train_and_keep_samples(config)
        return Path(config.run.out)

    return run
