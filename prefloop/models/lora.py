"""LoRA roles (arXiv:2106.09685) through PEFT: one frozen trunk, one adapter per role, the reference is the trunk with adapters off.

PEFT is imported where it is used, not with this module: a run without an adapter does not wait for it.
"""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefloop.configs.adapters import ABOUT, CONFIG, WEIGHTS, Adapter, read_object
from prefloop.configs.common import LoRA
from prefloop.configs.model_names import model_name
from prefloop.errors import InputError
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.from_adapter import SCORED_BY, adapter_tensors, as_it_says, put_in, score_head, trainable
from prefloop.models.gathering import gathered
from prefloop.models.generation import save_model
from prefloop.models.quantize import lies_across, plain_weights
from prefloop.models.quiet import quiet
from prefloop.models.roles import Critic, Policy, RewardModel, scalar_head
from prefloop.models.weights import read_tensors
from prefloop.runtime.dealt import is_dealt

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

Task = Literal["CAUSAL_LM", "SEQ_CLS"]

CARD = "README.md"
"""PEFT writes one of blanks to fill in; `prefloop push` writes one that says something."""

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

    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        try:
            peft = get_peft_model(model, _settings(lora, task), adapter_name=name)
        except ValueError as error:
            raise InputError(f"lora.targets is {list(lora.targets)}; {error}") from error
    assert isinstance(peft, PeftModel)
    return peft


def add_another_adapter(peft: "PeftModel", lora: LoRA, name: str, *, seed: int) -> None:
    """One more adapter on a trunk that has some."""
    with torch.random.fork_rng(), quiet():
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
    return _adapted(reward_model, score), peft


def _adapted(reward_model: RewardModel, head: nn.Module) -> RewardModel:
    adapted = RewardModel(reward_model.model, head, way=reward_model.way, adapter_name="reward")
    adapted.reading, adapted.base_padding = reward_model.reading, reward_model.base_padding
    return adapted


def policy_of_adapter(policy: Policy, adapter: Adapter) -> tuple[Policy, "PeftModel"]:
    """The adapter's base with the adapter as `policy`, to continue training it, and as `start`, frozen, for the reference."""
    tensors = adapter_tensors(adapter)
    trainable(adapter, tensors, head=False)
    peft = put_in(policy.model, adapter, tensors, name="policy")
    peft.peft_config["policy"].task_type = "CAUSAL_LM"
    _another(peft, "start", peft.peft_config["policy"])
    _copy_adapter(peft, "policy", "start")
    as_it_says(policy.model, adapter).name_or_path = adapter.base
    adapted = Policy(
        policy.model, way=policy.way, linear_head=policy.linear_head, adapter_name="policy", start="start"
    )
    return adapted, peft


def reward_model_of_adapter(
    reward_model: RewardModel, adapter: Adapter, *, keep_head: bool
) -> tuple[RewardModel, "PeftModel"]:
    """The adapter's base with the adapter as `reward`, to continue training it, with the head it was given or the adapter's own."""
    tensors = adapter_tensors(adapter)
    trainable(adapter, tensors, head=True)
    head = score_head(tensors)
    if keep_head and head is None:
        raise InputError(
            f"keep_head is on, but adapter {adapter.name!r} has no score head; leave keep_head out"
        )
    fresh = reward_model.score_head.get_parameter("weight").detach().clone()
    as_scorer = {**adapter.settings, "modules_to_save": ["classifier", "score"]}
    if head is None:
        tensors = {**tensors, "base_model.model.score.weight": fresh}
    peft = put_in(reward_model.model, replace(adapter, settings=as_scorer), tensors, name="reward")
    peft.peft_config["reward"].task_type = "SEQ_CLS"
    score = peft.get_base_model().score
    assert isinstance(score, nn.Module)
    adapted = _adapted(reward_model, score)
    if not keep_head:
        with torch.no_grad():
            for name, parameter in score.named_parameters():
                if parameter.requires_grad or name.endswith("reward.weight"):
                    parameter.copy_(fresh)
    reward_model.model.name_or_path = adapter.base
    return adapted, peft


def _another(peft: "PeftModel", name: str, like: Any) -> None:
    with quiet():
        peft.add_adapter(name, replace(like, inference_mode=True))


@torch.no_grad()
def _copy_adapter(peft: "PeftModel", source: str, target: str) -> None:
    parameters = dict(peft.named_parameters())
    for key, parameter in parameters.items():
        if f".{target}." in key:
            parameter.copy_(parameters[key.replace(f".{target}.", f".{source}.")])


def settings_of_adapter(peft: "PeftModel", name: str) -> LoRA:
    """Rank, scale and layers of one of a trunk's adapters, for another like it."""
    config: Any = peft.peft_config[name]
    targets = config.target_modules
    if isinstance(targets, str) or config.rank_pattern or config.alpha_pattern:
        raise InputError(
            f"the adapter {config.base_model_name_or_path!r} is trained with has layers of its own pattern, which the critic cannot take over; "
            "set lora.adapter to merge and lora.rank above 0"
        )
    return LoRA(rank=config.r, alpha=config.lora_alpha, targets=tuple(sorted(targets)))


