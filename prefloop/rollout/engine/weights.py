"""How an engine gets the weights that a policy has now: as a LoRA adapter, as a model in a folder, or from the trainer's memory.

For the first two the trainer writes and the server reads, so both must see the folder. A server that fails in the middle may go on with weights that are
neither the old nor the new ones, and says nothing of it: take it for spoiled until a whole update has come.
"""

import contextlib
import json
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._C._distributed_c10d import TCPStore
from transformers import PreTrainedTokenizerBase

from prefloop.errors import EngineLost, InputError
from prefloop.models.gathering import gathered
from prefloop.models.generation import save_model
from prefloop.models.lora import merged_weights, save_policy_adapter
from prefloop.models.quantize import plain_weights
from prefloop.models.roles import BASE, Policy
from prefloop.rollout.engine.client import ATTEMPTS, EngineClient
from prefloop.rollout.engine.routes import VLLM, Call, ServedWeights
from prefloop.rollout.engine.transfer import JOIN_SECONDS, WeightGroup, gpu_id, handle_of
from prefloop.runtime import World
from prefloop.runtime.dealt import is_dealt

T = TypeVar("T")

HEAD, INDEX = "head.safetensors", "model.safetensors.index.json"
STEM = "prefloop-"
"""What the names of weights that a run sends begin with."""
BUCKET = 1 << 28
"""Bytes that are sent together, unless one tensor has more."""


class Sender(Protocol):
    """A way to send weights."""

    @property
    def waits(self) -> bool:
        """Whether nothing may be under way while weights are loaded."""
        ...

    def write(self, policy: Policy, version: int) -> None:
        """Make the policy's weights ready. Collective: all processes call it."""
        ...

    def load(self, version: int) -> ServedWeights:
        """Make the engine take them; may be tried again. Collective: all processes call it. An error may be raised on rank 0 alone."""
        ...

    def holds(self, version: int) -> bool:
        """Whether the engine still has it: it may have been started again, or another run may have sent its own. Rank 0 alone calls it."""
        ...

    def close(self) -> None:
        """Remove what is no longer needed. Rank 0 alone calls it."""
        ...


class AdapterSender:
    """The policy's adapter, under a new name for each version: no request can get another's, and the base on the server never changes."""

    waits = False

    def __init__(self, engine: EngineClient, folder: Path, world: World, *, kept: int = 1) -> None:
        """The newest `kept` versions stay loaded: completions may be under way with each."""
        self._engine, self._folder, self._world, self._kept = engine, folder, world, kept
        self._stem = world.broadcast_object(f"{STEM}{secrets.token_hex(4)}")
        self._loaded: list[str] = []

    def write(self, policy: Policy, version: int) -> None:
        """See `Sender`."""
        save_policy_adapter(policy, self._folder / self._name(version))

    def load(self, version: int) -> ServedWeights:
        """See `Sender`."""
        name = self._name(version)
        if self._world.is_main:
            self._load(name)
        return ServedWeights(name=name, adapter=True, version=version)

    def _load(self, name: str) -> None:
        if (changed := self._engine.weight_version()).startswith(STEM):
            raise InputError(
                f"another run has changed all weights of the server ({changed}), the adapter's base among them; start the engine again"
            )
        routes = self._engine.routes
        if name in self._loaded:
            with contextlib.suppress(InputError):  # unless the first attempt has not come through
                self._engine.post(routes.unload_adapter(name))
        else:
            self._loaded.append(name)
        self._engine.post(routes.load_adapter(name, str((self._folder / name).resolve())))
        while len(self._loaded) > self._kept:
            self._unload(self._loaded.pop(0))

    def holds(self, version: int) -> bool:
        """See `Sender`. A server without the adapter refuses to draw from it."""
        return self._name(version) in self._loaded

    def close(self) -> None:
        """See `Sender`."""
        while self._loaded:
            self._unload(self._loaded.pop())
        shutil.rmtree(self._folder, ignore_errors=True)

    def _name(self, version: int) -> str:
        return f"{self._stem}-v{version}"

    def _unload(self, name: str) -> None:
        self._engine.post(self._engine.routes.unload_adapter(name))
        shutil.rmtree(self._folder / name, ignore_errors=True)


