"""The processes of a run. With one process every collective is a no-op, so algorithms hold no `if distributed`.

Data parallel by sums: each process backpropagates losses that are already divided by the count over all processes, and gradients are added up
once a step. So processes may have different numbers of micro-batches, or none, and nothing depends on how the batch was dealt out.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store

from prefloop.errors import InputError
from prefloop.runtime.machines import Peer
from prefloop.runtime.waits import Waits, guarded, meet

# torch.distributed.nn keeps the process group that exists when it is first imported, as a default argument. Imported later (by the first
# optimiser, say) it would hold on to gloo's threads until Python is being torn down, where they abort the process now and then.

T = TypeVar("T")

_BUCKET = 8 * 2**20
"""Elements sent together: 32 MiB of float32, large enough to hide latency, small enough not to be noticed in memory."""

WAIT_MINUTES = 30.0
"""How long a process waits for the others: rank 0 may be reading data or writing a large checkpoint."""

_PRODUCTS = ("MKL_CBWR", "AUTO,STRICT")
"""Without it MKL's products depend on where their factors lie in memory, so a run that goes on could differ in a last bit: a sharded model's gathered
weights lie wherever there is room."""

_waits: Waits | None = None
"""Of this process's group; the stages of a recipe share it."""
_peers: list[Peer] = []
"""The processes of the group, by rank."""
_met: tuple[Store, int, list[Peer]] | None = None
"""Where the processes met before they had settings."""


class World:
    """This process among its peers: `rank` of `size`, computing on `device`. `start_world` makes it."""

    def __init__(self, *, rank: int, size: int, device: torch.device, peers: Sequence[Peer] = ()) -> None:
        self.rank = rank
        self.peers = peers
        self.size = size
        self.device = device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @property
    def is_leader(self) -> bool:
        """Whether this is the first process of its machine. The processes of a machine have ranks one after the other."""
        return not self.peers or self.peers[self.rank].leads

    @property
    def machines(self) -> int:
        """How many machines the processes are on."""
        return max(1, sum(peer.leads for peer in self.peers))

    def host(self, rank: int) -> str:
        """The name of the machine that a process is on."""
        return self.peers[rank].host

    def say(self, text: str) -> None:
        """Print a line, on the first process."""
        if self.is_main:
            print(text)

    def sum(self, tensor: Tensor) -> Tensor:
        """Element-wise sum over processes, as a new tensor outside autograd; all ranks get the same bits."""
        total = tensor.detach().clone()
        if self.size > 1:
            _wait(lambda: dist.all_reduce(total))
        return total

    def sum_float(self, value: float) -> float:
        """Sum of one number over processes, in float64."""
        return self._reduce(value, dist.ReduceOp.SUM)

    def max_float(self, value: float) -> float:
        """Largest of one number over processes."""
        return self._reduce(value, dist.ReduceOp.MAX)

    def _reduce(self, value: float, op: "dist.ReduceOp.RedOpType") -> float:
        if self.size == 1:
            return float(value)
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        _wait(lambda: dist.all_reduce(total, op=op))
        return total.item()

    def gather_objects(self, item: T) -> list[T]:
        """Every process's `item`, by rank. Items travel pickled between the run's own processes, never to disk."""
        if self.size == 1:
            return [item]
        items: list[T | None] = [None] * self.size
        _wait(lambda: dist.all_gather_object(items, item))
        return items  # pyright: ignore[reportReturnType]  all_gather_object has filled every place

    def broadcast_object(self, item: T) -> T:
        """Rank 0's `item`, on every process."""
        if self.size == 1:
            return item
        box = [item]
        _wait(lambda: dist.broadcast_object_list(box, src=0))
        return box[0]

    def broadcast_tensor(self, tensor: Tensor, *, source: int) -> None:
        """Give all processes what process `source` has in `tensor`, in place. All pass one of the same shape and type, on the CPU."""
        if self.size > 1:
            _wait(lambda: dist.broadcast(tensor, src=source))

    def numbers_from(self, rank: int, numbers: Sequence[int]) -> list[int]:
        """The numbers that this process hands in, on every process. All hand in equally many."""
        box = torch.tensor(numbers, device=self.device)
        if self.size > 1:
            _wait(lambda: dist.broadcast(box, src=rank))
        return box.tolist()

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 alone while the others wait, and give its result to all.

        Raises:
            InputError: `work` raised it; every process raises the same, so that none waits for a peer that has stopped.
        """
        result, problem = _attempt(work) if self.is_main else (None, None)
        result, problem = self.broadcast_object((result, problem))
        if problem is not None:
            raise InputError(problem)
        return result  # pyright: ignore[reportReturnType]  without a problem there is a result

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every process; if any raised an `InputError`, all raise it."""
        result, problem = _attempt(work)
        problems = [p for p in self.gather_objects(problem) if p is not None]
        if problems:
            raise InputError(problems[0])
        return result  # pyright: ignore[reportReturnType]  as in on_main

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            _wait(dist.barrier)

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of `items`: every `size`-th one. Shares differ by one item at most and leave none out."""
        return list(items[self.rank :: self.size])

    def sum_gradients(self, parameters: Iterable[nn.Parameter | Tensor]) -> None:
        """Add up `.grad` over processes, in place, in float32 or the gradients' own wider type. A missing gradient counts as zero, and is there afterwards.

        All processes must pass the same parameters in the same order.
        """
        if self.size == 1:
            return
        grads = [_gradient(parameter) for parameter in parameters]
        for bucket in _buckets(grads, _BUCKET):
            flat = torch.cat([grad.reshape(-1).to(_wide(grad)) for grad in bucket])
            _wait(partial(dist.all_reduce, flat))
            for grad, total in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(total.view_as(grad))

    def broadcast_module(self, module: nn.Module) -> None:
        """Give every process rank 0's parameters and buffers.

        Raises:
            RuntimeError: The processes have built modules of different structure.
        """
        if self.size == 1:
            return
        tensors = list(_tensors(module))
        shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors]
        if len({repr(other) for other in self.gather_objects(shapes)}) > 1:
            raise RuntimeError("the processes have built different modules; they must load the same model")
        with torch.no_grad():
            for _, tensor in tensors:
                if tensor.is_contiguous():
                    _wait(partial(dist.broadcast, tensor, src=0))
                else:
                    whole = tensor.contiguous()
                    _wait(partial(dist.broadcast, whole, src=0))
                    tensor.copy_(whole)

    def check_equal(self, module: nn.Module) -> None:
        """Check that all processes hold the same bits.

        Raises:
            RuntimeError: They do not; names the first tensor that differs.
        """
        if self.size == 1:
            return
        digests = {name: _digest(tensor) for name, tensor in _tensors(module)}
        for rank, others in enumerate(self.gather_objects(digests)):
            wrong = [name for name in digests | others if digests.get(name) != others.get(name)]
            if wrong:
                raise RuntimeError(f"processes {self.rank} and {rank} differ in {wrong[0]}")

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the process group. Also done at the end of a `with` statement."""
        if self.size > 1:
            leave()


