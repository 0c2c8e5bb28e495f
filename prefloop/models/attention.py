"""Attention over the packed row, through the attention interface of transformers.

`register()` adds an attention implementation named `prefloop`. Called with `packed_layout` it computes each completion against its prompt and
itself; called without, it is PyTorch's own scaled dot-product attention with the mask it was given.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefloop.models.flex import packed_flex_attention, suits
from prefloop.models.gather import gather_rows
from prefloop.models.packing import Blocks, Layout
from prefloop.models.stretches import attend

NAME = "prefloop"

# Arguments that some architectures hand to attention and that change its result in ways the packed path does not compute.
UNSUPPORTED = ("softcap", "s_aux", "position_bias", "cu_seq_lens_q")


class PackingUnsupported(Exception):
    """The model asks its attention for something the packed path does not compute."""


def _to_blocks(rows: Float[Tensor, "n c"], blocks: Blocks, heads: int) -> Float[Tensor, "b h l d"]:
    unused = blocks.padding[:0]  # every token of the row has a slot
    block = gather_rows(rows, blocks.token_of_slot, blocks.slot_of_token, unused)
    return block.view(blocks.sequences, blocks.longest, heads, -1).transpose(1, 2)


def _to_row(block: Float[Tensor, "b h l d"], blocks: Blocks) -> Float[Tensor, "n c"]:
    flat = block.transpose(1, 2).reshape(blocks.sequences * blocks.longest, -1)
    return gather_rows(flat, blocks.slot_of_token, blocks.token_of_slot, blocks.padding)


def _causal(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, heads: int, scaling: float) -> Tensor:
    """Plain causal attention inside each sequence. Padding is on the right, so no real token ever sees it."""
    kv_heads = key.shape[1] * heads // query.shape[1]
    out = scaled_dot_product_attention(
        _to_blocks(query, blocks, heads),
        _repeat_heads(_to_blocks(key, blocks, kv_heads), heads),
        _repeat_heads(_to_blocks(value, blocks, kv_heads), heads),
        is_causal=True,
        scale=scaling,
    )
    return _to_row(out, blocks)


def _repeat_heads(block: Float[Tensor, "b k l d"], heads: int) -> Float[Tensor, "b h l d"]:
    """Grouped-query attention: each key-value head serves several query heads."""
    kv_heads = block.shape[1]
    return block if kv_heads == heads else block.repeat_interleave(heads // kv_heads, dim=1)


def _for_completions(prompts: Float[Tensor, "g h p d"], layout: Layout) -> Float[Tensor, "b h p d"]:
    """Each prompt's keys or values once for each of its completions; the gradient is their sum."""
    k = layout.per_prompt
    if k:
        g, h, p, d = prompts.shape
        return prompts.unsqueeze(1).expand(g, k, h, p, d).reshape(g * k, h, p, d)
    return prompts.index_select(0, layout.group)


def _completion_mask(layout: Layout) -> Tensor:
    """`[B, 1, T, P + T]`: a completion token sees its whole prompt and its own past."""
    prompts, completions = layout.prompts, layout.completions
    device = prompts.lengths.device
    sees_prompt = (
        torch.arange(prompts.longest, device=device)[None, :]
        < prompts.lengths.index_select(0, layout.group)[:, None]
    )
    causal = torch.ones(completions.longest, completions.longest, dtype=torch.bool, device=device).tril()
    shape = (completions.sequences, 1, completions.longest, -1)
    return torch.cat([sees_prompt[:, None, None, :].expand(*shape), causal.expand(*shape)], dim=-1)


def attend_row(
    query: Float[Tensor, "1 h n d"],
    key: Float[Tensor, "1 k n d"],
    value: Float[Tensor, "1 k n v"],
    layout: Layout,
    scaling: float,
) -> Float[Tensor, "1 n h v"]:
    """Attention of a packed row, by FlexAttention where that suits."""
    attend_packed = packed_flex_attention if suits(query, value) else packed_attention
    return attend_packed(query, key, value, layout, scaling)


def packed_attention(
    query: Float[Tensor, "1 h n d"],
    key: Float[Tensor, "1 k n d"],
    value: Float[Tensor, "1 k n v"],
    layout: Layout,
    scaling: float,
) -> Float[Tensor, "1 n h v"]:
    """Attention of a packed row. Cost: prompts L^2/2 each once, completions T(P + T) each; in blocks padded to the longest of the batch,
    on a CPU hardly padded at all."""
    if query.device.type == "cpu":
        return attend(query[0], key[0], value[0], layout.plan, scaling)[None]
    return block_attention(query, key, value, layout, scaling)


def block_attention(
    query: Float[Tensor, "1 h n d"],
    key: Float[Tensor, "1 k n d"],
    value: Float[Tensor, "1 k n v"],
    layout: Layout,
    scaling: float,
) -> Float[Tensor, "1 n h v"]:
    """All prompts in one block and all completions in another: few and large operations, as a GPU wants them."""
    _, heads, n, _ = query.shape
    q, k, v = (x[0].transpose(0, 1).reshape(n, -1) for x in (query, key, value))
    if layout.single:
        return _causal(q, k, v, layout.sequences, heads, scaling).view(1, n, heads, -1)

    split = layout.prompt_tokens
    prompts, completions = layout.prompts, layout.completions
    kv_heads = key.shape[1]
    prompt_key = _to_blocks(k[:split], prompts, kv_heads)
    prompt_value = _to_blocks(v[:split], prompts, kv_heads)
    prompt_out = scaled_dot_product_attention(
        _to_blocks(q[:split], prompts, heads),
        _repeat_heads(prompt_key, heads),
        _repeat_heads(prompt_value, heads),
        is_causal=True,
        scale=scaling,
    )
    all_keys = torch.cat(
        [_for_completions(prompt_key, layout), _to_blocks(k[split:], completions, kv_heads)], dim=2
    )
    all_values = torch.cat(
        [_for_completions(prompt_value, layout), _to_blocks(v[split:], completions, kv_heads)], dim=2
    )
    completion_out = scaled_dot_product_attention(
        _to_blocks(q[split:], completions, heads),
        _repeat_heads(all_keys, heads),
        _repeat_heads(all_values, heads),
        attn_mask=_completion_mask(layout),
        scale=scaling,
    )
    out = torch.cat([_to_row(prompt_out, prompts), _to_row(completion_out, completions)])
    return out.view(1, n, heads, -1)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if packed_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )  # pyright: ignore[reportReturnType]
    asked = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if asked:
        raise PackingUnsupported(f"its attention uses {', '.join(asked)}")
    assert dropout == 0.0, "dropout must be off"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_row(query, key, value, packed_layout, scale), None


def register() -> None:
    """Make `attn_implementation="prefloop"` known to transformers. Without a layout it behaves as `sdpa`, masks included."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
