"""Dealing a role's model over all processes, layer by layer, with FSDP2 (arXiv:2304.11277; torch.distributed.fsdp.fully_shard).

Every process holds a part of each weight, its gradient and its optimiser's sums. A layer's weights are gathered before it runs and let go
after; embedding, last norm and head are gathered while the role is used. Heads of reward model and critic, a row each, stay whole.
"""

import os
from dataclasses import dataclass
from types import MethodType
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.models.blocks import has_known_blocks, run_block
from prefloop.models.gathering import RUN, Gathered, Root, gathered
from prefloop.models.packing import pack
from prefloop.models.q_heads import QHeads
from prefloop.models.roles import Critic, Policy, RewardModel, adapter, adapter_names
from prefloop.models.trunk import Way, hidden_rows
from prefloop.runtime.world import World
from prefloop.text.groups import Group

NEEDED = "set_reduce_scatter_unused_params"
"""Of FSDP2, since PyTorch 2.13: gradients that a process does not have count as zeros."""


def mesh_of(world: World, kind: str) -> DeviceMesh:
    """The processes in a row (`full`), or a row for each machine (`hybrid`). Raises `InputError` where there is one machine only."""
    place = world.device.type
    if kind == "full":
        return init_device_mesh(place, (world.size,), mesh_dim_names=("shard",))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    if not 1 < local_size < world.size or world.size % local_size:
        raise InputError(
            f"compute.shard is hybrid, which shards a model over the processes of each machine, but there are {world.size} processes, {local_size} on this machine; set it to full"
        )
    return init_device_mesh(
        place, (world.size // local_size, local_size), mesh_dim_names=("replicate", "shard")
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharding:
    """Over which processes models are sharded, and how their parts are kept."""

    world: World
    mesh: DeviceMesh
    dtype: torch.dtype
    """That models compute in."""
    offload: bool = False
    """Whether the parts are kept in the machine's memory, and not the GPU's."""


def shard(*roles: Policy | RewardModel | Critic, layout: Sharding) -> None:
    """Shard the models of these roles, which may share one, over processes. Collective: all processes call it.

    After everything that adds modules to a model and before an optimiser takes its weights. What does not learn is kept in the layout's type. What learns
    is kept in float32 and rounded to it each time it is gathered, and its gradients are added up in float32. A file that is mapped to memory
    stays so until each layer's turn comes, so no process ever holds a copy of the whole model.

    Raises:
        InputError: PyTorch is too old, or a model does not say what its layers are.
    """
    if not hasattr(FSDPModule, NEEDED):
        raise InputError(
            f"compute.shard needs PyTorch 2.13 or newer, but this is {torch.__version__}; leave compute.shard at none"
        )
    for role in roles:
        if gathered(role.model) is None:
            heads = [_head(other) for other in roles if other.model is role.model]
            whole = {parameter for head in heads for parameter in head}
            _shard(role.model, role.way, whole, layout)


def shard_heads(heads: QHeads, *, layout: Sharding) -> None:
    """Shard Q and value heads, in float32, all gathered together while they are read. Collective: all processes call it."""
    root, world = Root(heads), layout.world
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (heads, root):
        _fully_shard(module, layout, precision, set())

    def idle(number: int) -> Tensor:
        hidden = torch.zeros(1, heads.width, device=world.device, requires_grad=True)
        actions = torch.zeros(1, dtype=torch.long, device=world.device)
        return torch.stack(heads(hidden, actions)).sum() * 0.0

    Gathered(root, [heads], world, idle, torch.float32)


def _fully_shard(
    module: nn.Module, layout: Sharding, precision: MixedPrecisionPolicy, whole: set[nn.Parameter]
) -> None:
    """Shard what of a module is not sharded yet, but for the parameters that stay `whole`."""
    pinned = layout.world.device.type == "cuda"
    offload = CPUOffloadPolicy(pin_memory=pinned) if layout.offload else OffloadPolicy()
    fully_shard(module, mesh=layout.mesh, ignored_params=whole, mp_policy=precision, offload_policy=offload)
    dealt = cast(FSDPModule, module)
    # Losses are divided by the count over all processes, so gradients are added up.
    dealt.set_gradient_divide_factor(1.0)
    dealt.set_force_sum_reduction_for_comms(True)
    dealt.set_reduce_scatter_unused_params(True, recurse=False)


def _head(role: Policy | RewardModel | Critic) -> list[nn.Parameter]:
    """A role's own head, which stays whole."""
    if isinstance(role, Policy):
        return []
    return list((role.score_head if isinstance(role, RewardModel) else role.value_head).parameters())


def _shard(
    model: PreTrainedModel,
    way: Way,
    heads: set[nn.Parameter],
    layout: Sharding,
) -> None:
    world, dtype = layout.world, layout.dtype
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    if not blocks:
        raise InputError(
            f"compute.shard shards a model layer by layer, but {type(model).__name__} does not say what its layers are; leave compute.shard at none"
        )
    fused = has_known_blocks(model)
    adapters = [p for name, p in model.named_parameters() if ".lora_" in name]
    learns = not adapters and any(p.requires_grad for p in model.parameters() if p not in heads)
    kept = torch.float32 if learns else dtype
    as_they_are = heads | {*adapters}

    def settle(module: nn.Module) -> None:
        for parameter in {*module.parameters()} - as_they_are:
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(kept)

    for head in heads:
        head.data = head.data.to(world.device)
    precision = MixedPrecisionPolicy(
        param_dtype=dtype if learns else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        settle(block)
        _fully_shard(block, layout, precision, heads)
        if fused:
            setattr(block, RUN, MethodType(run_block, block))
            register_fsdp_forward_method(block, RUN)
    root = Root(model)
    settle(root)
    _fully_shard(root, layout, precision, heads)
    names = adapter_names(model)

    def idle(number: int) -> Tensor:
        tokens = pack([Group(prompt=[0], completions=([0],), masks=((True,),))], world.device)
        with adapter(model, names[number]):
            return hidden_rows(model, tokens, way).sum().float() * 0.0

    # FSDP2 looks once at what learns, and an adapter learns while it is the one in use.
    resting = [p for name, p in model.named_parameters() if ".lora_" in name and not p.requires_grad]
    for parameter in resting:
        parameter.requires_grad_(True)
    Gathered(root, blocks, world, idle, dtype)
    for parameter in resting:
        parameter.requires_grad_(False)
