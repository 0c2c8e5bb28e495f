"""How many passes through a trunk a step makes: one for each frozen role, one for what shares a trunk, none twice, none that is known."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from prefloop.algorithms import critic_free, ppo
from prefloop.configs.common import Compute, Optim, Sampling
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.engine import Importance
from prefloop.configs.ppo import KL, CriticSettings, OldLogprobs
from prefloop.models import roles
from tests.algorithms import tiny
from tests.algorithms.test_critic_free import tiny_settings
from tests.algorithms.tiny import logged

STEPS, EPOCHS = 2, 3


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[bool, int]:
    """Passes through a trunk inside a step's judging and updates: with gradient and without."""
    count = {True: 0, False: 0}
    real, judge, learn = roles.hidden_rows, ppo.estimate_advantages, ppo._learn
    inside = False

    def counted(*given: Any) -> Any:
        if inside:
            count[torch.is_grad_enabled()] += 1
        return real(*given)

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
    monkeypatch.setattr(ppo, "estimate_advantages", entered(judge))
    monkeypatch.setattr(ppo, "_learn", entered(learn))
    monkeypatch.setattr(critic_free, "estimate_advantages", entered(critic_free.estimate_advantages))
    monkeypatch.setattr(critic_free, "_learn", entered(critic_free._learn))
    return count


@pytest.mark.parametrize(("estimator", "old"), [("k1", "auto"), ("k1", "policy"), ("exact", "auto")])
@pytest.mark.parametrize(("start", "trunks"), [("policy", 2), ("shared", 1)])
def test_each_trunk_is_passed_once(
    project: Path,
    tmp_path: Path,
    passes: dict[bool, int],
    start: Literal["policy", "shared"],
    trunks: int,
    estimator: Literal["k1", "exact"],
    old: OldLogprobs,
) -> None:
    """Judging: reference, critic (with the policy where they share a trunk), and the policy where the sampler's numbers do not do. An epoch: each
    trunk that learns."""
    kl = KL(coef=0.1, placement="reward", estimator=estimator)
    critic = CriticSettings(start=start, optim=Optim(lr=1e-3))
    shape = {"steps": STEPS, "epochs": EPOCHS, "kl": kl, "critic": critic, "old_logprobs": old}
    logged(tiny.ppo(project, tmp_path / "ppo", **shape))
    frozen = 2 if (estimator, old) == ("k1", "auto") else trunks + 1
    assert passes == {False: STEPS * frozen, True: STEPS * EPOCHS * trunks}


def test_a_kl_in_the_loss_passes_the_reference_once_an_epoch(
    project: Path, tmp_path: Path, passes: dict[bool, int]
) -> None:
    kl = KL(coef=0.1, placement="loss", estimator="exact")
    critic = CriticSettings(start="shared", optim=Optim(lr=1e-3))
    logged(tiny.ppo(project, tmp_path / "ppo", steps=STEPS, epochs=EPOCHS, kl=kl, critic=critic))
    assert passes == {False: STEPS * (2 + EPOCHS), True: STEPS * EPOCHS}


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({}, 1),
        ({"old_logprobs": "policy"}, 2),
        ({"importance": Importance(rule="truncate")}, 2),
        ({"kl": KL(coef=0.1, placement="loss", estimator="exact")}, 2),
        ({"kl": KL(coef=0.0)}, 0),
        ({"compute": Compute(device="cpu", dtype="bfloat16"), "kl": KL(coef=0.0)}, 1),
    ],
)
def test_what_the_sampler_said_is_not_computed_again(
    project: Path, tmp_path: Path, passes: dict[bool, int], changes: dict[str, Any], frozen: int
) -> None:
    """A reference's pass where there is a KL, and the policy's own only where the sampler's numbers do not do."""
    changes = {"kl": KL(coef=0.1, placement="loss", estimator="k3"), **changes}
    rows = logged(tiny_settings(GRPOConfig, project, tmp_path / "grpo", steps=STEPS, **changes))
    in_loss = changes["kl"].estimator == "exact"
    assert passes == {False: STEPS * (frozen + in_loss), True: STEPS}
    assert all(row["entropy"] > 0 for row in rows)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("settings", [partial(tiny_settings, GRPOConfig), tiny.ppo])
def test_the_samplers_log_probabilities_are_the_policys(
    settings: Callable[..., Any], project: Path, tmp_path: Path, temperature: float
) -> None:
    """So that a run differs by rounding only from one that computes them again; the entropy is an estimate of the same."""
    shape = {"steps": 4, "minibatches": 2, "kl": KL(coef=0.1, placement="loss", estimator="k3")}
    shape["sampling"] = Sampling(max_new_tokens=8, temperature=temperature)
    own, again = (
        logged(settings(project, tmp_path / each, old_logprobs=each, **shape))
        for each in ("sampler", "policy")
    )
    for mine, theirs in zip(own, again, strict=True):
        assert mine["ratio"] < 1e-5
        for name in ("loss", "score", "kl", "grad_norm", "clip_fraction"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
        assert mine["entropy"] == pytest.approx(theirs["entropy"], rel=0.2)
        assert mine["entropy"] != theirs["entropy"]