def save_adapter(peft: "PeftModel", name: str, folder: Path) -> None:
    """One role's adapter as a PEFT folder (adapter_config.json, adapter_model.safetensors)."""
    base = model_name(peft.peft_config[name].base_model_name_or_path or "")
    if base.revision:  # as PEFT names one
        peft.peft_config[name].base_model_name_or_path, peft.peft_config[name].revision = (
            base.source,
            base.revision,
        )
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        peft.save_pretrained(temporary, selected_adapters=[name], state_dict=_gathered_state(peft))
        written = Path(temporary) / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (written if written.is_dir() else Path(temporary)).iterdir():
            if file.is_file() and file.name != CARD:
                shutil.move(str(file), folder / file.name)


def save_policy_adapter(policy: Policy, folder: Path) -> None:
    """The adapter that a policy trains as a PEFT folder, for an engine that has its base. Collective if the model is sharded: all processes call it."""
    name, dealt = policy.adapter_name, gathered(policy.model)
    own = {
        f"base_model.model.{key.replace(f'.{name}.', '.')}": value
        for key, value in policy.model.state_dict().items()
        if ".lora_" in key and f".{name}." in key
    }
    whole_tensors = {key: value.full_tensor() if is_dealt(value) else value for key, value in own.items()}
    if dealt is None or dealt.world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        settings: LoraConfig = policy.model.peft_config[name]  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]  PEFT puts it there
        settings.save_pretrained(str(folder))
        save_file({key: value.contiguous() for key, value in whole_tensors.items()}, folder / WEIGHTS)


def _gathered_state(peft: "PeftModel") -> dict[str, torch.Tensor] | None:
    """The adapters' tensors, whole, if the model is sharded over processes; None if PEFT has them. Collective: all processes call it."""
    if gathered(peft.get_base_model()) is None:
        return None
    own = {
        key: value
        for key, value in peft.state_dict().items()
        if ".lora_" in key or ".modules_to_save." in key
    }
    return {key: value.full_tensor() if is_dealt(value) else value for key, value in own.items()}


def load_adapter_weights(peft: "PeftModel", name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Read a saved adapter's weights into adapter `name`; returns what the file holds besides (a score head, say).

    A head goes in too where the adapter has one of its own, as a reward model's does.

    Raises `InputError` if the file does not fit the trunk.
    """
    from peft.utils import ModulesToSaveWrapper, set_peft_model_state_dict

    file = folder / WEIGHTS
    if not file.exists():
        raise InputError(f"{folder} holds no {WEIGHTS}")
    weights = read_tensors(file)
    adapter = {key: value for key, value in weights.items() if ".lora_" in key}
    has_head = any(isinstance(module, ModulesToSaveWrapper) for module in peft.modules())
    try:
        result = set_peft_model_state_dict(peft, weights if has_head else adapter, adapter_name=name)
    except RuntimeError as error:  # another rank, or another base
        mismatches = [line.strip() for line in str(error).splitlines() if "mismatch" in line]
        raise InputError(
            f"the adapter in {folder} does not fit this model: {mismatches[0] if mismatches else error}"
        ) from error
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
    """The model's weights with adapter `name` added in, under the names of the model without adapters. The model is left as it is.

    Packed weights are unpacked first, so what is saved is what was trained: the rounded base with the update, not the model it was rounded from.
    """
    from peft.tuners.lora import LoraLayer

    weights: dict[str, torch.Tensor] = {}
    for key, value in plain_weights(model, model.dtype).items():
        if ".lora_" in key or ".original_module." in key:
            continue
        weights[key.replace(".base_layer.", ".").replace(f".modules_to_save.{name}.", ".")] = value
    for module_name, module in model.named_modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            key = f"{module_name}.weight"
            update = module.get_delta_weight(name)  # pyright: ignore[reportAttributeAccessIssue]  every kind has its own
            update = update.T if lies_across(module.get_base_layer()) else update
            weights[key] = weights[key] + update.to(weights[key].dtype)
    return weights


def save_merged(
    role: Policy | RewardModel, peft: "PeftModel", tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """The role's adapter by itself in `folder/adapter`, and merged into the trunk as a plain model in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(peft, role.adapter_name, folder / ADAPTER)
    save_model(role.model, tokenizer, folder, merged_weights(role.model, role.adapter_name))
    tokenizer.save_pretrained(folder / ADAPTER)
    if isinstance(role, RewardModel):
        _write_reading(role, folder / ADAPTER)
    elif role.model.generation_config is not None:
        role.model.generation_config.save_pretrained(folder / ADAPTER)


READ_WITH = ("reward_mean", "reward_std", "reward_reading", "reward_levels", "reward_thresholds")
"""Of a reward model's configuration, what says how its score is read; and its padding id."""


def _write_reading(role: RewardModel, folder: Path) -> None:
    """How the score is read, beside a reward adapter. One that transformers would read otherwise on the base by itself is marked: PEFT refuses it."""
    config = role.model.config
    padding = config.get_text_config().pad_token_id
    read: dict[str, object] = {key: getattr(config, key) for key in READ_WITH if hasattr(config, key)}
    (folder / ABOUT).write_text(
        json.dumps({"config": {**read, "pad_token_id": padding}}, indent=1) + "\n", encoding="utf-8"
    )
    same = (
        role.base_padding in (None, padding)
        and role.reading.at == "last"
        and not role.reading.length_slope
        and not has_encoder(config)
    )
    if not same:
        saved = read_object(folder / CONFIG)
        saved["task_type"] = (
            f"{SCORED_BY}; load it with prefloop, or use the merged model in the folder above"
        )
        (folder / CONFIG).write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
