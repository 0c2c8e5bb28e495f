"""AdamW in named groups, its learning rate as a function of the step, and its state by parameter name."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.configs.common import Optim
from prefloop.errors import InputError
from prefloop.runtime.dealt import is_dealt, restore
from prefloop.runtime.state import StateTree


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterGroup:
    """Parameters that learn by the same settings."""

    name: str
    """Of the role, for example `policy`; it begins the names under which the optimiser's state is kept."""
    parameters: tuple[tuple[str, nn.Parameter], ...]
    """Names and trainable parameters."""
    optim: Optim
    """Learning rate and the rest."""

    @classmethod
    def of(cls, module: nn.Module, optim: Optim, *, name: str = "model") -> "ParameterGroup":
        """The trainable parameters of `module`; one that is used twice (tied) is there once."""
        found = tuple((key, p) for key, p in module.named_parameters() if p.requires_grad)
        if not found:
            raise ValueError(f"{name} has no trainable parameter")
        return cls(name=name, parameters=found, optim=optim)


def named(groups: Sequence[ParameterGroup]) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters of `groups` under `group/parameter`."""
    for group in groups:
        for key, parameter in group.parameters:
            yield f"{group.name}/{key}", parameter


def learning_rate(step: int, total_steps: int, optim: Optim) -> float:
    """The rate of the update after `step` others (0-based), without memory.

    Over the first W = ceil(warmup·total) updates it rises in equal parts towards the peak, lr·(step+1)/(W+1), and is at the peak at step W.
    From there `linear` and `cosine` fall to reach 0 at `total_steps`, one past the last update: no update is wasted on a rate of 0.
    """
    if step < 0 or total_steps < 1:
        raise ValueError(f"step is {step} of {total_steps}; it must be 0 or more of 1 or more")
    # The slack keeps 0.1 · 30 = 3.0000000000000004 from becoming 4.
    warmup = math.ceil(optim.warmup * total_steps - 1e-9)
    if step < warmup:
        return optim.lr * (step + 1) / (warmup + 1)
    left = max(0.0, (total_steps - step) / (total_steps - warmup)) if step < total_steps else 0.0
    match optim.schedule:
        case "constant":
            return optim.lr
        case "linear":
            return optim.lr * left
        case "cosine":
            return optim.lr * 0.5 * (1 - math.cos(math.pi * left))


def make_optimizer(groups: Sequence[ParameterGroup], tensors: Sequence[Tensor]) -> torch.optim.AdamW:
    """AdamW over `tensors`, fused where the device has it. Weight decay applies to matrices, not to vectors and scalars.

    Args:
        groups: What `tensors` stand for, in the order of `named(groups)`.
        tensors: The parameters themselves, or the float32 copies that are updated in their place.

    Raises:
        ValueError: A parameter is there twice.
    """
    names = [key for key, _ in named(groups)]
    parameters = [parameter for _, parameter in named(groups)]
    if len({id(p) for p in parameters}) < len(parameters) or len(set(names)) < len(names):
        raise ValueError(
            "a parameter is in the optimiser twice; give every group a name and parameters of its own"
        )
    param_groups = []
    rest = iter(tensors)
    for group in groups:
        own = [next(rest) for _ in group.parameters]
        for decays, dealt in product((True, False), (True, False)):
            part = [tensor for tensor in own if (tensor.ndim >= 2) == decays and is_dealt(tensor) == dealt]
            if part:
                optim = group.optim
                param_groups.append(
                    {
                        "params": part,
                        "lr": optim.lr,
                        "betas": (optim.beta1, optim.beta2),
                        "eps": optim.eps,
                        "weight_decay": optim.weight_decay if decays else 0.0,
                        "group": group.name,
                    }
                )
    fused = all(tensor.device.type in ("cpu", "cuda") for tensor in tensors)
    return torch.optim.AdamW(param_groups, fused=fused)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, groups: Sequence[ParameterGroup], step: int, total_steps: int
) -> dict[str, float]:
    """Set every group's rate for this update; return the rates by group name."""
    rates = {group.name: learning_rate(step, total_steps, group.optim) for group in groups}
    for param_group in optimizer.param_groups:
        param_group["lr"] = rates[param_group["group"]]
    return rates


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Sequence[Tensor]
) -> StateTree:
    """The optimiser's sums by parameter name: `{name: {"step", "exp_avg", "exp_avg_sq"}}`. Empty before the first update."""
    return {
        name: dict(optimizer.state[tensor])
        for name, tensor in zip(names, tensors, strict=True)
        if tensor in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Sequence[Tensor], state: StateTree
) -> None:
    """Put back what `optimizer_state` gave, whatever the order of parameters was then.

    Raises:
        InputError: It is of other parameters; names the first ones.
    """
    strangers = sorted(state.keys() - set(names))
    missing = sorted(set(names) - state.keys()) if state else []
    if strangers or missing:
        raise InputError(
            f"the checkpoint's optimiser belongs to another model: it has {strangers[:3]} that this one does not have, "
            f"and lacks {missing[:3]}; resume with the model the run was started with"
        )
    optimizer.state.clear()
    sums: dict[str, Tensor] = {}
    saved: dict[str, Any] = {}
    for name, tensor in zip(names, tensors, strict=True):
        if name not in state:
            continue
        restored = {}
        for key, value in state[name].items():
            if key != "step" and value.shape != tensor.shape:
                raise InputError(
                    f"the checkpoint's optimiser has {name} of shape {tuple(value.shape)}, this model {tuple(tensor.shape)}; "
                    "resume with the model the run was started with"
                )
            # A fused optimiser counts steps on the parameter's device.
            restored[key] = torch.empty_like(
                value if key == "step" else tensor.detach(), device=tensor.device
            )
            sums[f"{name}/{key}"], saved[f"{name}/{key}"] = restored[key], value
        optimizer.state[tensor] = restored
    restore(saved, sums)