def speak() -> None:
    """Let the other processes know that this one says what was wrong."""
    if _waits is not None:
        _waits.speak()


def stop_telling() -> None:
    """End the thread that tells the others what this process waits for."""
    global _waits
    if _waits is not None:
        _waits.close()
        _waits = None


def leave() -> None:
    """Leave the process group, if there is one."""
    stop_telling()
    if dist.is_initialized():
        dist.destroy_process_group()


def _wait(work: Callable[[], T]) -> T:
    return guarded(_waits, work)


def naming_peers(work: Callable[[], T]) -> T:
    """Do something in which PyTorch itself waits for the other processes: where one is lost, it is named."""
    return _wait(work)


def meet_early(minutes: float, *, votes: int) -> tuple[Store, int, list[Peer]]:
    """Meet the other processes before `start_world`: the store they share, this one's rank, and all by rank.

    `votes` says how much of what the run reads this process sees. The machine that sees most comes first: its first process has rank 0 from now
    on, in RANK too, and reads and writes for all. torchrun numbers machines by their names, and the run's files may be on any.

    Raises:
        PeerLost: Another process did not come in time.
    """
    global _met
    _check_environment(_environment("WORLD_SIZE", 1))
    store, rank, peers = meet(minutes)
    shared = PrefixStore("prefloop-votes", store)
    shared.set(str(rank), str(votes))
    counts = [int(shared.get(str(other))) if peer.leads else -1 for other, peer in enumerate(peers)]
    first = counts.index(max(counts))
    rank, peers = (rank - first) % len(peers), [*peers[first:], *peers[:first]]
    os.environ["RANK"] = str(rank)
    _met = store, rank, peers
    return _met


def start_world(
    device: Literal["auto", "cpu", "cuda"] = "auto", *, wait_minutes: float = WAIT_MINUTES
) -> World:
    """Join the processes that `torchrun` started, or be the only one.

    Args:
        device: `auto` takes a GPU where there is one; with several processes, each takes its own.
        wait_minutes: How long this process waits for the others, here and in every collective.

    Raises:
        InputError: There is no GPU to take, or torchrun's environment is incomplete.
        PeerLost: Another process did not come in time.
    """
    global _waits, _peers
    os.environ.setdefault(*_PRODUCTS)  # read at the first product
    size = _environment("WORLD_SIZE", 1)
    local_rank = _environment("LOCAL_RANK", 0)
    place = _device(device, local_rank)
    if size == 1:
        return World(rank=0, size=1, device=place)
    _check_environment(size)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # gloo beside nccl: numbers and objects that live on the CPU travel too
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    if not dist.is_initialized():  # a recipe's stages follow one another in the same processes
        store, rank, _peers = _met or meet(wait_minutes)
        patience, hosts = timedelta(minutes=wait_minutes), [peer.host for peer in _peers]
        store.set_timeout(patience)
        dist.init_process_group(backend, store=store, rank=rank, world_size=len(hosts), timeout=patience)
        _waits = Waits(PrefixStore("prefloop", store), rank=rank, hosts=hosts, minutes=wait_minutes)
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=place, peers=_peers)


def _check_environment(size: int) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise InputError(
                f"WORLD_SIZE is {size} but {name} is not set; start several processes with torchrun"
            )


def _device(device: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            "compute.device is cuda, but PyTorch sees no GPU here; set compute.device to cpu or auto"
        )
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise InputError(
            f"process {local_rank} of this machine has no GPU of its own ({count} found); "
            f"start torchrun with --nproc-per-node {count}, or set compute.device to cpu"
        )
    return torch.device("cuda", local_rank)


def _environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise InputError(f"environment variable {name} is {value!r}; torchrun sets it to a number")
    return int(value)


def _attempt(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """The result of `work`, or what it says is wrong with the user's input."""
    try:
        return work(), None
    except InputError as error:
        return None, str(error)


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _buckets(tensors: Sequence[Tensor], limit: int) -> Iterable[list[Tensor]]:
    """Consecutive tensors together up to `limit` elements; a larger one goes alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > limit:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield name, tensor.data


def _digest(tensor: Tensor) -> str:
    content = tensor.contiguous().cpu().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().tobytes()).hexdigest()
