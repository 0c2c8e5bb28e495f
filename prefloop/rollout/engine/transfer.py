"""Tensors from a trainer's memory to vLLM's workers: the group that both join, or handles of CUDA memory; and the plugin of vLLM that receives them.

vLLM's environment gets a copy of this file, as a plugin that `prefloop engine serve` puts on its path. So nothing of prefloop is imported here, and
vLLM only where vLLM calls. The routes are vLLM's own (/init_weight_transfer_engine, /start_weight_update, /update_weights, /finish_weight_update).
"""

import base64
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import BroadcastOptions, PrefixStore, ProcessGroupGloo, Store, TCPStore

NAME = "prefloop"
"""Of the back end in vLLM's --weight-transfer-config."""
PLUGIN = "prefloop_transfer"
"""Name of this module in vLLM's environment."""
JOIN_SECONDS = 60.0
"""Within which all have joined a group."""
_TYPES = {0: torch.Tensor, 4: torch.UntypedStorage}
"""Places of types among the arguments that rebuild a tensor from its handle; a handle leaves them out."""
_DTYPE, _DEVICE = 5, 6
_ROOT = 0


class WeightGroup:
    """The trainer, which is rank 0, and all workers: a group of its own, apart from those that either is in already."""

    def __init__(self, store: Store, *, backend: str, rank: int, size: int, seconds: float) -> None:
        """`backend` is gloo or nccl, `seconds` what a broadcast may take. Returns when all have joined; raises RuntimeError if they do not come."""
        store, limit = PrefixStore(NAME, store), timedelta(seconds=seconds)
        if backend == "gloo":
            self._group: Any = ProcessGroupGloo(store, rank, size, limit)  # pyright: ignore[reportArgumentType]
        else:
            from torch._C._distributed_c10d import ProcessGroupNCCL  # not in builds for CPUs

            self._group = ProcessGroupNCCL(store, rank, size, limit)  # pyright: ignore[reportArgumentType]

    def broadcast(self, tensors: Sequence[Tensor], check: Callable[[], None] = lambda: None) -> None:
        """Send rank 0's contiguous tensors to all others, into theirs. `check` is called while it lasts, and ends it if it raises."""
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = _ROOT, 0
        for tensor in tensors:
            # As bytes: not every back end knows every type of number.
            work = self._group.broadcast([tensor.reshape(-1).view(torch.uint8)], options)
            while not work.is_completed():
                check()
                time.sleep(1e-3)
            work.wait()

    def close(self) -> None:
        """Leave without waiting for the others: what they never took would be waited for until its time is out."""
        held, self._group = [self._group], None

        def let_go() -> None:
            held[0].abort()
            held.clear()

        threading.Thread(target=let_go, daemon=True).start()


def handle_of(tensor: Tensor) -> list[Any]:
    """A CUDA tensor's memory as JSON; the tensor must live until it has been read."""
    from torch.multiprocessing.reductions import reduce_tensor

    _, arguments = reduce_tensor(tensor)
    return [_plain(argument) for argument in arguments]


def tensor_at(handle: Sequence[Any], device: int) -> Tensor:
    """The tensor whose memory a handle names, seen from this process, in which its GPU has this number."""
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    return rebuild_cuda_tensor(*arguments_of(handle, device))


def arguments_of(handle: Sequence[Any], device: int) -> list[Any]:
    """What a handle says, as PyTorch takes it."""
    given: list[Any] = [
        base64.b64decode(each["bytes"]) if isinstance(each, dict) else each for each in handle
    ]
    given = [tuple(each) if isinstance(each, list) else each for each in given]
    for place, kind in _TYPES.items():
        given[place] = kind
    given[_DTYPE], given[_DEVICE] = getattr(torch, given[_DTYPE]), device
    return given


