"""NLPO: PPO where nothing is masked, to the bit; elsewhere what is drawn, compared and learned is of one masked distribution."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms import nlpo, ppo
from prefloop.configs.common import LoRA, RunSettings, Sampling
from prefloop.configs.ppo import KL, NLPOConfig, PPOConfig
from prefloop.errors import InputError
from prefloop.loop import actor_critic, supports
from prefloop.models.masked import unpack_bits
from prefloop.models.packing import micro_batches, pack
from prefloop.models.roles import vocabulary_size
from prefloop.rollout.steered import nucleus
from tests.algorithms import tiny
from tests.algorithms.small import assert_same, train
from tests.algorithms.tiny import CPU, logged


def masked(basic: PPOConfig, **changes: Any) -> NLPOConfig:
    """The same settings for NLPO."""
    return NLPOConfig(**{field.name: getattr(basic, field.name) for field in fields(basic)} | changes)


def test_with_all_tokens_allowed_it_is_ppo_to_the_bit(project: Path, tmp_path: Path):
    basic = tiny.ppo(project, tmp_path / "ppo", steps=2, epochs=2, minibatches=2)
    train(basic)
    train(masked(basic, top_p=1.0, run=RunSettings(out=str(tmp_path / "nlpo"), seed=1)))
    assert_same(tmp_path / "nlpo", tmp_path / "ppo")


@tiny.seeds(1, 2, 3)
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_it_learns(top_p: float, seed: int, project: Path, tmp_path: Path):
    basic = tiny.ppo(
        project, tmp_path, steps=14, epochs=2, run=RunSettings(out=str(tmp_path / "run"), seed=seed)
    )
    rows = logged(masked(basic, top_p=top_p, mask_every=3))
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + 1.0
    assert all(row["ratio"] < 1e-3 for row in rows)
    if top_p < 1:  # at 1 it is PPO
        assert rows[0]["allowed"] > rows[-1]["allowed"]  # what has become likely leaves less room


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """(roles, rollout, experience, metrics, masking weights) of every step."""
    steps: list[tuple[Any, ...]] = []
    maskings: list[Any] = []
    real_open, real_judge = nlpo.open_masking, ppo.estimate_advantages

    def opened(*arguments: Any) -> Any:
        found = real_open(*arguments)
        maskings.append(found)
        return found

    def judge(config: Any, roles: Any, rollout: Any, *rest: Any) -> Any:
        experience, metrics = real_judge(config, roles, rollout, *rest)
        weights = [parameter.clone() for parameter in maskings[0].masking.parameters()]
        policy = [parameter.detach().clone() for parameter in roles.policy.parameters()]
        steps.append((roles, rollout, experience, metrics, weights, policy, maskings[0]))
        return experience, metrics

    monkeypatch.setattr(nlpo, "open_masking", opened)
    monkeypatch.setattr(ppo, "estimate_advantages", judge)
    return steps


def test_the_masking_policy_follows_every_so_many_steps(
    project: Path, tmp_path: Path, seen: list[tuple[Any, ...]]
):
    logged(masked(tiny.ppo(project, tmp_path / "run", steps=5), mask_every=2))
    weights, policies = [step[4] for step in seen], [step[5] for step in seen]

    def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
        return all(map(torch.equal, a, b))

    assert same(weights[0], policies[0])
    assert same(weights[1], weights[0])
    assert not same(weights[1], policies[1])
    assert same(weights[2], policies[2])
    assert same(weights[3], weights[2])
    assert same(weights[4], policies[4])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_is_learned_from_is_the_distribution_that_was_drawn_from(
    temperature: float, project: Path, tmp_path: Path, seen: list[tuple[Any, ...]]
):  # K1 K8
    """The old log-probabilities are the sampler's; the KL is of the unmasked ones; every drawn token was allowed."""
    config = masked(
        tiny.ppo(project, tmp_path / "run", model=str(project / "stopping/final")),
        top_p=0.5,
        reference=str(project / "start"),
        sampling=Sampling(max_new_tokens=5, temperature=temperature),
    )
    logged(config)
    ((roles, rollout, experience, metrics, *_, masking),) = seen
    drawn = [torch.tensor(row) for rows in rollout.sampler_logprobs for row in rows]
    for row, old in zip(drawn, experience.old_logprobs, strict=True):
        torch.testing.assert_close(old[: len(row)], row, atol=1e-4, rtol=1e-4)
    # The step's update has moved the policy; the frozen copy is what drew, since step 1 renews it.
    kl = torch.zeros(())
    for group, bits in zip(rollout.groups, experience.supports, strict=True):
        batch = pack([group])
        with torch.no_grad():
            whole = masking.masking(batch, temperature=temperature)
            kl += (whole - roles.reference(batch, temperature=temperature)).sum()
        allowed = unpack_bits(bits, vocabulary_size(roles.policy))
        assert allowed.gather(1, batch.targets[:, None]).all()
        assert not allowed.all()
    assert metrics["kl"] == pytest.approx(kl.item() / len(rollout), rel=1e-3)


def test_a_mask_that_moves_between_drawing_and_learning_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # K8
    """Other tokens allowed in the update than when log-probabilities were kept: the ratio is not 1."""
    real, calls = supports.statistics_among, [0]

    def other(policy: Any, hidden: Any, batch: Any, allowed: Any, **rest: Any) -> Any:
        calls[0] += 1
        if calls[0] > 1:  # the first is of the rollout
            allowed = [torch.full_like(bits, 255) for bits in allowed]
        return real(policy, hidden, batch, allowed, **rest)

    monkeypatch.setattr(supports, "statistics_among", other)
    monkeypatch.setattr(actor_critic, "statistics_among", other)
    with pytest.raises(InputError, match="step 0: ratio is"):
        logged(masked(tiny.ppo(project, tmp_path / "run", model=str(project / "stopping/final")), top_p=0.5))


def test_supports_do_not_depend_on_how_groups_are_cut(
    project: Path, tmp_path: Path, seen: list[tuple[Any, ...]]
):
    config = masked(tiny.ppo(project, tmp_path / "run"), top_p=0.7)
    logged(config)
    (_, rollout, _, _, _, _, masking), _ = *seen, None
    whole = masking.supports(rollout.groups)
    for group, bits in zip(rollout.groups, whole, strict=True):
        (alone,) = masking.supports([group])
        assert torch.equal(alone, bits)
    (part,) = micro_batches(rollout.groups[:1], tokens=1 << 20)
    assert len(whole[0]) == len(part.batch.targets)
    assert nucleus(torch.zeros(1, 4), top_p=0.5, least=1).sum() == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"mask_least": 0}, "mask_least is 0"),
        ({"mask_every": 0}, "mask_every is 0"),
        ({"lora": LoRA(rank=2)}, "masking policy is a copy of all weights"),
        ({"old_logprobs": "sampler"}, "are among the allowed tokens"),
        ({"kl": KL(placement="loss", estimator="k2")}, "placement is loss"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named):
        NLPOConfig(
            run=RunSettings(out="x"),
            data=tiny.Data(source="y"),
            model="m",
            reward_model="r",
            compute=CPU,
            **changes,
        )


def test_ppo_does_not_train_its_settings_without_the_mask():
    config = NLPOConfig(
        run=RunSettings(out="x"), data=tiny.Data(source="y"), model="m", reward_model="r", compute=CPU
    )
    with pytest.raises(InputError, match=r"an NLPOConfig with top_p 0\.9, but PPO masks no tokens"):
        ppo.train(config)
