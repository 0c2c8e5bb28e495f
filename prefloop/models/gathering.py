"""Models whose weights are sharded over the processes (FSDP2): each layer's are gathered while it runs, the others while the model is used.

`sharding` shards them. Here is what a role needs to know: that its methods run with the weights outside the layers gathered, and that sampling
takes the whole model.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.runtime.dealt import write_model
from prefloop.runtime.pace import ENTER, LEAVE, PASS, pace
from prefloop.runtime.world import World, naming_peers

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_NAME = "_prefloop_gathered"
RUN = "run_block"
"""The name under which a sharded layer has its fused pass: called so, its weights are gathered for it."""


class Root(nn.Module):
    """What FSDP2 takes for the outermost module: around any use of the model, not around its forward pass alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], None]) -> None:
        """Do something with the weights outside the layers gathered."""
        work()


class Gathered:
    """A model that is sharded over the processes."""

    def __init__(
        self,
        root: Root,
        blocks: Sequence[nn.Module],
        world: World,
        idle: Callable[[int], Tensor],
        dtype: torch.dtype,
    ) -> None:
        """`root` and `blocks` went through `fully_shard`; `idle` runs the trunk with the adapter of a number on tokens that mean nothing."""
        self.world = world
        self.dtype = dtype
        """That it computes in."""
        self._root, self._blocks = cast(Any, root), [cast(Any, block) for block in blocks]
        self._idle = idle
        self._inside = False
        self._pace = pace()
        assert self._pace is not None, "models are dealt over processes inside `keeping_pace` only"
        self._number = self._pace.add(self)
        object.__setattr__(root.model, _NAME, self)
        self._root(lambda: None)  # says to FSDP2 which module is the outermost
        self.settle()

    def __call__(self, work: Callable[[], T]) -> T:
        """Do `work` with the weights outside the layers gathered; they are let go at the end, or after the backward pass."""
        if self._inside:
            return work()
        results: list[T] = []

        def inside() -> None:
            results.append(work())
            self._tell(LEAVE)

        self._tell(ENTER)
        self._inside = True
        try:
            naming_peers(lambda: self._root(inside))
        finally:
            self._inside = False
        if not torch.is_grad_enabled():
            self.settle()
        return results[0]

    def settle(self) -> None:
        """See `pace.Shared`."""
        self._root.reshard()

    def tell_pass(self, adapter: int) -> None:
        """Said before a pass of the trunk."""
        self._tell(PASS, adapter)

    def idle_pass(self, adapter: int) -> Tensor:
        """See `pace.Shared`."""
        return self._idle(adapter)

    def _tell(self, kind: int, adapter: int = 0) -> None:
        assert self._pace is not None
        self._pace.tell(kind, self._number, adapter)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every process holds the whole model, and uses it without the others. Collective: all processes call it."""
        modules = [self._root, *self._blocks]
        for block in self._blocks:
            block.set_reshard_after_forward(False, recurse=False)
        for module in modules:
            naming_peers(module.unshard)
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
            for block in self._blocks:
                block.set_reshard_after_forward(True, recurse=False)


def gathered(model: nn.Module) -> Gathered | None:
    """How a model is sharded over the processes, None where each has all of it."""
    return getattr(model, _NAME, None)


def tell_pass(module: nn.Module) -> None:
    """Said before a pass of a module that stands beside a model and may be sharded too."""
    dealt = gathered(module)
    if dealt is not None:
        dealt.tell_pass(0)


def computes_in(model: PreTrainedModel) -> torch.dtype:
    """The type of a model's activations."""
    dealt = gathered(model)
    return model.dtype if dealt is None else dealt.dtype


def runs_on(model: PreTrainedModel) -> torch.device:
    """The device that a model computes on; a sharded one may be kept in the machine's memory."""
    dealt = gathered(model)
    return model.device if dealt is None else dealt.world.device


def gathers(method: "Callable[Concatenate[R, P], T]") -> "Callable[Concatenate[R, P], T]":
    """For a role's method, or a function of a role, that uses weights outside the model's layers."""

    @wraps(method)
    def wrapped(self: R, *args: P.args, **kwargs: P.kwargs) -> T:
        dealt = gathered(cast(Any, self).model)
        return (
            method(self, *args, **kwargs) if dealt is None else dealt(lambda: method(self, *args, **kwargs))
        )

    return wrapped


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside, this process holds the whole model. Collective if it is sharded."""
    dealt = gathered(model)
    if dealt is None:
        yield
        return
    with dealt.whole():
        yield


def save_weights(
    model: PreTrainedModel, weights: Mapping[str, Tensor] | None, folder: Path, world: World
) -> None:
    """A sharded model in Hugging Face's format, each process writing its parts; `weights` in place of its own. Collective: all processes call it."""
    if world.is_main:
        model.save_pretrained(folder, state_dict={})
        for file in folder.glob("*.safetensors"):
            file.unlink()
    own = model.state_dict() if weights is None else weights
    tied = {key.replace(".base_layer.", ".") for key in _tied(model)}
    write_model({key: value for key, value in own.items() if key not in tied}, folder, world)


def save_tensors(module: nn.Module, file: Path) -> None:
    """A module's tensors as one safetensors file. Collective if it is sharded: all processes call it."""
    dealt, tensors = gathered(module), module.state_dict()
    if dealt is None:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        return
    write_model(tensors, file.parent, dealt.world, file_bytes=sys.maxsize)
    if dealt.world.is_main:
        (file.parent / "model.safetensors").rename(file)


def _tied(model: nn.Module) -> set[str]:
    """Names of parameters that have another name already."""
    once = {name for name, _ in model.named_parameters()}
    return {name for name, _ in model.named_parameters(remove_duplicate=False)} - once


def has_hooks(module: nn.Module, *, backward: bool = False) -> bool:
    """Whether somebody watches a module, or changes what it computes; gathering its weights does neither."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if backward:
        hooks += [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
    return any(type(getattr(hook, "__self__", None)).__name__ != "FSDPState" for hook in hooks)
