"""The trunk of Llama-like models on a packed row in few operations, its last layer only as far as somebody reads it.

Llama, Mistral, Qwen2, Qwen3 and Gemma share one block. Norm, rotary embedding and gated activation are here one operation each, with a backward
pass of their own that recomputes rather than stores; products and attention are the model's, adapters included. A head reads the rows that
predict a token, or a completion's last: for the others the last layer ends with their keys and values, which saves its output
projection and MLP, about a layer's three quarters, on every token of a prompt.
"""

from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint
from transformers import GemmaModel, LlamaModel, MistralModel, PreTrainedModel, Qwen2Model, Qwen3Model
from transformers.activations import SiLUActivation

from prefloop.models.attention import attend_row
from prefloop.models.gather import ReadRows
from prefloop.models.gathering import RUN, has_hooks
from prefloop.models.packing import Batch, Layout
from prefloop.runtime.products import filling

TRUNKS = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model, GemmaModel)

STATIC_ROPE = {"default", "linear", "llama3", "yarn"}
"""Rotary embeddings whose angle depends on the position alone; the others change with the length of what is being read."""


_HEAD_NORMS = ("q_norm", "k_norm")


def is_watched(model: PreTrainedModel) -> bool:
    """Whether somebody changes or watches what one of the modules computes that `run_blocks` does not call; then they must be called."""
    trunk = cast(Any, model.base_model)
    passed_over = [trunk, trunk.norm]
    for layer in trunk.layers:
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        passed_over += [layer, layer.self_attn, layer.mlp, layer.mlp.act_fn, *norms]
        passed_over += [module for name in _HEAD_NORMS if (module := getattr(layer.self_attn, name, None))]
    return any(has_hooks(module, backward=True) for module in passed_over)


def has_known_blocks(model: PreTrainedModel) -> bool:
    """Whether `run_blocks` knows this model's layers; that it computes what they compute is for a probe to say."""
    trunk = cast(Any, model.base_model)
    return type(trunk) in TRUNKS and getattr(trunk.rotary_emb, "rope_type", "") in STATIC_ROPE


def run_blocks(model: PreTrainedModel, batch: Batch, rows: ReadRows | None = None) -> Float[Tensor, "M d"]:
    """Final hidden states of the rows asked for, of all N where `rows` is None.

    Cost, with P weights in L layers: 2 N P floating-point operations, less the last layer's output projection and MLP for N - M tokens.
    """
    trunk = cast(Any, model.base_model)
    wanted = batch.tokens if rows is None else len(rows.index)
    if rows is not None:
        rows = rows.widened(rows=0, entries=filling(wanted, batch.input_ids.device))
    x = trunk.embed_tokens(batch.input_ids)
    cos, sin = (part[0] for part in trunk.rotary_emb(x, batch.position_ids[None]))
    half = cos.shape[-1] // 2  # the second half repeats the first
    turns = cos[:, None, :half].contiguous(), sin[:, None, :half].contiguous()
    layers = trunk.layers[: trunk.config.num_hidden_layers]
    for number, layer in enumerate(layers):
        run = partial(
            getattr(layer, RUN, None) or partial(run_block, layer),
            turns=turns,
            layout=batch.layout,
            rows=rows if number == len(layers) - 1 else None,
        )
        if layer.gradient_checkpointing and layer.training and torch.is_grad_enabled():
            x = cast(Tensor, checkpoint(run, x, use_reentrant=False))
        else:
            x = run(x)
    return _norm(trunk.norm, x)[1][:wanted]


