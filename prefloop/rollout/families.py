"""The weights of Llama-like models, read out for decoding: queries, keys and values in one product, gate and up in one.

Llama, Mistral, Qwen2, Qwen3 and Gemma are one block with small differences (biases, a norm of each head, the activation), told apart here by
their classes. Whatever is not exactly one of them is decoded by its own module.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol, cast

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import (
    GemmaForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from prefloop.models.adapters import is_lora_linear
from prefloop.models.blocks import STATIC_ROPE
from prefloop.models.gathering import has_hooks
from prefloop.models.trunk import sliding_window

FAMILIES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GemmaForCausalLM)


def text_config(model: nn.Module) -> PreTrainedConfig:
    """The configuration of a model's text part."""
    return cast(PreTrainedConfig, model.config).get_text_config()


_SMALL = 2**17
"""Weights below which a matrix is copied where that is faster: those of one product side by side, with adapters added in."""


class Projection(Protocol):
    """`x W^T + b` of linear layers side by side, with weights that are only read."""

    def __call__(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """The product, in memory of its own."""
        ...

    def add(self, x: Float[Tensor, "n in"], residual: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
        """The product and the residual stream."""
        ...


class CopiedProjection:
    """Small weights, in an order of their own."""

    def __init__(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None) -> None:
        self._bias = bias
        self._weight = weight.t().contiguous() if weight.device.type == "cpu" else weight.t()

    def __call__(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """See `Projection`."""
        return x @ self._weight if self._bias is None else torch.addmm(self._bias, x, self._weight)

    def add(self, x: Float[Tensor, "n in"], residual: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
        """See `Projection`."""
        total = torch.addmm(residual, x, self._weight)
        return total if self._bias is None else total.add_(self._bias)


class SharedProjection:
    """The layers' own weights: a model that is sampled from takes its memory once. Active adapters are multiplied beside them, in float32,
    as PEFT does: added to a weight of eight bits they would be rounded away.

    On a CPU the products are oneDNN's.
    """

    def __init__(self, modules: Sequence[nn.Module], order: Tensor | None) -> None:
        self._layers = [(_base(module).weight.detach(), _detached(_base(module).bias)) for module in modules]
        self._order = order
        self._by_onednn = all(_by_onednn(weight) for weight, _ in self._layers)
        found = [(place, *pair) for place, module in enumerate(modules) for pair in _pairs(module)]
        self._down = torch.cat([down for _, down, _ in found]).t() if found else None
        starts = [0, *accumulate(len(down) for _, down, _ in found)]
        self._ups = [
            (place, slice(start, stop), up.t())
            for (place, _, up), (start, stop) in zip(found, pairwise(starts), strict=True)
        ]

    def __call__(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """See `Projection`."""
        parts = [self._product(x, weight, bias) for weight, bias in self._layers]
        self._adapt(x, parts)
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return whole if self._order is None else whole.index_select(1, self._order)

    def add(self, x: Float[Tensor, "n in"], residual: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
        """See `Projection`."""
        return self(x).add_(residual)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._by_onednn:
            return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
        return linear(x, weight, bias)

    def _adapt(self, x: Tensor, parts: list[Tensor]) -> None:
        if self._down is None:
            return
        inner = x.to(self._down.dtype) @ self._down
        for place, columns, up in self._ups:
            part = parts[place]
            if part.dtype == up.dtype:
                part.addmm_(inner[:, columns], up)
            else:
                part.copy_(torch.addmm(part.to(up.dtype), inner[:, columns], up))


def _by_onednn(weight: Tensor) -> bool:
    """Whether this build of PyTorch has oneDNN's linear layer for such a weight (what its compiler uses for frozen models)."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    # float16's kernels need a newer processor than bfloat16's, and float64 has none.
    fit = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or fit


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One block. Queries and keys have their head's features paired: (0, size / 2), (1, size / 2 + 1), ..., for rotation as complex numbers."""

    qkv: Projection
    """All heads' queries, then keys, then values."""
    output: Projection
    gate_up: Projection
    down: Projection
    attention_norm: Float[Tensor, " d"]
    mlp_norm: Float[Tensor, " d"]
    head_norm: Float[Tensor, "heads size"]
    """Weights of the norm of each query and key; no elements if there is none."""
    window: int
    """Tokens a query sees, itself among them; 0 is all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A model's weights at the moment they were read."""

    embed: nn.Module
    layers: tuple[Layer, ...]
    norm: Float[Tensor, " d"]
    head: Projection
    turns: Complex[Tensor, "columns 1 pairs"]
    """Rotary embedding of each position, as complex numbers."""
    heads: int
    kv_heads: int
    size: int
    """Numbers of a head."""
    eps: float
    activation: Callable[[Tensor], Tensor]


def read_weights(model: nn.Module, *, columns: int) -> Weights | None:
    """The weights of a model of one of the families, active LoRA adapters added in; None for any other model.

    Small ones are copied, so read them again when they change. `columns` is how many positions are needed.
    """
    if type(model) not in FAMILIES or any(has_hooks(module) for module in _read_out(model)):
        return None
    config = text_config(model)
    trunk = cast(Any, model.base_model)
    rope = getattr(trunk.rotary_emb, "rope_type", "")
    linears = [module for block in trunk.layers for module in _linears(block)] + [cast(Any, model).lm_head]
    if rope not in STATIC_ROPE or not all(_is_plain(module) for module in linears):
        return None
    with torch.no_grad():
        first, weight = trunk.layers[0].self_attn, trunk.norm.weight
        plus = 1.0 if isinstance(model, GemmaForCausalLM) else 0.0
        cos, sin = trunk.rotary_emb(
            weight.new_empty(0, dtype=torch.promote_types(weight.dtype, torch.float32)),
            torch.arange(columns, device=weight.device)[None],
        )
        pairs = first.head_dim // 2
        if cos.shape[-1] != first.head_dim or not torch.equal(cos[..., :pairs], cos[..., pairs:]):
            return None
        return Weights(
            embed=trunk.embed_tokens,
            layers=tuple(
                _layer(block, window, plus)
                for block, window in zip(trunk.layers, _windows(config, len(trunk.layers)), strict=True)
            ),
            norm=weight + plus,
            head=_projection([cast(Any, model).lm_head]),
            turns=torch.complex(cos[0, :, :pairs], sin[0, :, :pairs]).unsqueeze(1),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            size=first.head_dim,
            eps=config.rms_norm_eps,
            activation=trunk.layers[0].mlp.act_fn,
        )


def _layer(block: Any, window: int, plus: float) -> Layer:
    attention, mlp, size = block.self_attn, block.mlp, block.self_attn.head_dim
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    order = torch.arange(size, device=block.input_layernorm.weight.device).view(2, -1).T.flatten()
    head_norm = torch.empty(0, size)
    if hasattr(attention, "q_norm"):
        of_query, of_key = attention.q_norm.weight[order], attention.k_norm.weight[order]
        of_each = (out // size for out in (qkv[0].out_features, qkv[1].out_features))
        head_norm = torch.cat(
            [part.expand(heads, size) for part, heads in zip((of_query, of_key), of_each, strict=True)]
        )
    return Layer(
        qkv=_projection(qkv, [order, order, torch.arange(size, device=order.device)]),
        output=_projection([attention.o_proj]),
        gate_up=_projection([mlp.gate_proj, mlp.up_proj]),
        down=_projection([mlp.down_proj]),
        attention_norm=block.input_layernorm.weight + plus,
        mlp_norm=block.post_attention_layernorm.weight + plus,
        head_norm=head_norm,
        window=window,
    )


def _windows(config: PreTrainedConfig, layers: int) -> list[int]:
    window, by_kind = sliding_window(config)
    if not by_kind:
        return [window or 0] * layers
    kinds = cast(Sequence[str], config.layer_types)
    return [window or 0 if kind == "sliding_attention" else 0 for kind in kinds]


def _linears(block: Any) -> Iterator[nn.Module]:
    attention, mlp = block.self_attn, block.mlp
    yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _read_out(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that are not called: all but the input embedding, on which checkpointing puts a hook."""
    embedding = cast(Any, model.base_model).embed_tokens
    return (module for module in model.modules() if module is not embedding)


def _is_plain(module: nn.Module) -> bool:
    """A linear layer, or one under ordinary LoRA."""
    if type(module) is nn.Linear:
        return True
    return (
        is_lora_linear(module)
        and type(module.get_base_layer()) is nn.Linear
        and not module.lora_variant
        and not any(module.lora_bias.values())
    )


def _projection(modules: Sequence[nn.Module], orders: Sequence[Tensor] = ()) -> Projection:
    """Linear layers as one, in each head's order of features where it is given."""
    bases = [_base(module) for module in modules]
    assert len({base.bias is None for base in bases}) == 1, "layers with and without bias cannot be one"
    large = sum(base.weight.numel() for base in bases) >= _SMALL
    if large or (bases[0].weight.dtype == torch.bfloat16 and any(map(_active, modules))):
        return SharedProjection(modules, _order(bases, orders) if orders else None)
    weights, biases = [_weight(module) for module in modules], [base.bias for base in bases]
    if orders:
        weights = [_by_head(weight, order) for weight, order in zip(weights, orders, strict=True)]
        biases = [
            None if bias is None else _by_head(bias, order)
            for bias, order in zip(biases, orders, strict=True)
        ]
    given = [bias for bias in biases if bias is not None]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    return CopiedProjection(weight.detach(), torch.cat(given).detach() if given else None)


def _order(bases: Sequence[nn.Linear], orders: Sequence[Tensor]) -> Tensor:
    """Which feature of layers side by side stands where, in each head's order."""
    parts, start = [], 0
    for base, order in zip(bases, orders, strict=True):
        features = torch.arange(start, start + base.out_features, device=order.device)
        parts.append(_by_head(features, order))
        start += base.out_features
    return torch.cat(parts)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _by_head(rows: Shaped[Tensor, "out ..."], order: Tensor) -> Shaped[Tensor, "out ..."]:
    return rows.unflatten(0, (-1, len(order)))[:, order].flatten(0, 1)


def _base(module: nn.Module) -> nn.Linear:
    base = module.get_base_layer() if is_lora_linear(module) else module
    assert isinstance(base, nn.Linear)
    return base


def _active(module: nn.Module) -> list[str]:
    """The adapters that a layer runs with now, and that are not merged into its weight."""
    if not is_lora_linear(module) or module.disable_adapters or module.merged:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _pairs(module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """The two factors of each active adapter of a layer, the second with its scale."""
    layer = cast(Any, module)
    for name in _active(module):
        yield layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach() * layer.scaling[name]


def _weight(module: nn.Module) -> Tensor:
    """The weight that the layer multiplies with now."""
    weight = _base(module).weight
    for name in _active(module):
        weight = weight + cast(Any, module).get_delta_weight(name)
    return weight
