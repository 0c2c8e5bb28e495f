"""Frozen weights in 4 bits (NF4, QLoRA, arXiv:2305.14314) or 8 (LLM.int8, arXiv:2208.07339), which bitsandbytes makes as a model is read.

It is imported where a model is quantised, not with this module.
"""

import sys
from importlib.util import find_spec
from typing import Any, Literal, TypeGuard, cast

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefloop.configs.common import Compute
from prefloop.errors import InputError

BLOCK = 64
"""Numbers of nf4 that share a scale."""
LARGEST = 127
"""What the largest number of a row is in int8."""
HEADS = ("lm_head", "embed_out", "score")
"""Layers that are left whole: what a token or a text is told by."""


def quantised(compute: Compute, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """For `from_pretrained`: every linear layer but the head in 4 or 8 bits; `settle_quantised` makes of them what is computed with.

    Raises `InputError` if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InputError(
            f"compute.quantize is {compute.quantize}, which needs the package bitsandbytes: pip install 'prefloop[quantize]'"
        )
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=compute.quantize == "nf4",
        load_in_8bit=compute.quantize == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(HEADS),
    )
    return {"quantization_config": settings, "device_map": {"": device}}


class Int8Linear(nn.Linear):
    """A frozen linear layer whose weights are int8 with a scale for each row; activations are left as they are.

    `bitsandbytes.nn.Linear8bitLt` rounds activations too, apart from columns that hold an outlier in any row, so what it gives for a token depends on the
    batch around it: the sampler and the trainer would not agree.
    """

    def __init__(self, layer: Any) -> None:
        """From a `Linear8bitLt` that was read."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.source_cls = getattr(layer, "source_cls", nn.Linear)
        self.weight = nn.Parameter(layer.weight.data, requires_grad=False)
        self.register_buffer("scale", layer.weight.SCB.float() / LARGEST)
        self.bias = layer.bias

    def forward(self, input: Float[Tensor, "*rows i"]) -> Float[Tensor, "*rows o"]:
        """As a linear layer's, in the input's type."""
        product = cast(Tensor, _Int8Product.apply(input, self.weight, self.scale))
        return product if self.bias is None else product + self.bias

    def unpacked(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The numbers that the weights stand for."""
        return _unpacked(self.weight, cast(Tensor, self.scale), dtype)


class _Int8Product(torch.autograd.Function):
    """x Wᵀ, which keeps the packed weights for the way back, not the unpacked ones."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Int8[Tensor, "o i"], scale: Float[Tensor, " o"]
    ) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return functional.linear(x, _unpacked(weight, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, scale = ctx.saved_tensors
        return gradient @ _unpacked(weight, scale, gradient.dtype), None, None


def _unpacked(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (weight * scale[:, None]).to(dtype)


def is_quantised_linear(module: nn.Module) -> TypeGuard[Any]:
    """Whether a linear layer's weight is packed, 4 or 8 bits a number."""
    return isinstance(module, Int8Linear) or _is(module, "Linear4bit")


def _is(module: nn.Module, kind: str) -> TypeGuard[Any]:
    """Whether a module is one of bitsandbytes."""
    loaded = sys.modules.get("bitsandbytes.nn")
    return loaded is not None and isinstance(module, getattr(loaded, kind))


def quantisation_of(model: nn.Module) -> Literal["none", "nf4", "int8"]:
    """What a model's weights are packed as; packed ones cannot be trained."""
    for module in model.modules():
        if is_quantised_linear(module):
            return "int8" if isinstance(module, Int8Linear) else "nf4"
    return "none"


def settle_quantised(model: PreTrainedModel) -> None:
    """Make a model that was quantised as it was loaded one that is saved as a plain one; another is left as it is.

    On processors with bfloat16 products bitsandbytes packs weights of 4 bits again in passes without a gradient, and then computes other last bits
    than with one: that is switched off, so that a rollout's log-probabilities are those of training.

    Raises `InputError` for rows of 4 bits that bitsandbytes unpacks wrongly on a CPU: their length is not a multiple of a block (seen in 0.50.2).
    """
    for name, module in list(model.named_modules()):
        if _is(module, "Linear8bitLt"):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Int8Linear(module))
        elif _is(module, "Linear4bit"):
            if module.in_features % BLOCK and module.weight.device.type == "cpu":
                raise InputError(
                    f"compute.quantize is nf4, but {name} has {module.in_features} inputs, not a multiple of {BLOCK}, which bitsandbytes gets wrong on a CPU; "
                    "use a GPU or int8, or leave it out"
                )
            module.support_avx512bf16_for_cpu = False
    if quantisation_of(model) != "none":
        model.hf_quantizer = None  # pyright: ignore[reportArgumentType]  an attribute, whatever a module may hold
        vars(model.config).pop("quantization_config", None)


def plain_weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's weights by name, packed ones as the numbers that they stand for."""
    weights = dict(model.state_dict())
    for name, module in model.named_modules():
        if is_quantised_linear(module):
            key = f"{name}.weight"
            for packed in [each for each in weights if each.startswith((f"{key}.", f"{name}.scale"))]:
                del weights[packed]
            weight = _dequantised(module, dtype)
            weights[key] = weight.T.contiguous() if lies_across(module) else weight
    return weights


def lies_across(layer: nn.Module) -> bool:
    """Whether a quantised layer was read from a weight of [in, out], as GPT-2 keeps them, and is saved as one."""
    return is_quantised_linear(layer) and getattr(layer, "source_cls", nn.Linear) is Conv1D


def _dequantised(layer: Any, dtype: torch.dtype) -> Tensor:
    if isinstance(layer, Int8Linear):
        return layer.unpacked(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
