"""Tensors that are sharded over the processes (DTensors): their norm, and how they are kept on disk, each process its part.

They are written as safetensors by PyTorch's distributed checkpoints, and may be read by another number of processes, or by one.
"""

import contextlib
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from prefloop.runtime.sending import filling
from prefloop.runtime.world import World

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# PyTorch's modules are imported where they are used: a run that shards nothing does not wait for them.


_PARTS = "sharded"
"""Where a writer that puts parts together looks for them."""
FILE_BYTES = 5 * 10**9
"""Of a model's file, unless one tensor is larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A tensor that is on disk in parts."""

    folder: Path
    name: str
    shape: torch.Size


def is_dealt(tensor: object) -> "TypeGuard[DTensor]":
    """Whether this process has only a part of a tensor."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there is none
    return module is not None and isinstance(tensor, module.DTensor)


def here(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, all of it where it is whole."""
    return tensor.to_local() if is_dealt(tensor) else tensor


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all elements of all tensors. Collective where some are sharded."""
    whole = [tensor for tensor in tensors if not is_dealt(tensor)]
    dealt = [tensor for tensor in tensors if is_dealt(tensor)]
    if not dealt:
        return torch.nn.utils.get_total_norm(whole)
    norms = [torch.linalg.vector_norm(gradient.to_local()) for gradient in dealt]
    squares = _over_parts(torch.stack(norms).double().square().sum(), dealt[0])
    if whole:
        squares += torch.nn.utils.get_total_norm(whole).to(squares).square()
    return squares.sqrt().float()


def dot(a: Tensor, b: Tensor, of: Tensor) -> float:
    """Inner product in float64 of two vectors, this process's parts of them where `of` is sharded. Collective there."""
    return _over_parts(torch.dot(a.double(), b.double()), of).item()


def _over_parts(value: Tensor, of: Tensor) -> Tensor:
    """Sum, in place, of what the processes have that each hold another part of a tensor."""
    if is_dealt(of):
        for axis, placement in enumerate(of.placements):
            if placement.is_shard():
                dist.all_reduce(value, group=of.device_mesh.get_group(axis))
    return value


def clip(tensors: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scale the tensors' gradients, of this norm above `limit`, so that it is `limit`; whole and sharded ones together."""
    if not any(map(is_dealt, tensors)):
        torch.nn.utils.clip_grads_with_norm_(tensors, limit, norm)
        return
    for tensor in tensors:
        if tensor.grad is not None:
            here(tensor.grad).mul_(limit / (norm + 1e-6))


def write(tensors: Mapping[str, Tensor], folder: Path, world: World) -> None:
    """Write tensors into process 0's folder, each process its parts. Collective: all processes call it."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with filling(world, folder) as place, _quiet():
        writer = HuggingFaceStorageWriter(str(place), save_distributed=True)
        save(dict(tensors), storage_writer=writer)


def write_model(
    tensors: Mapping[str, Tensor], folder: Path, world: World, *, file_bytes: int = FILE_BYTES
) -> None:
    """The same, put together to files of whole tensors by process 0, as models are published. Collective: all processes call it."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.state_dict_saver import save

    files: dict[str, int] = {}
    number, room = 1, file_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and room < file_bytes:
            number, room = number + 1, file_bytes
        files[name], room = number, room - size
    with filling(world, folder) as place, _quiet():
        writer = HuggingFaceStorageWriter(
            str(place / _PARTS), fqn_to_index_mapping=files, save_distributed=True
        )
        save(dict(tensors), storage_writer=writer)

    def put_together() -> None:
        writer = HuggingFaceStorageWriter(
            str(folder), fqn_to_index_mapping=files, save_distributed=True, enable_consolidation=True
        )
        writer.finish(Metadata({}), [])
        shutil.rmtree(folder / _PARTS)
        if number == 1:
            (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
            (folder / "model.safetensors.index.json").unlink()

    world.on_main(put_together)


def restore(saved: Mapping[str, Tensor | Stored], into: Mapping[str, Tensor]) -> None:
    """Copy saved values into tensors of the same names, whole or sharded, whichever way they were saved. Collective: all processes call it."""
    folders: dict[Path, dict[str, Any]] = {}
    with torch.no_grad():
        for name, tensor in into.items():
            value = saved[name]
            if isinstance(value, Stored):
                folders.setdefault(value.folder, {})[value.name] = tensor.detach()
            else:
                tensor.copy_(like(value, tensor))
    for folder, tensors in folders.items():
        _read(tensors, folder)


def copy_parts(source: Iterable[Tensor], into: Iterable[Tensor]) -> None:
    """Copy tensors into others that are whole or sharded as they are, each process its parts."""
    with torch.no_grad():
        for tensor, other in zip(source, into, strict=True):
            here(other).copy_(here(tensor))


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor sharded as another one is."""
    if is_dealt(value) or not is_dealt(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = tensor.device_mesh, tensor.placements
    return distribute_tensor(value.to(tensor.device), mesh, placements, src_data_rank=None)


def _read(tensors: dict[str, Any], folder: Path) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with _quiet():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        yield
