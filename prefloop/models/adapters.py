"""Layers of PEFT in a model that may have none. PEFT is not imported here: a run without an adapter needs nothing of it."""

import sys
from typing import Any, TypeGuard

from torch import nn


def _class(module: str, name: str) -> type | None:
    """A class of PEFT, or None while nobody has imported its module: then no object of that class exists."""
    return getattr(sys.modules.get(module), name, None)


def adapter_layers(model: nn.Module) -> list[Any]:
    """The layers of a model that hold adapters of any kind (PEFT's `BaseTunerLayer`)."""
    kind = _class("peft.tuners.tuners_utils", "BaseTunerLayer")
    return [module for module in model.modules() if isinstance(module, kind)] if kind else []


def is_lora_linear(module: nn.Module) -> TypeGuard[Any]:
    """Whether a layer is a linear one under LoRA (PEFT's `lora.Linear`, not a class derived from it)."""
    return type(module) is _class("peft.tuners.lora.layer", "Linear")
