"""How many passes through a trunk a step of PPO makes: one for each frozen role, one for what shares a trunk, none twice."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from prefloop.algorithms import ppo
from prefloop.configs.common import Optim
from prefloop.configs.ppo import KL, CriticSettings
from prefloop.models import roles
from tests.algorithms import tiny
from tests.algorithms.tiny import logged

STEPS, EPOCHS = 2, 3


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[bool, int]:
    """Passes through a trunk inside a step's judging and updates: with gradient and without."""
    count = {True: 0, False: 0}
    real, judge, learn = roles.hidden_rows, ppo.judge, ppo._learn
    inside = False

    def counted(model: Any, batch: Any, way: Any) -> Any:
        if inside:
            count[torch.is_grad_enabled()] += 1
        return real(model, batch, way)

    def entered(work: Any) -> Any:
        def run(*arguments: Any) -> Any:
            nonlocal inside
            inside = True
            try:
                return work(*arguments)
            finally:
                inside = False

        return run

    monkeypatch.setattr(roles, "hidden_rows", counted)
    monkeypatch.setattr(ppo, "judge", entered(judge))
    monkeypatch.setattr(ppo, "_learn", entered(learn))
    return count


@pytest.mark.parametrize("estimator", ["k1", "exact"])
@pytest.mark.parametrize(("start", "trunks"), [("policy", 2), ("shared", 1)])
def test_each_trunk_is_passed_once(
    project: Path,
    tmp_path: Path,
    passes: dict[bool, int],
    start: Literal["policy", "shared"],
    trunks: int,
    estimator: Literal["k1", "exact"],
) -> None:
    """Judging: policy (with a shared critic), reference, and a critic of its own. An epoch: each trunk that learns."""
    kl = KL(coef=0.1, placement="reward", estimator=estimator)
    critic = CriticSettings(start=start, optim=Optim(lr=1e-3))
    logged(tiny.ppo(project, tmp_path / "ppo", steps=STEPS, epochs=EPOCHS, kl=kl, critic=critic))
    assert passes == {False: STEPS * (trunks + 1), True: STEPS * EPOCHS * trunks}


def test_a_kl_in_the_loss_passes_the_reference_once_an_epoch(
    project: Path, tmp_path: Path, passes: dict[bool, int]
) -> None:
    kl = KL(coef=0.1, placement="loss", estimator="exact")
    critic = CriticSettings(start="shared", optim=Optim(lr=1e-3))
    logged(tiny.ppo(project, tmp_path / "ppo", steps=STEPS, epochs=EPOCHS, kl=kl, critic=critic))
    assert passes == {False: STEPS * (2 + EPOCHS), True: STEPS * EPOCHS}
