"""Attention of the packed row on a GPU: FlexAttention (arXiv:2412.05496) over the row as it is, without blocks to copy to and from.

A token sees its own sequence's past and, in a completion, its whole prompt. Tiles of the score matrix with nothing to see are skipped.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from prefloop.models.packing import Layout

_SMALLEST_HEAD = 16
"""Numbers of a head below which its kernels do not exist."""


def suits(query: Float[Tensor, "1 h n d"], value: Float[Tensor, "1 k n v"]) -> bool:
    """Whether this is the way to compute attention: on a GPU, with heads as real models have."""
    return query.device.type == "cuda" and min(query.shape[-1], value.shape[-1]) >= _SMALLEST_HEAD


def sequences_of(layout: Layout) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """For each token of the row, the sequence it belongs to, and the prompt before that one; a prompt is before itself.

    Where every prompt has one completion the two are one sequence.
    """
    if layout.single:
        own = layout.sequences.slot_of_token // layout.sequences.longest
        return own, own
    prompt = layout.prompts.slot_of_token // layout.prompts.longest
    completion = layout.completions.slot_of_token // layout.completions.longest
    own = torch.cat([prompt, completion + layout.prompts.sequences])
    return own, torch.cat([prompt, layout.prompt[completion]])


def visibility(layout: Layout) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention's `mask_mod` of a row. A prompt stands before its completions, so what is seen is never ahead."""
    own, before = sequences_of(layout)
    # A lambda, because FlexAttention counts a function's arguments, which a wrapper that checks types would hide.
    return lambda batch, head, query, key: (
        (key <= query) & ((own[key] == own[query]) | (own[key] == before[query]))
    )


@lru_cache(maxsize=2)
def block_mask(layout: Layout) -> BlockMask:
    """Which tiles of the score matrix hold something to see; made once for all layers of a pass, and for the same layout's backward."""
    n = len(sequences_of(layout)[0])
    with torch.inference_mode(False):  # a mask made while sampling would be unfit for a backward pass
        return create_block_mask(visibility(layout), None, None, n, n, device=layout.prompt.device)


@cache
def _kernel(device_type: str) -> Callable[..., Any]:
    """Compiled for a GPU, where the plain function would write out all scores; plain elsewhere."""
    return torch.compile(flex_attention, dynamic=True) if device_type == "cuda" else flex_attention


def packed_flex_attention(
    query: Float[Tensor, "1 h n d"],
    key: Float[Tensor, "1 k n d"],
    value: Float[Tensor, "1 k n v"],
    layout: Layout,
    scaling: float,
) -> Float[Tensor, "1 n h v"]:
    """`attention.packed_attention` for a GPU. Without gradient it runs on a CPU too, slowly."""
    out = _kernel(query.device.type)(
        query,
        key,
        value,
        block_mask=block_mask(layout),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)
