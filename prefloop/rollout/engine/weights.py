"""How an engine gets the weights that a policy has now: as a LoRA adapter, or as a model in a folder.

The trainer writes and the server reads, so both must see the folder. A server that fails in the middle may go on with weights that are
neither the old nor the new ones, and says nothing of it: take it for spoiled until a whole update has come.
"""

import json
import secrets
import shutil
from pathlib import Path
from typing import Protocol

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from prefloop.errors import InputError
from prefloop.models.gathering import gathered
from prefloop.models.generation import save_model
from prefloop.models.lora import merged_weights, save_policy_adapter
from prefloop.models.roles import BASE, Policy
from prefloop.rollout.engine.client import EngineClient
from prefloop.runtime import World
from prefloop.runtime.dealt import is_dealt

HEAD, INDEX = "head.safetensors", "model.safetensors.index.json"
STEM = "prefloop-"
"""What the names of weights that a run sends begin with."""
RELOAD = "reload_weights"
"""The method of vLLM's workers that reads a folder."""


class Sender(Protocol):
    """A way to send weights."""

    @property
    def waits(self) -> bool:
        """Whether nothing may be under way while weights are loaded."""
        ...

    def write(self, policy: Policy, version: int) -> None:
        """Write the policy's weights. Collective: all processes call it."""
        ...

    def load(self, version: int) -> str:
        """Make the engine take what was written; returns the name of its model that has it. Rank 0 alone calls it."""
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
        self._engine, self._folder, self._kept = engine, folder, kept
        self._stem = world.broadcast_object(f"{STEM}{secrets.token_hex(4)}")
        self._loaded: list[str] = []

    def write(self, policy: Policy, version: int) -> None:
        """See `Sender`."""
        save_policy_adapter(policy, self._folder / self._name(version))

    def load(self, version: int) -> str:
        """See `Sender`."""
        name = self._name(version)
        if (changed := version_on(self._engine)).startswith(STEM):
            raise InputError(
                f"another run has changed all weights of the server ({changed}), the adapter's base among them; start the engine again"
            )
        if name not in self._loaded:
            self._loaded.append(name)
        self._engine.post(
            "/v1/load_lora_adapter",
            # In place: the first of two attempts may have come through.
            {"lora_name": name, "lora_path": str((self._folder / name).resolve()), "load_inplace": True},
        )
        while len(self._loaded) > self._kept:
            self._unload(self._loaded.pop(0))
        return name

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
        self._engine.post("/v1/unload_lora_adapter", {"lora_name": name})
        shutil.rmtree(self._folder / name, ignore_errors=True)


class DiskSender:
    """All weights as a model's folder, an adapter merged in. Nothing is drawn meanwhile, and what the server kept of earlier prompts is dropped."""

    waits = True

    def __init__(
        self, engine: EngineClient, folder: Path, tokenizer: PreTrainedTokenizerBase, model: str
    ) -> None:
        self._engine, self._folder, self._tokenizer, self._model = engine, folder, tokenizer, model
        self._stem = f"{STEM}{secrets.token_hex(4)}"

    def write(self, policy: Policy, version: int) -> None:
        """See `Sender`."""
        name, model = policy.adapter_name, policy.model
        folder = self._folder / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, self._tokenizer, folder, None if name == BASE else merged_weights(model, name))
        add_tied_head(policy, folder)

    def load(self, version: int) -> str:
        """See `Sender`."""
        folder = self._folder / f"v{version}"
        self._engine.post("/pause?mode=wait&clear_cache=true")
        try:
            self._engine.post(
                "/collective_rpc", {"method": RELOAD, "kwargs": {"weights_path": str(folder.resolve())}}
            )
            self._engine.post("/update_weight_version", {"new_version": self._name(version)})
        finally:
            self._engine.post("/resume")
        for other in self._folder.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return self._model

    def holds(self, version: int) -> bool:
        """See `Sender`."""
        return version_on(self._engine) == self._name(version)

    def _name(self, version: int) -> str:
        return f"{self._stem}-v{version}"

    def close(self) -> None:
        """See `Sender`."""
        shutil.rmtree(self._folder, ignore_errors=True)


def version_on(engine: EngineClient) -> str:
    """The mark that the last change of all weights left on a server; `default` if there was none."""
    return str(engine.get("/weight_info")["weight_version"])


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
