"""Training state on disk without pickle: a tree of Python values and tensors as `state.json` and `state.safetensors`.

A tree is a dict with string keys, list, tuple, tensor, NumPy array, int, float, bool, str or None, nested as deep as you like. It comes back
equal: same types, dtypes and shapes, floats to the last bit, NaN and infinities too. Tensors come back on the CPU. One that is sharded over the
processes is written by all of them, into a folder of its own, and comes back as where it is (`dealt.Stored`).
"""

import json
import math
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.errors import InputError
from prefloop.runtime.dealt import Stored, is_dealt, write
from prefloop.runtime.world import World

StateTree: TypeAlias = Any
"""A tree as the module describes it; Python's types cannot say "nested" without making every reader cast."""

_JSON, _TENSORS, _DEALT = "state.json", "state.safetensors", "dealt"


def save_state(tree: StateTree, folder: Path) -> None:
    """Write `tree` into `folder`, which is made if it is missing.

    Raises:
        TypeError: The tree holds something else than the types above; the message names the place.
    """
    encoder = _Encoder()
    text = json.dumps(encoder.encode(tree, ""), allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encoder.tensors, folder / _TENSORS)
    (folder / _JSON).write_text(text, encoding="utf-8")


def save_dealt(tree: StateTree, folder: Path, world: World) -> None:
    """Write the tensors of `tree` that are sharded over the processes, beside what `save_state` writes on process 0. Collective; does nothing if there is none."""
    encoder = _Encoder()
    encoder.encode(tree, "")
    if encoder.dealt:
        write(encoder.dealt, folder / _DEALT, world)


def load_state(folder: Path) -> StateTree:
    """Read what `save_state` wrote. The tensors are the caller's own; the files may go.

    Raises:
        InputError: The files are missing or damaged.
    """
    try:
        encoded = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        return _decode(encoded, load_file(folder / _TENSORS), folder / _DEALT)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the saved state cannot be read ({error}); remove this folder to continue from an earlier checkpoint"
        ) from error


class _Encoder:
    """Turns a tree into JSON types and sets its tensors aside, each named by its place in the tree."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.dealt: dict[str, Tensor] = {}
        self._storages: set[int] = set()

    def encode(self, value: StateTree, path: str) -> Any:
        """`value` as JSON types. JSON objects are tags: what JSON lacks is an object with one key."""
        kind = type(value)
        # Exact types: a subclass (an enum, a named tuple, numpy.float64) would come back as its base.
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return [self.encode(item, f"{path}/{i}") for i, item in enumerate(value)]
        if kind is tuple:
            return {"tuple": [self.encode(item, f"{path}/{i}") for i, item in enumerate(value)]}
        if kind in (dict, OrderedDict):  # a module's state_dict is ordered, as every dict is by now
            return {
                "dict": {_key(key, path): self.encode(value[key], f"{path}/{_escape(key)}") for key in value}
            }
        if is_dealt(value):
            self.dealt[path] = value.detach()
            return {"dealt": [path, list(value.shape)]}
        if isinstance(value, Tensor):
            return {"tensor": self._keep(value, path)}
        if isinstance(value, np.ndarray):
            return {"array": self._keep(_from_numpy(value, path), path)}
        raise TypeError(f"state at {path or '/'}: cannot keep {kind.__module__}.{kind.__qualname__}")

    def _keep(self, tensor: Tensor, path: str) -> str:
        """Set `tensor` aside on the CPU, contiguous and sharing memory with no other, as safetensors wants it."""
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype == torch.complex128:
            raise TypeError(f"state at {path or '/'}: cannot keep a {tensor.layout} tensor of {tensor.dtype}")
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in self._storages:
            plain = plain.clone()
        self._storages.add(plain.untyped_storage().data_ptr())
        name = path or "/"
        self.tensors[name] = plain
        return name


def _key(key: object, path: str) -> str:
    if type(key) is not str:
        raise TypeError(f"state at {path or '/'}: key {key!r} is {type(key).__name__}; keys are strings")
    return key


def _escape(key: object) -> str:
    """A key as one part of a path (RFC 6901), so that different places have different names."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _from_numpy(array: np.ndarray, path: str) -> Tensor:
    try:
        return torch.from_numpy(array.copy(order="C"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"state at {path or '/'}: NumPy dtype {array.dtype} has no tensor dtype") from error


def _decode(value: Any, tensors: dict[str, Tensor], dealt: Path) -> StateTree:
    if isinstance(value, list):
        return [_decode(item, tensors, dealt) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    match tag:
        case "float":
            return float(content)
        case "tuple":
            return tuple(_decode(item, tensors, dealt) for item in content)
        case "dict":
            return {key: _decode(item, tensors, dealt) for key, item in content.items()}
        case "tensor":
            # load_file maps the file: a copy stays valid, and fast, when a later checkpoint replaces it
            return tensors[content].clone()
        case "dealt":
            return Stored(folder=dealt, name=content[0], shape=torch.Size(content[1]))
        case "array":
            return tensors[content].clone().numpy()
    raise ValueError(f"unknown tag {tag!r}")


def random_state(device: torch.device) -> StateTree:
    """The state of every global random generator: Python's, NumPy's old one, PyTorch's, and `device`'s where it is a GPU."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  libraries still draw from it, so it is part of the state
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: StateTree, device: torch.device) -> None:
    """Undo everything drawn since `random_state`. A state taken on a CPU leaves a GPU's generator as it is, and vice versa."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002  see random_state
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_everything(seed: int) -> None:
    """Seed every global generator, the same on every process, so that all of them build the same model."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  see random_state
    torch.manual_seed(seed)
