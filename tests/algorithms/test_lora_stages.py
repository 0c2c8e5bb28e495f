"""Stages that train adapters on one frozen trunk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prefloop.models.load import load_policy, load_reward_model, stored_reward_moments
from prefloop.models.lora import lora_policy, reward_model_on_trunk
from prefloop.models.packing import pack
from prefloop.models.quiet import quiet
from prefloop.text.groups import Group
from tests.algorithms.small import metrics_of, settings

POLICIES = ("sft_lora", "dpo_lora", "ppo_lora", "ppo_lora_shared")


@pytest.mark.parametrize("name", POLICIES)
def test_merged_model_equals_trunk_with_adapter(
    name: str, project: Path, unbroken: Callable[[str], Path]
) -> None:  # R8
    final, base = unbroken(name) / "final", settings(name, project, out="unused").model
    ids = torch.tensor([[5, 80, 90, 100]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(final)(ids).logits
        trunk = AutoModelForCausalLM.from_pretrained(base)
        plain = trunk(ids).logits
        with quiet():
            theirs = PeftModel.from_pretrained(trunk, str(final / "adapter"))
        adapted = theirs(ids).logits
    torch.testing.assert_close(adapted, merged, rtol=1e-5, atol=1e-5)
    assert (merged - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", POLICIES)
def test_only_adapted_layers_change(name: str, project: Path, unbroken: Callable[[str], Path]) -> None:
    base = load_file(f"{settings(name, project, out='unused').model}/model.safetensors")
    trained = load_file(unbroken(name) / "final/model.safetensors")
    changed = {key for key in base if not torch.equal(base[key], trained[key])}
    assert changed == {key for key in base if key.endswith("_proj.weight")}


def test_roles_on_one_trunk_keep_to_their_own_adapters(
    project: Path, unbroken: Callable[[str], Path]
) -> None:
    # The critic began as the reward model's adapter and learned; the reward model's own stayed.
    critic = load_file(unbroken("ppo_lora") / "final/critic/adapter_model.safetensors")
    reward = load_file(project / "reward_lora/final/adapter/adapter_model.safetensors")
    policy = load_file(unbroken("ppo_lora") / "final/adapter/adapter_model.safetensors")
    shared = critic.keys() & reward.keys()
    assert shared == policy.keys()
    assert not any(torch.equal(critic[key], reward[key]) for key in shared)
    assert not any(torch.equal(critic[key], policy[key]) for key in shared)


@pytest.mark.parametrize("name", ["ppo_lora", "ppo_lora_shared"])
def test_reference_is_the_trunk_with_adapters_off(name: str, unbroken: Callable[[str], Path]) -> None:  # K9
    first, *_, last = metrics_of(unbroken(name))
    assert first["kl_distance"] < 1e-6  # another model would be a thousand times as far
    assert last["kl_distance"] > 1e-3


@pytest.mark.parametrize("name", ["ppo_lora", "ppo_lora_shared"])
def test_scores_are_normalised_by_the_reward_adapter_s_moments(
    name: str, project: Path, unbroken: Callable[[str], Path]
) -> None:
    mean, std = stored_reward_moments(settings(name, project, out="unused").reward_model)
    first = metrics_of(unbroken(name))[0]  # no KL yet, so the score is all of the reward
    assert std != 1.0
    assert first["reward"] == pytest.approx((first["score"] - mean) / std, rel=1e-5)


def test_reward_adapter_on_the_trunk_scores_as_the_merged_model(
    project: Path, unbroken: Callable[[str], Path]
) -> None:  # R8 C3
    config = settings("ppo_lora", project, out="unused")
    policy, peft = lora_policy(load_policy(config.model, config.compute), config.lora, seed=0)
    adapter = reward_model_on_trunk(peft, policy, config.lora, Path(config.reward_model) / "adapter")
    merged = load_reward_model(config.reward_model, config.compute)
    batch = pack([Group(prompt=[1, 80, 90], completions=([100, 7], [5]), masks=([True] * 2, [True]))])
    with torch.no_grad():
        torch.testing.assert_close(adapter(batch), merged(batch), rtol=1e-5, atol=1e-5)