class _WholeModel:
    """All weights of a server, which have a mark that says which they are."""

    waits = True

    def __init__(self, engine: EngineClient, model: str, world: World) -> None:
        self._engine, self._model, self._world = engine, model, world
        self._stem = f"{STEM}{secrets.token_hex(4)}"

    def holds(self, version: int) -> bool:
        """See `Sender`."""
        return self._engine.weight_version() == self._mark(version)

    def _mark(self, version: int) -> str:
        return f"{self._stem}-v{version}"

    def _weights(self, version: int) -> ServedWeights:
        return ServedWeights(name=self._model, adapter=False, version=version)

    @contextlib.contextmanager
    def _posting(self, first: Sequence[Call], last: Sequence[Call]) -> Iterator[None]:
        """Post, and in the end post the rest, whatever happens."""
        try:
            for call in first:
                self._engine.post(call)
            yield
        finally:
            for call in last:  # a server that stays paused answers nobody
                self._engine.post(call, attempts=ATTEMPTS)


class DiskSender(_WholeModel):
    """All weights as a model's folder, an adapter merged in. Nothing is drawn meanwhile, and what the server kept of earlier prompts is dropped."""

    def __init__(
        self, engine: EngineClient, model: str, world: World, folder: Path, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__(engine, model, world)
        self._folder, self._tokenizer = folder, tokenizer

    def write(self, policy: Policy, version: int) -> None:
        """See `Sender`."""
        name, model = policy.adapter_name, policy.model
        folder = self._folder / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, self._tokenizer, folder, None if name == BASE else merged_weights(model, name))
        add_tied_head(policy, folder)

    def load(self, version: int) -> ServedWeights:
        """See `Sender`."""
        if self._world.is_main:
            folder = self._folder / f"v{version}"
            with self._posting(*self._engine.routes.load_model(str(folder.resolve()), self._mark(version))):
                pass
            for other in self._folder.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        return self._weights(version)

    def close(self) -> None:
        """See `Sender`."""
        shutil.rmtree(self._folder, ignore_errors=True)


class MemorySender(_WholeModel):
    """All weights from the trainer's memory, an adapter merged in, by vLLM's routes for it and prefloop's back end there (`transfer`).

    `gloo` and `nccl` broadcast them, in buckets, to a group that the workers join; with `ipc` the engine reads them where they are, on the GPU that
    both use. A sharded model is gathered tensor by tensor.
    """

    def __init__(
        self, engine: EngineClient, model: str, world: World, *, way: str, dtype: torch.dtype
    ) -> None:
        """`way` is gloo, nccl or ipc; weights are sent as `dtype`."""
        super().__init__(engine, model, world)
        self._way, self._dtype = way, dtype
        self._policy: Policy | None = None
        self._group: WeightGroup | None = None
        self._joined = False

    def write(self, policy: Policy, version: int) -> None:
        """See `Sender`. They are read when they are sent."""
        self._policy = policy

    def load(self, version: int) -> ServedWeights:
        """See `Sender`."""
        assert self._policy is not None
        rest = weights_of(self._policy, self._dtype)
        try:
            if self._world.is_main:
                self._send(rest, version)
        except RuntimeError as error:  # of the group
            raise EngineLost(
                f"sampling.engine {self._engine.shown}: sending the weights by {self._way} failed: {error}"
            ) from error
        finally:
            for _ in rest:  # what rank 0 gathers all gather, also if it has failed
                pass
        return self._weights(version)

    def close(self) -> None:
        """See `Sender`."""
        joined = self._joined
        self._leave()
        if joined:
            self._engine.post(("/shutdown_weight_transfer_engine", {}))

    def _send(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        kept: list[Tensor] = []
        with self._posting([VLLM.PAUSE], [VLLM.RESUME]):
            try:
                if not self._joined:
                    self._join()
                self._start()
                for bucket in buckets(weights, BUCKET):
                    self._deliver(bucket)
                    if self._way == "ipc":  # the engine may read them until it has finished
                        kept += [tensor for _, tensor in bucket]
                self._engine.post(("/finish_weight_update", {"weight_version": self._mark(version)}))
            except BaseException:
                self._leave()  # the next attempt begins anew
                raise

    def _start(self) -> None:
        start: Call = ("/start_weight_update", {})
        try:
            self._engine.post(start)
        except InputError:  # another update broke off before its end; that of its rest keeps what is there
            self._engine.post(("/finish_weight_update", {}))
            self._engine.post(start)

    def _deliver(self, bucket: Sequence[tuple[str, Tensor]]) -> None:
        names, tensors = [name for name, _ in bucket], [tensor for _, tensor in bucket]
        if self._way == "ipc":
            told: dict[str, object] = {
                "handles": [handle_of(tensor) for tensor in tensors],
                "gpu": gpu_id(tensors[0].device),
            }
            self._engine.post(("/update_weights", {"update_info": {"names": names, **told}}))
            return
        assert self._group is not None
        told = {
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in tensors],
            "shapes": [list(tensor.shape) for tensor in tensors],
        }
        update = ("/update_weights", {"update_info": {"names": names, **told}})
        taken = _apart(lambda: self._engine.post(update))

        def check() -> None:
            if taken.done():
                taken.result()

        self._group.broadcast(tensors, check)
        taken.result()

    def _join(self) -> None:
        """Bring rank 0 and the engine's workers together."""
        info: dict[str, object] = {"way": self._way}
        if self._way == "ipc":
            self._engine.post(("/init_weight_transfer_engine", {"init_info": info}))
            self._joined = True
            return
        size = 1 + int(self._engine.get("/get_world_size")["world_size"])
        address, seconds = address_towards(self._engine.url), 60 * self._engine.minutes
        store = TCPStore(address, 0, size, is_master=True, wait_for_workers=False)
        info |= {"address": address, "port": store.port, "size": size, "seconds": seconds}
        told = _apart(lambda: self._engine.post(("/init_weight_transfer_engine", {"init_info": info})))
        group = _apart(lambda: WeightGroup(store, backend=self._way, rank=0, size=size, seconds=seconds))
        pending: list[Future[Any]] = [told, group]
        wait(pending, timeout=JOIN_SECONDS, return_when=FIRST_EXCEPTION)
        if told.done():
            told.result()
        if not group.done():
            raise RuntimeError(
                f"the engine has not joined at {address}:{store.port} within {JOIN_SECONDS:g} s"
            )
        self._group, self._joined = group.result(), True

    def _leave(self) -> None:
        group, self._group, self._joined = self._group, None, False
        if group is not None:
            group.close()


