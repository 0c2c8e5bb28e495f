"""Frozen weights in 4 bits (NF4, QLoRA, arXiv:2305.14314), through bitsandbytes. It is imported where a model is quantised, not with this module."""

import sys
from importlib.util import find_spec
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefloop.configs.common import Compute
from prefloop.errors import InputError

BLOCK = 64
"""Numbers that share a scale."""
HEADS = ("lm_head", "embed_out", "score")
"""Layers that are left whole: what a token or a text is told by."""


def nf4(compute: Compute, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """For `from_pretrained`: every linear layer but the head in 4 bits, computed with in `dtype`.

    Raises `InputError` if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InputError(
            f"compute.quantize is {compute.quantize}, which needs the package bitsandbytes: pip install 'prefloop[quantize]'"
        )
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(HEADS),
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def is_quantised_linear(module: nn.Module) -> TypeGuard[Any]:
    """Whether a linear layer's weight is packed by bitsandbytes, 4 bits a number."""
    loaded = sys.modules.get("bitsandbytes.nn")
    return loaded is not None and isinstance(module, loaded.Linear4bit)


def is_quantised(model: nn.Module) -> bool:
    """Whether a model has weights in 4 bits, which cannot be trained."""
    return any(is_quantised_linear(module) for module in model.modules())


def settle_quantised(model: PreTrainedModel) -> None:
    """Make a model that was quantised as it was loaded one that is saved as a plain one.

    On processors with bfloat16 products bitsandbytes packs weights again in passes without a gradient, and then computes other last bits than
    with one: that is switched off, so that a rollout's log-probabilities are those of training.

    Raises `InputError` for rows that bitsandbytes unpacks wrongly on a CPU: their length is not a multiple of a block (seen in 0.50.2).
    """
    model.hf_quantizer = None  # pyright: ignore[reportArgumentType]  an attribute, whatever a module may hold
    vars(model.config).pop("quantization_config", None)
    for name, module in model.named_modules():
        if is_quantised_linear(module):
            if module.in_features % BLOCK and module.weight.device.type == "cpu":
                raise InputError(
                    f"compute.quantize is nf4, but {name} has {module.in_features} inputs, not a multiple of {BLOCK}, which bitsandbytes gets wrong on a CPU; "
                    "use a GPU, or leave it out"
                )
            module.support_avx512bf16_for_cpu = False


def plain_weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's weights by name, those in 4 bits as the numbers that they stand for."""
    weights = dict(model.state_dict())
    for name, module in model.named_modules():
        if is_quantised_linear(module):
            key = f"{name}.weight"
            for packed in [name for name in weights if name.startswith(f"{key}.")]:
                del weights[packed]
            weight = _dequantised(module).to(dtype)
            weights[key] = weight.T.contiguous() if lies_across(module) else weight
    return weights


def lies_across(layer: nn.Module) -> bool:
    """Whether a quantised layer was read from a weight of [in, out], as GPT-2 keeps them, and is saved as one."""
    return is_quantised_linear(layer) and getattr(layer, "source_cls", nn.Linear) is Conv1D


def _dequantised(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
