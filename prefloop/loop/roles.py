"""Models as a stage trains them: all weights or a LoRA adapter, from the start or from the checkpoint that a run resumes from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from transformers import PreTrainedTokenizerBase

from prefloop.configs.adapters import Adapter, adapter_of
from prefloop.configs.common import Compute, LoRA, Optim
from prefloop.configs.model_names import model_name
from prefloop.errors import InputError
from prefloop.loop.inputs import Examples, Prompts
from prefloop.loop.session import Session
from prefloop.models.encoder_decoder import positions_needed
from prefloop.models.generation import save_model
from prefloop.models.load import (
    DTYPES,
    load_policy,
    load_reward_model,
    new_reward_model,
    save_classifier,
    save_policy,
)
from prefloop.models.lora import (
    ADAPTER,
    load_adapter_weights,
    lora_policy,
    lora_reward_model,
    policy_of_adapter,
    reward_model_of_adapter,
    save_merged,
)
from prefloop.models.q_heads import QHeads
from prefloop.models.quantize import quantisation_of
from prefloop.models.roles import BASE, Critic, Policy, RewardModel, vocabulary_size
from prefloop.models.trunk import check_length
from prefloop.runtime import ParameterGroup, Run
from prefloop.runtime.checkpoint import replace_folder
from prefloop.runtime.files import writing
from prefloop.runtime.manifest import check_folder
from prefloop.text import check_same_tokens, check_vocabulary, load_tokenizer
from prefloop.text.groups import Group

if TYPE_CHECKING:
    from peft import PeftModel

    from prefloop.models.sharding import Sharding

Role = TypeVar("Role", Policy, RewardModel)

MERGED_BASE = "base"
"""Folder in a run's, of the model that a new adapter stands on where that is another adapter's base with it merged in, or a .gguf file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened(Generic[Role]):
    """A role to train, and how it is saved: a model that transformers loads by itself."""

    role: Role
    save: Callable[[Path], None]


_ON_THEM = "train an adapter on them: set lora.rank above 0"


def check_trains_whole(compute: Compute) -> None:
    """Raise `InputError` if every weight is to be trained, and all are to be rounded."""
    if compute.quantize != "none":
        raise InputError(
            f"compute.quantize is {compute.quantize}, but quantised weights cannot be trained; {_ON_THEM}"
        )


def open_policy(session: Session, model: str, lora: LoRA) -> Opened[Policy]:
    """The policy a stage trains. Raises `InputError` if the model cannot be loaded or has too few embeddings for the tokenizer."""
    run, tokenizer = session.run, session.tokenizer
    if not lora.on:
        check_trains_whole(session.compute)
        policy = load_policy(run.source(model), session.learning)
        check_vocabulary(tokenizer, vocabulary_size(policy))
        return Opened(role=policy, save=lambda folder: save_policy(policy, tokenizer, folder))
    adapted, peft = adapted_policy(session, model, lora)
    check_vocabulary(tokenizer, vocabulary_size(adapted))
    if run.start:
        load_adapter_weights(peft, adapted.adapter_name, Path(run.source(model, ADAPTER)))
    return Opened(role=adapted, save=lambda folder: save_merged(adapted, peft, tokenizer, folder))


def adapted_policy(session: Session, model: str, lora: LoRA) -> tuple[Policy, "PeftModel"]:
    """A policy with an adapter to train: a new one, or the one that the model is."""
    if lora.adapter == "train":
        adapter = _adapter_to_train(model)
        return policy_of_adapter(load_policy(adapter.base, session.compute), adapter)
    if adapter_of(model) is not None and session.compute.quantize != "none":
        raise InputError(
            f"compute.quantize is {session.compute.quantize}, but {model!r} is an adapter. Under a new one it would have to be merged and rounded again; "
            "set lora.adapter to train to train this adapter further, or name the merged model in the folder above it"
        )
    policy = load_policy(model, session.compute)
    _stand_on(policy, model, session.tokenizer, session.run)
    return lora_policy(policy, lora, seed=session.settings.seed)


def _adapter_to_train(model: str) -> Adapter:
    adapter = adapter_of(model)
    if adapter is None:
        raise InputError(
            f"lora.adapter is train, but {model!r} is not an adapter (it has no adapter_config.json); set lora.rank to train a new one"
        )
    return adapter


def _stand_on(role: Policy | RewardModel, model: str, tokenizer: PreTrainedTokenizerBase, run: Run) -> None:
    """Save what a new adapter stands on where that is nowhere else as PEFT could load it: another adapter's base with it merged in, a .gguf file."""
    if adapter_of(model) is None and not model_name(model).gguf:
        return
    folder = run.folder / MERGED_BASE

    def write(new: Path) -> None:
        save_model(role.model, tokenizer, new)

    def once() -> None:
        if folder.is_dir():
            check_folder(folder, way_out="restore it, or start a new run in another folder")
        else:
            with writing(folder, way_out="make room, then start again"):
                replace_folder(folder, run.folder / f".new-{MERGED_BASE}", write)

    run.world.on_main(once)
    role.model.name_or_path = str(folder)
    if isinstance(role, RewardModel):
        role.base_padding = role.model.config.get_text_config().pad_token_id


