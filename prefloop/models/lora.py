"""LoRA roles (arXiv:2106.09685) through PEFT: one frozen trunk, one adapter per role, the reference is the trunk with adapters off.

PEFT is imported where it is used, not with this module: a run without an adapter does not wait for it.
"""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefloop.configs.common import LoRA
from prefloop.errors import InputError
from prefloop.models.generation import save_model
from prefloop.models.roles import Critic, Policy, RewardModel, scalar_head

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

Task = Literal["CAUSAL_LM", "SEQ_CLS"]

ADAPTER = "adapter"
"""Folder of the adapter by itself, inside a saved model's."""


def _settings(lora: LoRA, task: Task) -> "LoraConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=list(lora.targets) if lora.targets else "all-linear",
        lora_dropout=0.0,
        task_type=task,
    )


def add_adapter(model: PreTrainedModel, lora: LoRA, name: str, *, task: Task, seed: int) -> "PeftModel":
    """Freeze the model and add a trainable adapter whose update is zero at the start (A from the seed, B = 0).

    The layers are replaced inside `model`; the returned object saves and loads adapters. Raises `InputError` for unknown target names.
    """
    from peft import PeftModel, get_peft_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="fan_in_fan_out"
        )  # GPT-2's transposed layers: PEFT sets what is right
        torch.manual_seed(seed)
        try:
            peft = get_peft_model(model, _settings(lora, task), adapter_name=name)
        except ValueError as error:
            raise InputError(f"lora.targets is {list(lora.targets)}; {error}") from error
    assert isinstance(peft, PeftModel)
    return peft


def add_another_adapter(peft: "PeftModel", lora: LoRA, name: str, *, seed: int) -> None:
    """One more adapter on a trunk that has some."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(seed)
        peft.add_adapter(name, _settings(lora, "CAUSAL_LM"))


def lora_policy(policy: Policy, lora: LoRA, *, seed: int) -> tuple[Policy, "PeftModel"]:
    """The policy with a trainable adapter named `policy` on its frozen trunk."""
    peft = add_adapter(policy.model, lora, "policy", task="CAUSAL_LM", seed=seed)
    return Policy(policy.model, way=policy.way, linear_head=policy.linear_head, adapter_name="policy"), peft


def lora_reward_model(reward_model: RewardModel, lora: LoRA, *, seed: int) -> tuple[RewardModel, "PeftModel"]:
    """The reward model with a trainable adapter named `reward` and a trainable head on its frozen trunk."""
    peft = add_adapter(reward_model.model, lora, "reward", task="SEQ_CLS", seed=seed)
    score = peft.get_base_model().score
    assert isinstance(score, nn.Module)
    return RewardModel(reward_model.model, score, way=reward_model.way, adapter_name="reward"), peft


def save_adapter(peft: "PeftModel", name: str, folder: Path) -> None:
    """One role's adapter as a PEFT folder (adapter_config.json, adapter_model.safetensors)."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        peft.save_pretrained(temporary, selected_adapters=[name])
        written = Path(temporary) / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (written if written.is_dir() else Path(temporary)).iterdir():
            if file.is_file():
                shutil.move(str(file), folder / file.name)


def load_adapter_weights(peft: "PeftModel", name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Read a saved adapter's weights into adapter `name`; returns what the file holds besides (a score head, say).

    A head goes in too where the adapter has one of its own, as a reward model's does.

    Raises `InputError` where the file does not fit the trunk.
    """
    from peft.utils import ModulesToSaveWrapper, set_peft_model_state_dict

    file = folder / "adapter_model.safetensors"
    if not file.exists():
        raise InputError(f"{folder} holds no adapter_model.safetensors")
    weights = load_file(file)
    adapter = {key: value for key, value in weights.items() if ".lora_" in key}
    has_head = any(isinstance(module, ModulesToSaveWrapper) for module in peft.modules())
    result = set_peft_model_state_dict(peft, weights if has_head else adapter, adapter_name=name)
    if result.unexpected_keys:
        raise InputError(
            f"the adapter in {folder} does not fit this model: it has {result.unexpected_keys[0]}"
        )
    return {key: value for key, value in weights.items() if ".lora_" not in key}


def critic_on_trunk(peft: "PeftModel", policy: Policy, lora: LoRA, *, seed: int) -> Critic:
    """A critic on the policy's frozen trunk: an adapter `critic` and a float32 head of zeros."""
    add_another_adapter(peft, lora, "critic", seed=seed)
    width = policy.head().weight.shape[1]
    head = scalar_head(width, std=0.0, generator=torch.Generator().manual_seed(seed)).to(policy.device)
    return Critic(policy.model, head, way=policy.way, adapter_name="critic")


def reward_model_on_trunk(peft: "PeftModel", policy: Policy, lora: LoRA, folder: Path) -> RewardModel:
    """A reward model trained with LoRA on this very trunk, as a frozen adapter of it; `folder` is its adapter folder."""
    add_another_adapter(peft, lora, "reward", seed=0)
    rest = load_adapter_weights(peft, "reward", folder)
    head_keys = [key for key in rest if key.endswith("score.weight")]
    if len(head_keys) != 1:
        raise InputError(
            f"the adapter in {folder} has no score head; train it with `prefloop reward` and lora.rank above 0"
        )
    weight = rest[head_keys[0]]
    head = scalar_head(weight.shape[1], std=0.0, generator=torch.Generator())
    with torch.no_grad():
        head.weight.copy_(weight)
    head.to(policy.device).requires_grad_(False)
    return RewardModel(policy.model, head, way=policy.way, adapter_name="reward")


def merged_weights(model: PreTrainedModel, name: str) -> dict[str, torch.Tensor]:
    """The model's weights with adapter `name` added in, under the names of the model without adapters. The model is left as it is."""
    from peft.tuners.lora import LoraLayer

    weights: dict[str, torch.Tensor] = {}
    for key, value in model.state_dict().items():
        if ".lora_" in key or ".original_module." in key:
            continue
        weights[key.replace(".base_layer.", ".").replace(f".modules_to_save.{name}.", ".")] = value
    for module_name, module in model.named_modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            key = f"{module_name}.weight"
            update = module.get_delta_weight(name)  # pyright: ignore[reportAttributeAccessIssue]  every kind has its own
            weights[key] = weights[key] + update.to(weights[key].dtype)
    return weights


def save_merged(
    role: Policy | RewardModel, peft: "PeftModel", tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """The role's adapter by itself in `folder/adapter`, and merged into the trunk as a plain model in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(peft, role.adapter_name, folder / ADAPTER)
    save_model(role.model, tokenizer, folder, merged_weights(role.model, role.adapter_name))