def add_tied_head(policy: Policy, folder: Path) -> None:
    """Write the head of a model whose head is its embedding beside the saved model, which leaves it out: a server that holds the two apart keeps the old
    head otherwise, with a warning in its log and no more. Collective if the model is sharded: all processes call it."""
    model, head = policy.model, policy.model.get_output_embeddings()
    weight = policy.head().weight
    if weight is not model.get_input_embeddings().weight:
        return
    name = next(name for name, module in model.named_modules(remove_duplicate=False) if module is head)
    dealt = gathered(model)
    whole = weight.full_tensor() if is_dealt(weight) else weight.detach()
    if dealt is not None and not dealt.world.is_main:
        return
    save_file({f"{name}.weight": whole.contiguous()}, folder / HEAD)
    index = folder / INDEX
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["weight_map"][f"{name}.weight"] = HEAD
        index.write_text(json.dumps(listed), encoding="utf-8")


def _apart(work: Callable[[], T]) -> "Future[T]":
    """Do `work` in a thread that the end of the program does not wait for."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def weights_of(policy: Policy, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """A policy's weights with its adapter merged in, under the names of the Hugging Face model, floating-point ones as `dtype`; a tied head too, under
    its own name. Whole and contiguous. Collective if the model is sharded: all processes read all of them."""
    model, name = policy.model, policy.adapter_name
    own = plain_weights(model, model.dtype) if name == BASE else merged_weights(model, name)
    for key, value in own.items():
        whole = value.full_tensor() if is_dealt(value) else value.detach()
        yield key, (whole.to(dtype) if whole.is_floating_point() else whole).contiguous()


def buckets(weights: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Tensors in their order, some together: so many bytes, or one tensor."""
    held: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        if held and size + tensor.nbytes > limit:
            yield held
            held, size = [], 0
        held.append((name, tensor))
        size += tensor.nbytes
    if held:
        yield held


def address_towards(url: str) -> str:
    """This machine's address on the way to another's."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:  # sends nothing
        way.connect((parts.hostname or "127.0.0.1", parts.port or 80))
        return str(way.getsockname()[0])
