"""PPO learns with every start of its critic, placement of the KL and estimator; and it begins where it must: ratio 1, KL 0."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from prefloop.algorithms import ppo
from prefloop.configs.common import Optim, Sampling
from prefloop.configs.ppo import KL, CriticSettings
from prefloop.errors import InputError
from prefloop.loop import actor_critic
from prefloop.models.load import critic_from_reward_model, load_policy, load_reward_model
from prefloop.models.roles import Policy
from tests.algorithms import test_reward, tiny
from tests.algorithms.small import weights_of
from tests.algorithms.tiny import CPU, FAST, logged
from tests.tiny_project import tokenizer

Estimator = Literal["k1", "k2", "k3", "exact"]
LOSS: tuple[Estimator, ...] = ("k2", "k3", "exact")
REWARD: tuple[Estimator, ...] = ("k1", *LOSS)


@pytest.mark.parametrize(
    ("start", "placement", "estimator"),
    [
        ("policy", "reward", "k1"),
        ("shared", "reward", "k2"),
        ("policy", "reward", "k3"),
        ("shared", "reward", "exact"),
        ("policy", "loss", "k2"),
        ("shared", "loss", "k3"),
        ("policy", "loss", "exact"),
    ],
)
def test_score_rises(
    start: Literal["policy", "shared"],
    placement: Literal["reward", "loss"],
    estimator: Estimator,
    project: Path,
    tmp_path: Path,
) -> None:  # K4 K7
    settings = tiny.ppo(
        project,
        tmp_path / "ppo",
        steps=18,
        epochs=2,
        kl=KL(coef=0.01, placement=placement, estimator=estimator),
        critic=CriticSettings(start=start, optim=FAST),
    )
    rows = logged(settings)
    last = sum(row["score"] for row in rows[-3:]) / 3
    assert rows[0]["score"] < 1.5  # 13 of 300 tokens, five draws
    assert last > rows[0]["score"] + 1.5
    assert rows[0]["ratio"] < 1e-4
    assert abs(rows[0]["kl"]) < 1e-4
    assert rows[-1]["kl"] > 0.1


def test_a_learned_reward_model_is_followed(project: Path, tmp_path: Path) -> None:
    """Comparisons to reward model to PPO, critic from the reward model."""
    logged(test_reward.config(project, tmp_path / "reward"))
    settings = tiny.ppo(
        project,
        tmp_path / "ppo",
        steps=15,
        epochs=2,
        reward_model=str(tmp_path / "reward/final"),
        kl=KL(coef=0.0),
        critic=CriticSettings(start="reward", optim=Optim(lr=3e-3)),
    )
    rows = logged(settings)
    assert sum(row["score"] for row in rows[-3:]) / 3 > sum(row["score"] for row in rows[:2]) / 2 + 0.5
    assert rows[0]["ratio"] < 1e-4
    assert abs(rows[0]["kl"]) < 1e-4


def test_a_strong_kl_penalty_holds_the_policy_back(project: Path, tmp_path: Path) -> None:  # K5 K7
    """A wrong sign would push it away."""
    ends: dict[tuple[str, float], float] = {}
    choices: tuple[tuple[Literal["reward", "loss"], Estimator], ...] = (("reward", "k1"), ("loss", "exact"))
    for placement, estimator in choices:
        for coef in (0.0, 3.0):
            kl = KL(coef=coef, placement=placement, estimator=estimator)
            out = tmp_path / f"{placement}{coef:g}"
            rows = logged(tiny.ppo(project, out, steps=14, epochs=2, kl=kl))
            ends[placement, coef] = rows[-1]["kl"]
        assert ends[placement, 3.0] < 0.3 * ends[placement, 0.0]


def spy_judge(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `ppo.estimate_advantages` was given and gave: (config, roles, rollout, scores, experience, metrics) of every step."""
    seen: list[tuple[Any, ...]] = []
    real = ppo.estimate_advantages

    def judge(config: Any, roles: Any, rollout: Any, scores: Any, *rest: Any) -> Any:
        experience, metrics = real(config, roles, rollout, scores, *rest)
        seen.append((config, roles, rollout, scores, copy.copy(experience), metrics))
        return experience, metrics

    monkeypatch.setattr(ppo, "estimate_advantages", judge)
    return seen


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("start", ["policy", "shared"])
def test_old_logprobs_are_the_samplers_at_its_temperature(
    temperature: float,
    start: Literal["policy", "shared"],
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # K1 K11 D2
    seen = spy_judge(monkeypatch)
    settings = tiny.ppo(
        project,
        tmp_path / "ppo",
        model=str(project / "stopping/final"),  # a policy with an opinion
        sampling=Sampling(max_new_tokens=5, temperature=temperature),
        steps=2,
        critic=CriticSettings(start=start, optim=FAST),
        old_logprobs="policy",
    )
    rows = logged(settings)
    for _, _, rollout, _, experience, _ in seen:
        sampled = [one for row in rollout.sampler_logprobs for one in row]
        for ours, theirs in zip(experience.old_logprobs, sampled, strict=True):
            torch.testing.assert_close(ours[: len(theirs)], torch.tensor(theirs), rtol=1e-4, atol=1e-4)
    assert all(row["ratio"] < 1e-4 for row in rows)
    assert rows[0]["kl_distance"] < 1e-5


def test_values_do_not_depend_on_the_temperature(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K2
    """The same tokens have the same values, whatever temperature they were drawn at."""
    seen = spy_judge(monkeypatch)
    settings = tiny.ppo(project, tmp_path / "ppo", reward_model=str(project / "reward/final"))
    hot = replace(
        settings,
        critic=CriticSettings(start="reward"),
        sampling=Sampling(max_new_tokens=5, temperature=2.5),
    )
    logged(hot)
    _, roles, rollout, _, experience, _ = seen[0]
    from prefloop.models.packing import pack

    with torch.no_grad():
        critic = critic_from_reward_model(load_reward_model(hot.reward_model, CPU), normalised=True)
        values = critic(pack(rollout.groups, roles.policy.device))
    assert values.abs().max() > 0.01
    torch.testing.assert_close(experience.old_values, values, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def with_dropout(project: Path) -> str:
    """A GPT-2 whose configuration drops out half of everything."""
    folder = project / "dropout"
    ours: Any = tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(ours),
        n_positions=64,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=0.5,
        embd_pdrop=0.5,
        attn_pdrop=0.5,
        bos_token_id=ours.bos_token_id,
        eos_token_id=ours.eos_token_id,
        initializer_range=0.3,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    ours.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("start", ["policy", "shared"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_ratio_is_1_and_kl_0_for_a_model_with_dropout(
    checkpointing: bool, start: Literal["policy", "shared"], with_dropout: str, project: Path, tmp_path: Path
) -> None:  # K8
    """Gradient checkpointing puts transformers' models into training mode: dropout must be off by itself."""
    settings = tiny.ppo(
        project,
        tmp_path / "ppo",
        model=with_dropout,
        compute=replace(CPU, gradient_checkpointing=checkpointing),
        critic=CriticSettings(start=start, optim=FAST),
        steps=2,
    )
    rows = logged(settings)
    assert all(row["ratio"] < 1e-4 for row in rows)
    assert rows[0]["kl_distance"] < 1e-5


@pytest.mark.parametrize("estimator", REWARD)
def test_a_wrong_reference_stops_the_run_at_step_0(
    estimator: Estimator, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K9
    other = load_policy(str(project / "other"), CPU)
    monkeypatch.setattr(actor_critic, "reference_of", lambda *_: other)
    settings = tiny.ppo(project, tmp_path / "ppo", kl=KL(coef=0.1, estimator=estimator))
    with pytest.raises(
        InputError, match=r"step 0: kl is .* must be 0 \(within .*raise sampling.temperature \(it is 1"
    ) as error:
        logged(settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ppo").exists()  # refused before its first step was done


def test_old_logprobs_of_another_forward_stop_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K1 K11
    """The temperature forgotten in the updates' forward: nothing else would say so."""
    real = Policy.statistics
    calls: list[float] = []

    def forgetful(self: Policy, batch: Any, *, temperature: float = 1.0, entropy: bool = False) -> Any:
        calls.append(temperature)
        return real(self, batch, temperature=1.0 if torch.is_grad_enabled() else temperature, entropy=entropy)

    monkeypatch.setattr(Policy, "statistics", forgetful)
    settings = tiny.ppo(
        project,
        tmp_path / "ppo",
        model=str(project / "stopping/final"),
        sampling=Sampling(max_new_tokens=5, temperature=0.7),
    )
    with pytest.raises(InputError, match=r"step 0: ratio is .* must be 1 \(within"):
        logged(settings)
    assert set(calls) == {0.7}


def test_the_reference_does_not_change(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K9
    """Its log-probabilities of the same tokens are, at the end, those of the model that the policy began as."""
    seen = spy_judge(monkeypatch)
    logged(tiny.ppo(project, tmp_path / "ppo", steps=3))
    roles, last = seen[-1][1], seen[-1][4]
    begun = weights_of(project / "start")
    for name, tensor in roles.reference.model.state_dict().items():
        if f"model.safetensors:{name}" in begun:
            assert torch.equal(tensor, begun[f"model.safetensors:{name}"]), name
    from prefloop.models.packing import pack

    start = load_policy(str(project / "start"), CPU)
    with torch.no_grad():
        theirs = start(pack(last.groups, start.device))
    torch.testing.assert_close(last.reference_logprobs, theirs, rtol=1e-4, atol=1e-5)
    assert (last.old_logprobs - theirs).abs().max() > 0.05  # while the policy has moved


def test_with_adapters_the_reference_is_the_trunk(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K9
    from prefloop.configs.common import LoRA
    from prefloop.models.packing import pack

    seen = spy_judge(monkeypatch)
    settings = tiny.ppo(
        project,
        tmp_path / "ppo",
        model=str(project / "stopping/final"),
        lora=LoRA(rank=2, alpha=8.0),
        steps=4,
        optim=Optim(lr=5e-2),
    )
    logged(settings)
    last = seen[-1][4]
    start = load_policy(settings.model, CPU)
    with torch.no_grad():
        theirs = start(pack(last.groups, start.device))
    torch.testing.assert_close(last.reference_logprobs, theirs, rtol=1e-4, atol=1e-5)
    assert (last.old_logprobs - theirs).abs().max() > 0.01