def _plain(argument: Any) -> Any:
    if isinstance(argument, bytes):
        return {"bytes": base64.b64encode(argument).decode()}
    if isinstance(argument, torch.dtype):
        return str(argument).removeprefix("torch.")
    if isinstance(argument, type):
        return None
    return list(argument) if isinstance(argument, tuple) else argument


def gpu_id(device: torch.device) -> str:
    """By which two processes know that they mean the same GPU."""
    return str(torch.cuda.get_device_properties(device).uuid)


def register() -> None:
    """Called by vLLM in each of its processes, perhaps more than once."""
    from vllm.distributed.weight_transfer.factory import (  # pyright: ignore[reportMissingImports]
        WeightTransferEngineFactory as Factory,
    )

    if NAME not in Factory._registry:
        Factory.register_engine(NAME, _receiver())


def _abandon_update(model: Any) -> None:
    """Forget an update that broke off. vLLM keeps what it had of it, so that no later one can be finished."""
    from vllm.model_executor.model_loader.reload import layerwise  # pyright: ignore[reportMissingImports]

    for layer in model.modules():
        info = layerwise.get_layerwise_info(layer)
        if info.can_load():
            layerwise._place_kernel_tensors(layer, info)
            info.reset()
    layerwise.LOADING_LAYERS.clear()


def _receiver() -> type:
    from vllm.distributed.weight_transfer import base  # pyright: ignore[reportMissingImports]

    @dataclass
    class Joining(base.WeightTransferInitInfo):
        """What the trainer tells once; of `ipc` the way alone."""

        way: str
        address: str = ""
        port: int = 0
        size: int = 0
        seconds: float = 0.0

    @dataclass
    class Arriving(base.WeightTransferUpdateInfo):
        """Some of the weights, under the names of the Hugging Face model."""

        names: list[str]
        dtypes: list[str] = field(default_factory=list)
        shapes: list[list[int]] = field(default_factory=list)
        handles: list[list[Any]] = field(default_factory=list)
        gpu: str = ""

    class Receiver(base.WeightTransferEngine):
        """A worker's end."""

        init_info_cls, update_info_cls = Joining, Arriving
        group: WeightGroup | None = None

        def init_transfer_engine(self, init_info: Joining) -> None:
            self.shutdown()
            if init_info.way == "ipc":
                return
            parallel = self.parallel_config
            rank = 1 + parallel.data_parallel_index * parallel.world_size + parallel.rank
            limit = timedelta(seconds=JOIN_SECONDS)
            store = TCPStore(
                init_info.address, init_info.port, init_info.size, is_master=False, timeout=limit
            )
            self.group = WeightGroup(
                store, backend=init_info.way, rank=rank, size=init_info.size, seconds=init_info.seconds
            )

        def start_weight_update(self) -> None:
            from vllm.model_executor.model_loader.reload import (  # pyright: ignore[reportMissingImports]
                initialize_layerwise_reload,
            )

            _abandon_update(self.model)
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.receive_weights(self.parse_update_info(update_info))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        def receive_weights(self, update_info: Arriving) -> None:
            if update_info.handles:
                own = gpu_id(self.device)
                if own != update_info.gpu:
                    raise ValueError(f"the weights are on GPU {update_info.gpu}, this worker is on {own}")
                tensors = [tensor_at(handle, self.device.index) for handle in update_info.handles]
            else:
                if self.group is None:
                    raise RuntimeError("no trainer has joined")
                tensors = [
                    torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
                    for shape, dtype in zip(update_info.shapes, update_info.dtypes, strict=True)
                ]
                # All of them before any is loaded: the sender is never left waiting by one that cannot be.
                self.group.broadcast(tensors)
            self.model.load_weights(zip(update_info.names, tensors, strict=True))

        def finish_weight_update(self) -> None:
            from vllm.model_executor.model_loader.reload import (  # pyright: ignore[reportMissingImports]
                finalize_layerwise_reload,
            )

            finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            if self.group is not None:
                self.group.close()
                self.group = None

    return Receiver