def run_block(
    layer: Any,
    x: Float[Tensor, "n d"],
    turns: tuple[Tensor, Tensor],
    layout: Layout,
    rows: ReadRows | None,
) -> Float[Tensor, "m d"]:
    """One layer, for all rows or for some."""
    attention, mlp = layer.self_attn, layer.mlp
    x, normed = _norm(layer.input_layernorm, x)
    query, key, value = (
        project(normed).view(len(x), -1, attention.head_dim)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "q_norm"):
        query, key = _norm(attention.q_norm, query)[1], _norm(attention.k_norm, key)[1]
    query, key = (_Rotate.apply(heads, *turns) for heads in (query, key))
    out = attend_row(query[None], key[None], value.transpose(0, 1)[None], layout, attention.scaling)  # pyright: ignore[reportOptionalSubscript]
    out = out[0].flatten(1)
    if rows is not None:
        out, x = rows.take(out), rows.take(x)
    x, normed = _norm(layer.post_attention_layernorm, attention.o_proj(out).add_(x))
    gate, up = mlp.gate_proj(normed), mlp.up_proj(normed)
    if isinstance(mlp.act_fn, (nn.SiLU, SiLUActivation)):
        inner = _SwiGLU.apply(gate, up)
    else:
        inner = mlp.act_fn(gate) * up
    return mlp.down_proj(inner).add_(x)


def _norm(module: nn.Module, x: Float[Tensor, "... d"]) -> tuple[Tensor, Tensor]:
    """What goes past the norm, and the norm."""
    norm = cast(Any, module)
    gemma = hasattr(norm, "eps")  # its weight is what is added to 1, in float32
    eps: float = norm.eps if gemma else norm.variance_epsilon
    return _Norm.apply(x, norm.weight, eps, gemma)  # pyright: ignore[reportReturnType]


class _Norm(torch.autograd.Function):
    """RMSNorm, in float32 at least, beside its own input, whose gradient then needs no addition of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, gemma: bool) -> tuple[Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = wide * scale
        normed = (
            normed.mul_(weight.to(wide.dtype) + 1.0).to(x.dtype) if gemma else normed.to(x.dtype).mul_(weight)
        )
        ctx.save_for_backward(x, weight, scale)
        ctx.gemma = gemma
        ctx.set_materialize_grads(False)
        return x.view_as(x), normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        past, grad = grads
        if grad is None:
            return past, None, None, None
        x, weight, scale = ctx.saved_tensors
        d = x.shape[-1]
        wide, factor = x.to(scale.dtype).reshape(-1, d), weight.to(scale.dtype)
        factor = factor + 1.0 if ctx.gemma else factor
        rows, flat = scale.reshape(-1), grad.to(scale.dtype).reshape(-1, d)
        # With s the scale: y = w s x, dx = s w g - x s^3 (sum of w g x) / d, dw = sum of s x g.
        product = flat * wide
        to_weight = torch.mv(product.T, rows).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None, None
        inner = torch.mv(product, factor).mul_(rows.pow(3)).div_(d)
        out = torch.mul(flat, factor, out=product).mul_(rows[:, None])
        out.addcmul_(wide, inner[:, None], value=-1.0)
        if past is not None:
            out.add_(past.reshape(-1, d))
        return out.view(x.shape).to(x.dtype), to_weight, None, None


class _Rotate(torch.autograd.Function):
    """Rotary embedding of [n, heads, size], the result as [heads, n, size], which is how attention reads it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, -1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0].transpose(0, 1), cos, sin, 1.0).transpose(0, 1), None, None


def _turned(
    x: Float[Tensor, "n heads size"], cos: Tensor, sin: Tensor, sign: float
) -> Float[Tensor, "heads n size"]:
    """The two halves of each head as real and imaginary part, turned by the angle, or back by it where `sign` is 1."""
    n, heads, size = x.shape
    half = size // 2
    # Tokens of a head stand together: long inner loops, however few heads there are.
    result = x.new_empty(heads, n, size)
    out = result.transpose(0, 1)
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=sign)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin, value=-sign)
    return result


class _SwiGLU(torch.autograd.Function):
    """`silu(gate) * up`; the activation is computed again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        (grad,) = grads
        to_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return to_gate, silu(gate).mul_(grad)
