"""What lies between the formulas: orders of minibatches, which model's KL bounds a step, who is normalised by what, what a resumed run may change."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prefloop.algorithms import critic_free, trpo
from prefloop.configs.common import Data, RunSettings, Sampling
from prefloop.configs.ppo import KL
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.errors import InputError
from prefloop.loop.learn import deal
from prefloop.losses.objectives import OBJECTIVES
from prefloop.models.load import load_reward_model, reward_moments
from prefloop.records import Prompt
from prefloop.rollout import Rollout
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import World
from prefloop.runtime.checkpoint import compare_fingerprints
from prefloop.runtime.environment import flatten
from prefloop.runtime.run import _MAY_DIFFER
from tests.algorithms.prefer_settings import data_of
from tests.algorithms.small import CPU, STAGES, metrics_of, settings, train, weights_of, write
from tests.algorithms.test_resume import train_with_a_stop_after_every_step
from tests.algorithms.test_trpo import tiny_settings

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
COUNT = 24


def test_every_epoch_of_every_step_has_an_order_of_its_own() -> None:  # D8
    def orders(seed: int, step: int) -> list[list[int]]:
        places = range(COUNT)
        return list(deal(places, places, minibatches=3, epochs=4, seed=seed, step=step))

    found = {
        repr(orders(seed, step)[3 * epoch : 3 * epoch + 3])
        for seed in (0, 1)
        for step in (1, 2, 3)
        for epoch in range(4)
    }
    assert len(found) == 24
    parts = orders(0, 1)
    assert [len(part) for part in parts] == [8] * 12
    for epoch in range(4):
        assert sorted(place for part in parts[3 * epoch : 3 * epoch + 3] for place in part) == list(
            range(COUNT)
        )


def test_the_kl_that_bounds_a_step_of_trpo_is_that_of_the_old_policy_to_the_new_one(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K5
    """The other way round is another number, which is not what the bound was proved for."""
    seen: list[Rollout] = []
    real = trpo.estimate_advantages

    def estimate(config: Any, roles: Any, rollout: Rollout, *rest: Any) -> Any:
        seen.append(rollout)
        return real(config, roles, rollout, *rest)

    monkeypatch.setattr(trpo, "estimate_advantages", estimate)
    config = tiny_settings(project, tmp_path / "run", max_kl=0.5, kl=KL(coef=0.0))
    trpo.train(config)
    (row,) = metrics_of(tmp_path / "run")
    assert row["step_share"] > 0
    (rollout,) = seen
    old, new = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
        for folder in (config.model, tmp_path / "run/final")
    )
    forward = backward = 0.0
    tokens = 0
    with torch.no_grad():
        for group in rollout.groups:
            for completion in group.completions:
                ids, start = torch.tensor([[*group.prompt, *completion]]), len(group.prompt) - 1
                ours, theirs = (model(ids).logits[0, start:-1].log_softmax(-1) for model in (old, new))
                forward += (ours.exp() * (ours - theirs)).sum().item()
                backward += (theirs.exp() * (theirs - ours)).sum().item()
                tokens += len(completion)
    assert row["step_kl"] == pytest.approx(forward / tokens, rel=1e-3)
    assert abs(forward - backward) / tokens > 0.01 * row["step_kl"]


@pytest.fixture(scope="session")
def two_reward_models(project: Path) -> list[str]:
    return [str(project / "reward/final"), str(project / "reward_lora/final")]


@pytest.mark.parametrize("normalise", [True, False])
def test_members_of_an_ensemble_are_normalised_each_by_its_own_moments(
    normalise: bool, two_reward_models: list[str]
) -> None:  # K7
    """Online too, where a single scorer is normalised later: what two reward models have in common is an order, not a scale."""
    prompts, texts = [Prompt(content=word) for word in ("sun", "tea", "oak")], ["!", "no", "yes, so"]
    together = EnsembleScorer.load(two_reward_models, CPU, ALONE, normalise=normalise)
    members = together.members(prompts, texts)
    for name, row in zip(two_reward_models, members, strict=True):
        raw = EnsembleScorer.load(name, CPU, ALONE, normalise=False).members(prompts, texts)[0]
        mean, std = reward_moments(load_reward_model(name, CPU))
        assert (mean, std) != (0.0, 1.0)
        torch.testing.assert_close(row, (raw - mean) / std)
    assert together.moments == (0.0, 1.0)


def test_whitening_reaches_over_what_is_learned_from(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # M10
    """Completions that were cut are not learned from, and do not count in the moments either."""
    seen: list[Any] = []
    real = critic_free._learn

    def learn(config: Any, roles: Any, experience: Any, *rest: Any) -> Any:
        seen.append(experience)
        return real(config, roles, experience, *rest)

    monkeypatch.setattr(critic_free, "_learn", learn)
    config = settings("grpo", project, out="whitened")
    config = replace(
        config,
        run=replace(config.run, out=str(tmp_path / "run")),
        steps=2,
        whiten_advantages=True,
        mask_truncated=True,
        sampling=Sampling(max_new_tokens=4, temperature=1.3),
    )
    train(config)
    for experience in seen:
        kept = experience.advantages[experience.mask]
        assert 0 < experience.mask.any(dim=1).sum() < len(experience.mask)
        assert kept.mean().item() == pytest.approx(0.0, abs=1e-5)
        assert kept.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-2)


def test_a_value_head_survives_a_restart(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R6
    """`dro` learns a value head beside the policy, which no saved model holds."""
    assert OBJECTIVES["dro"].needs.value
    config = PreferConfig(
        run=RunSettings(out=str(tmp_path / "whole"), seed=2),
        data=Data(source=str(data_of("scores", tmp_path / "scores.jsonl", 12)), heldout=0.25),
        model=str(project / "start"),
        loss="dro",
        batch_size=4,
        epochs=0.0,
        max_steps=3,
        compute=CPU,
    )
    train(config)
    broken = replace(config, run=replace(config.run, out=str(tmp_path / "broken")))
    assert train_with_a_stop_after_every_step(broken, monkeypatch) == 3
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")


def soft(file: Path, p_soft: float) -> Path:
    rows = [
        {"prompt": f"p{i}", "chosen": "ab" * (1 + i % 3), "rejected": "c", "p_soft": p_soft} for i in range(8)
    ]
    write(file, rows)
    return file


@pytest.mark.parametrize("stage", ["reward", "prefer"])
def test_how_sure_a_label_is_reaches_the_loss(stage: str, project: Path, tmp_path: Path) -> None:  # K7
    """A label that is as likely wrong as right pulls nowhere at the start."""
    losses = {}
    for p_soft in (0.5, 0.9, 1.0):
        shared: dict[str, Any] = {
            "run": RunSettings(out=str(tmp_path / f"run-{p_soft}"), seed=2),
            "data": Data(source=str(soft(tmp_path / f"{p_soft}.jsonl", p_soft)), heldout=0.0),
            "batch_size": 8,
            "epochs": 0.0,
            "max_steps": 2,
            "compute": CPU,
        }
        if stage == "reward":
            config: Any = RewardConfig(**shared, model=str(project / "reward/final"), keep_head=True)
        else:
            start = str(project / "start")
            config = PreferConfig(
                **shared, model=str(project / "stopping/final"), reference=start, loss="dpo"
            )
        train(config)
        losses[p_soft] = metrics_of(tmp_path / f"run-{p_soft}")[0]["loss"]
    # The expected loss is linear in the probability: p·loss(label) + (1-p)·loss(other label).
    slope = (losses[1.0] - losses[0.5]) / 0.5
    assert abs(slope) > 1e-3
    assert losses[0.9] == pytest.approx(losses[0.5] + 0.4 * slope, abs=1e-4)


MAY_CHANGE = {
    "total_steps",
    *("epochs", "max_steps", "steps", "eval_every", "sampling.batch_size"),
    *("environment.seconds", "environment.parallel", "environment.on_error"),
    *(f"sampling.{name}" for name in ("engine", "sync", "engine_minutes", "engine_tolerance", "staleness", "partial", "engine_memory")),
    *(f"compute.{name}" for name in ("device", "dtype", "attention", "shard", "offload", "micro_batch_tokens", "gradient_checkpointing", "trust_remote_code", "wait_minutes")),
    *(f"run.{name}" for name in ("out", "store", "resume", "save_every", "keep", "log_every", "max_nonfinite", "tune", "track")),
}  # fmt: skip
"""Length, reports, speed, places: nothing that says what is learned from what, and how."""


def may_change(saved: Mapping[str, Any], key: str) -> bool:
    try:
        compare_fingerprints(saved, {**saved, key: "another"}, may_differ=_MAY_DIFFER)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_may_change_these_settings_and_no_others(stage: str, project: Path) -> None:  # R2
    saved = {"total_steps": 4, **flatten(asdict(settings(stage, project, out="never")))}
    assert {key for key in saved if may_change(saved, key)} == MAY_CHANGE & saved.keys()


@pytest.mark.parametrize("stage", ["ppo_policy_critic", "grpo"])
def test_the_controlled_coefficient_weighs_the_kl_in_the_loss(
    stage: str, project: Path, tmp_path: Path
) -> None:  # K12
    """Two horizons give the second step two coefficients, and so two models."""
    weights = []
    for horizon in (20, 2000):
        config = settings(stage, project, out="never")
        config = replace(
            config,
            run=replace(config.run, out=str(tmp_path / str(horizon))),
            reference=str(project / "start"),
            steps=2,
            kl=replace(config.kl, coef=0.2, target=0.05, horizon=horizon, placement="loss", estimator="k2"),
        )
        train(config)
        first, second = (row["kl_coef"] for row in metrics_of(tmp_path / str(horizon)))
        assert first != second
        weights.append(weights_of(tmp_path / str(horizon) / "final"))
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