def open_reward_model(session: Session, model: str, lora: LoRA, *, keep_head: bool) -> Opened[RewardModel]:
    """The reward model a stage trains: a fresh head, drawn from the run's seed, on the model's trunk; or with `keep_head` the head it has."""
    run, tokenizer, compute, seed = session.run, session.tokenizer, session.compute, session.settings.seed
    if not lora.on:
        check_trains_whole(compute)
        fresh = run.start == 0 and not keep_head
        role = (
            new_reward_model(model, tokenizer, compute, seed=seed)
            if fresh
            else load_reward_model(run.source(model), session.learning)
        )
        check_vocabulary(tokenizer, vocabulary_size(role))
        return Opened(role=role, save=lambda folder: save_classifier(role, tokenizer, folder))
    if lora.adapter == "train":
        adapter = _adapter_to_train(model)
        fresh_head = new_reward_model(adapter.base, tokenizer, compute, seed=seed)
        adapted, peft = reward_model_of_adapter(fresh_head, adapter, keep_head=keep_head)
    else:
        whole = new_reward_model(model, tokenizer, compute, seed=seed)
        _stand_on(whole, model, tokenizer, run)
        adapted, peft = lora_reward_model(whole, lora, seed=seed)
    check_vocabulary(tokenizer, vocabulary_size(adapted))
    if run.start:
        load_adapter_weights(peft, adapted.adapter_name, Path(run.source(model, ADAPTER)))
    return Opened(role=adapted, save=lambda folder: save_merged(adapted, peft, tokenizer, folder))


def open_reference(session: Session, name: str) -> Policy:
    """A separate frozen reference. Raises `InputError` if its tokens are not the policy's: the same ids would mean other text."""
    theirs = load_tokenizer(name, trust_remote_code=session.compute.trust_remote_code)
    check_same_tokens(session.tokenizer, theirs, what=f"reference {name!r}")
    reference = load_policy(name, session.compute)
    check_vocabulary(session.tokenizer, vocabulary_size(reference))
    reference.requires_grad_(False)
    shard_roles(session, reference)
    return reference


def reference_of(session: Session, policy: Policy, model: str, reference: str) -> Policy:
    """The starting weights of the policy, which are those of `model`, frozen, unless another model is named. With an adapter: the trunk with it off."""
    if reference and reference != model:
        return open_reference(session, reference)
    if session.run.start and policy.adapter_name == BASE:
        return open_reference(session, model)
    return frozen_twin(session, policy, model)


def frozen_twin(session: Session, policy: Policy, model: str) -> Policy:
    """A frozen copy of a policy that began as `model`; what is sharded over processes cannot be copied, and begins as that again."""
    if policy.adapter_name == BASE and session.compute.shard != "none":
        return open_reference(session, model)
    return policy.frozen_copy()


def shard_roles(session: Session, *roles: Policy | RewardModel | Critic) -> None:
    """Shard the models of roles over the processes, if `compute.shard` says so. Collective: all processes call it.

    Once a model has all its adapters, before anything is computed with it and before an optimiser takes its weights. Raises `InputError`
    where that cannot be done.
    """
    if session.compute.shard != "none":
        from prefloop.models.sharding import shard  # half a second of PyTorch's modules

        shard(*roles, layout=_layout(session))


def shard_q_heads(session: Session, heads: QHeads) -> None:
    """The same for Q and value heads beside a policy."""
    if session.compute.shard != "none":
        from prefloop.models.sharding import shard_heads

        shard_heads(heads, layout=_layout(session))


def _layout(session: Session) -> "Sharding":
    from prefloop.models.sharding import Sharding, mesh_of

    compute, world = session.compute, session.world
    return Sharding(
        world=world,
        mesh=mesh_of(world, compute.shard),
        dtype=DTYPES[compute.dtype],
        offload=compute.offload,
    )


_SHORTER = "shorten it, or lower data.max_prompt_tokens or data.max_completion_tokens (see data.overlong)"


def check_room(role: Policy | RewardModel, *parts: Examples[Any]) -> None:
    """Raise `InputError` for the first example with more tokens than the model has positions, before any compute is spent."""
    for examples in parts:
        for record, group in zip(examples.records, examples.groups, strict=True):
            where = f"{record.origin}: the prompt with its longest completion"
            check_length(role.model, positions_of(role, group), what=where, way_out=_SHORTER)


def positions_of(role: Policy | RewardModel, group: Group) -> int:
    """Positions that the role's model needs for a prompt with its longest completion."""
    return positions_needed(role.model.config, len(group.prompt), max(map(len, group.completions)))


def check_prompt_room(role: Policy | Critic, prompts: Prompts, *, new_tokens: int) -> None:
    """The same for prompts that are to be answered with up to `new_tokens` tokens."""
    for ids, origin in zip(prompts.ids, prompts.origins, strict=True):
        check_length(
            role.model,
            positions_needed(role.model.config, len(ids), new_tokens),
            what=f"{origin}: the prompt with sampling.max_new_tokens = {new_tokens}",
            way_out="shorten the prompt, or lower data.max_prompt_tokens (see data.overlong) or sampling.max_new_tokens",
        )


def parameters_of(role: Policy | RewardModel | Critic, optim: Optim, *, name: str) -> ParameterGroup:
    """What a role trains: its adapter and head where it has one, otherwise every weight that is not frozen."""
    if role.adapter_name == BASE:
        if (packed := quantisation_of(role.model)) != "none":
            raise InputError(
                f"the weights of {role.model.name_or_path} are quantised ({packed}), which cannot be trained; {_ON_THEM}"
            )
        return ParameterGroup.of(role, optim, name=name)
    own = tuple(
        (key, parameter)
        for key, parameter in role.named_parameters()
        if f".{role.adapter_name}." in key or key.startswith(("score_head", "value_head"))
    )
    return ParameterGroup(name=name, parameters=own, optim=optim)
