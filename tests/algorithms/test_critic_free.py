"""Every method without a critic learns, begins where it must, and does with groups what it says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms import critic_free
from prefloop.configs.common import RunSettings, Sampling
from prefloop.configs.critic_free import METHODS, CriticFreeConfig, DAPOConfig, GRPOConfig, RLOOConfig
from prefloop.configs.engine import Importance
from prefloop.configs.ppo import KL, A2CConfig, CriticSettings
from prefloop.errors import InputError
from prefloop.models.load import load_policy
from tests.algorithms import tiny
from tests.algorithms.tiny import FAST, logged


def tiny_settings(
    method: type[CriticFreeConfig], project: Path, out: Path, **changes: Any
) -> CriticFreeConfig:
    """A method from a model that has learned nothing, towards small letters."""
    of_ppo = tiny.ppo(project, out)
    config = method(
        run=of_ppo.run,
        data=of_ppo.data,
        model=of_ppo.model,
        reward_model=of_ppo.reward_model,
        sampling=of_ppo.sampling,
        batch_prompts=8,
        completions_per_prompt=4,
        steps=1,
        optim=FAST,
        compute=of_ppo.compute,
    )
    return replace(config, **changes)


@tiny.seeds(1, 2, 3)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.STAGE)
def test_score_rises(method: type[CriticFreeConfig], seed: int, project: Path, tmp_path: Path):
    """From about 1 of 5 (13 of 300 tokens are small letters alone) to about twice that, for each of three seeds."""
    run = RunSettings(out=str(tmp_path / "run"), seed=seed)
    # The published clip of GSPO is for a learning rate of a millionth: here it would cut every second update away.
    clips = {"clip_low": 0.2, "clip_high": 0.2} if method.STAGE == "gspo" else {}
    # Its baseline is one greedy completion, so its advantages are the noisiest.
    steps = 40 if method.STAGE == "remax" else 25
    rows = logged(tiny_settings(method, project, tmp_path / "run", steps=steps, run=run, **clips))
    assert rows[0]["score"] < 1.5
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + 1.0
    assert all(row["ratio"] < 1e-4 for row in rows)
    if "kl" in rows[0]:
        assert abs(rows[0]["kl"]) < 1e-4
        assert rows[-1]["kl"] > 0.1


def test_a2c_learns(project: Path, tmp_path: Path):
    of_ppo = tiny.ppo(project, tmp_path / "run")
    config = A2CConfig(
        run=of_ppo.run,
        data=of_ppo.data,
        model=of_ppo.model,
        reward_model=of_ppo.reward_model,
        sampling=of_ppo.sampling,
        steps=30,
        batch_prompts=16,
        kl=KL(coef=0.01),
        critic=CriticSettings(start="shared", coef=0.5, clip=0.0, optim=FAST),
        optim=FAST,
        compute=of_ppo.compute,
    )
    rows = logged(config)
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + 1.0
    # One update a batch, so the ratio stays 1 and nothing is ever clipped.
    assert all(row["clip_fraction"] == 0 for row in rows)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """(batch, experience, metrics) of every step."""
    seen: list[tuple[Any, ...]] = []
    real = critic_free.estimate_advantages

    def judge(config: Any, roles: Any, batch: Any, *rest: Any) -> Any:
        experience, metrics = real(config, roles, batch, *rest)
        seen.append((batch, experience, metrics))
        return experience, metrics

    monkeypatch.setattr(critic_free, "estimate_advantages", judge)
    return seen


def test_no_reference_is_loaded_where_there_is_no_kl(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise AssertionError("a reference was opened")

    monkeypatch.setattr(critic_free, "reference_of", refuse)
    (row,) = logged(tiny_settings(DAPOConfig, project, tmp_path / "run"))
    assert not {"kl", "kl_distance", "kl_coef"} & row.keys()


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_a_strong_kl_holds_the_policy_back(placement: Any, project: Path, tmp_path: Path):  # K5 K7
    ends = {}
    for coef in (0.001, 3.0):
        kl = KL(coef=coef, placement=placement, estimator="k1" if placement == "reward" else "k2")
        settings = tiny_settings(
            RLOOConfig, project, tmp_path / str(coef), steps=15, kl=kl, reduction="token_mean"
        )
        ends[coef] = logged(settings)[-1]["kl"]
    assert ends[3.0] < 0.3 * ends[0.001]


def test_a_wrong_reference_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # K9
    other = load_policy(str(project / "other"), tiny.CPU)
    monkeypatch.setattr(critic_free, "reference_of", lambda *_: other)
    with pytest.raises(InputError, match="step 0: kl is"):
        logged(tiny_settings(GRPOConfig, project, tmp_path / "run"))


def test_a_loss_that_is_not_the_known_one_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # N9
    """Advantages moved by a token between judging and learning: the ratio is still 1, the loss is not."""
    real = critic_free._policy_loss

    def moved(config: Any, roles: Any, experience: Any, *rest: Any) -> Any:
        loss = real(config, roles, experience, *rest)
        rest[-1].first.loss += 0.1
        return loss

    monkeypatch.setattr(critic_free, "_policy_loss", moved)
    with pytest.raises(InputError, match="step 0: policy_loss is"):
        logged(tiny_settings(GRPOConfig, project, tmp_path / "run"))


def test_dynamic_sampling_keeps_groups_that_differ_and_fills_the_batch(
    project: Path, tmp_path: Path, judged: list[tuple[Any, ...]]
):
    """Sixteen prompts, batches of eight, pairs of completions scored 0 or 1: about half of the groups are equal."""
    settings = tiny_settings(
        DAPOConfig,
        project,
        tmp_path / "run",
        completions_per_prompt=2,
        dynamic_sampling=3,
        reward_model="tests.algorithms.test_critic_free:ends_early_in_the_alphabet",
        steps=4,
    )
    rows = logged(settings)
    assert any(row["rounds"] > 1 for row in rows)
    for (batch, _, _), row in zip(judged, rows, strict=True):
        pairs = batch.scores.view(-1, 2)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert len(pairs) == len(batch.rollout.prompts) == batch.total <= 8
        if row["rounds"] < 4:
            assert batch.total == 8
        assert 0 < row["equal_groups"] < 1


def ends_early_in_the_alphabet(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """0 or 1."""
    return [float(any(c in "abcdef" for c in text)) for text in completions]


def nothing_matters(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """All the same."""
    return [0.1] * len(completions)


def test_a_step_whose_groups_are_all_equal_changes_nothing(project: Path, tmp_path: Path):
    settings = tiny_settings(
        DAPOConfig,
        project,
        tmp_path / "run",
        reward_model="tests.algorithms.test_critic_free:nothing_matters",
    )
    (row,) = logged(settings)
    assert row["grad_norm"] == 0
    assert row["equal_groups"] == 1
    assert row["rounds"] == 3


def test_cut_completions_are_not_learned_from(
    project: Path, tmp_path: Path, judged: list[tuple[Any, ...]]
):  # N4
    settings = tiny_settings(
        GRPOConfig,
        project,
        tmp_path / "run",
        model=str(project / "stopping/final"),
        sampling=Sampling(max_new_tokens=4),
        mask_truncated=True,
    )
    (row,) = logged(settings)
    ((batch, experience, _),) = judged
    ended = torch.tensor([end for ends in batch.rollout.ended for end in ends])
    assert ended.any()
    assert not ended.all()
    assert torch.equal(experience.mask.any(1), ended)
    assert row["trained"] == pytest.approx(ended.float().mean().item()) == pytest.approx(row["ended"])


def test_where_every_completion_is_cut_no_update_is_made(project: Path, tmp_path: Path):
    settings = tiny_settings(
        GRPOConfig, project, tmp_path / "run", sampling=Sampling(max_new_tokens=1), mask_truncated=True
    )
    (row,) = logged(settings)
    if row["trained"] == 0:
        assert "loss" not in row


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"completions_per_prompt": 1}, "completions_per_prompt is 1"),
        ({"baseline": "greedy"}, "baseline is greedy"),
        ({"surrogate": "score", "epochs": 2}, "epochs .2. and minibatches .1. must be 1"),
        ({"surrogate": "score", "ratio": "sequence_mean"}, "ratio is sequence_mean"),
        ({"kl_weighted": True, "kl": KL(coef=0.1)}, "kl_weighted is set"),
        ({"importance": Importance(rule="truncate"), "old_logprobs": "sampler"}, "so both are needed"),
        ({"importance": Importance(high=3.0)}, "high is 3.0, but importance.rule is off"),
        ({"kl": KL(coef=0.1, estimator="exact"), "old_logprobs": "sampler"}, "an exact KL needs"),
        ({"advantage": "return", "baseline": "greedy", "dynamic_sampling": 1}, "set baseline to none"),
        ({"sampling": Sampling(top_p=0.9)}, "top_p"),
        ({"sampling": Sampling(temperature=0.0)}, "temperature is 0"),
        ({"clip_low": 1.5}, "clip_low is 1.5"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], named: str, tmp_path: Path):
    settings = {"run": RunSettings(out="x"), "data": tiny.Data(source="y"), "model": "m", "reward_model": "r"}
    with pytest.raises(InputError, match=named):
        GRPOConfig(**settings, **changes)
