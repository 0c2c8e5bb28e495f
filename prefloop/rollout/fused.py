"""Decoding of Llama-like models in few, large operations: see `families` for which, and for how their weights are laid out.

A step of a model with P weights over n completions with c columns of keys and values costs 2 n P floating-point operations, and reads the weights
once and the cache's 2 n c numbers a key-value feature and layer; what surrounds that is about fifteen small operations a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from prefloop.rollout.families import Layer, Weights
from prefloop.rollout.steps import Recorded, record_cuda


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefilled:
    """Keys and values of P prompts of at most L tokens."""

    pairs: Float[Tensor, "layers two P kv_heads L size"]


class FusedDecoder:
    """A `Decoder` that computes the model's blocks itself, from the weights as they were when it was made."""

    def __init__(self, weights: Weights, *, slots: int, columns: int) -> None:
        self._weights = weights
        self._device, self._dtype = weights.norm.device, weights.norm.dtype
        self._precise = weights.turns.real.dtype
        self._columns = torch.arange(columns, device=self._device)
        # Zeros, because attention multiplies hidden columns by 0 and a NaN left in fresh memory would survive that.
        shape = (len(weights.layers), 2, slots, weights.kv_heads, columns, weights.size)
        self._pairs = torch.zeros(shape, dtype=self._dtype, device=self._device)
        self._step = self._logits
        if self._device.type == "cuda":
            # Launching the kernels of a step one by one takes longer than they run.
            self._step = Recorded(self._logits, slots, columns, self._device, record_cuda)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """Compute the prompts' real tokens only; attention pads them on the right, where no real token looks."""
        w = self._weights
        lengths = [len(prompt) - 1 for prompt in prompts]
        count, longest = len(prompts), max(lengths)
        shape = (len(w.layers), 2, count, w.kv_heads, longest, w.size)
        pairs = torch.zeros(shape, dtype=self._dtype, device=self._device)
        if not longest:
            return Prefilled(pairs=pairs)
        ids = torch.tensor([i for prompt in prompts for i in prompt[:-1]], device=self._device)
        places = torch.cat([torch.arange(n) + row * longest for row, n in enumerate(lengths)])
        places = places.to(self._device)
        turns = w.turns[places % longest]

        def block(rows: Float[Tensor, "n heads size"]) -> Float[Tensor, "P heads L size"]:
            padded = rows.new_zeros(count * longest, *rows.shape[1:]).index_copy_(0, places, rows)
            return padded.view(count, longest, *rows.shape[1:]).transpose(1, 2)

        x = w.embed(ids)
        for layer, (keys, values) in zip(w.layers, pairs, strict=True):
            query, key, value = self._heads(layer, x, turns)
            keys.copy_(block(key))
            values.copy_(block(value))
            if layer is w.layers[-1]:
                break  # nothing reads what the last layer gives for these tokens
            out = self._causal(block(query), keys, values, layer.window)
            x = self._finish(layer, x, out.transpose(1, 2).flatten(0, 1)[places].flatten(1))
        return Prefilled(pairs=pairs)

    def fill(self, slots: Sequence[int], prefill: Prefilled, sources: Sequence[int]) -> None:
        """See `Decoder`."""
        to, of = self._indices(slots), self._indices(sources)
        self._pairs[:, :, :, :, : prefill.pairs.shape[4]].index_copy_(
            2, to, prefill.pairs.index_select(2, of)
        )

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """See `Decoder`."""
        used = self._pairs[:, :, :, :, :columns]
        used.index_copy_(2, self._indices(targets), used.index_select(2, self._indices(sources)))

    def logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """See `Decoder`."""
        return self._step(tokens, positions, columns)

    def _logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        w, n = self._weights, len(tokens)
        masks = {layer.window: torch.empty(0) for layer in w.layers}
        behind = positions.unsqueeze(1) - self._columns[:columns]
        for window in masks:
            masks[window] = self._mask((behind >= 0) & (behind < window) if window else behind >= 0)
        heads = torch.arange(n * w.kv_heads, device=self._device).view(n, -1)
        rows = (heads * len(self._columns) + positions.unsqueeze(1)).flatten()
        turns = w.turns[positions]
        x = w.embed(tokens)
        for layer, (keys, values) in zip(w.layers, self._pairs, strict=True):
            query, key, value = self._heads(layer, x, turns)
            for store, new in ((keys, key), (values, value)):
                store.view(-1, w.size).index_copy_(0, rows, new.reshape(-1, w.size))
            seen = slice(n), slice(None), slice(columns)
            out = self._attend(
                query, keys[seen].flatten(0, 1), values[seen].flatten(0, 1), masks[layer.window]
            )
            x = self._finish(layer, x, out.view(n, -1))
        return w.head(self._norm(x, w.norm))

    def _attend(
        self,
        query: Float[Tensor, "n heads size"],
        keys: Float[Tensor, "m columns size"],
        values: Float[Tensor, "m columns size"],
        mask: Float[Tensor, "m group columns"],
    ) -> Float[Tensor, "m group size"]:
        """One query a head; m is n times key-value heads. The products of many short rows are faster here than fused attention."""
        grouped = query.reshape(len(keys), -1, self._weights.size)
        scores = torch.baddbmm(mask, grouped, keys.transpose(1, 2), alpha=self._weights.size**-0.5)
        return torch.softmax(scores, -1, dtype=self._precise).to(self._dtype) @ values

    def _mask(self, visible: Bool[Tensor, "n columns"]) -> Float[Tensor, "m group columns"]:
        """What each query sees, to start its scores from."""
        w, (n, columns) = self._weights, visible.shape
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        mask = mask.masked_fill_(~visible, -torch.inf)[:, None, None]
        return mask.expand(n, w.kv_heads, w.heads // w.kv_heads, columns).flatten(0, 1)

    def _causal(
        self,
        query: Float[Tensor, "P heads L size"],
        keys: Float[Tensor, "P kv_heads L size"],
        values: Float[Tensor, "P kv_heads L size"],
        window: int,
    ) -> Float[Tensor, "P heads L size"]:
        group = query.shape[1] // keys.shape[1]
        if group > 1:
            keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        length = query.shape[2]
        if not window or window >= length:
            return scaled_dot_product_attention(query, keys, values, is_causal=True)
        behind = self._columns[:length, None] - self._columns[:length]
        return scaled_dot_product_attention(query, keys, values, attn_mask=(behind >= 0) & (behind < window))

    def _heads(
        self, layer: Layer, x: Float[Tensor, "n d"], turns: Complex[Tensor, "n 1 pairs"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned to their positions, and values, each [n, heads, size]."""
        w = self._weights
        qkv = layer.qkv(self._norm(x, layer.attention_norm)).view(len(x), -1, w.size)
        turning, values = qkv[:, : -w.kv_heads], qkv[:, -w.kv_heads :]
        if layer.head_norm.numel():
            turning = rms_norm(turning, (w.size,), None, w.eps) * layer.head_norm
        pairs = torch.view_as_complex(turning.to(self._precise).unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * turns).flatten(-2).to(self._dtype)
        return turned[:, : w.heads], turned[:, w.heads :], values

    def _finish(
        self, layer: Layer, x: Float[Tensor, "n d"], attended: Float[Tensor, "n e"]
    ) -> Float[Tensor, "n d"]:
        """The rest of a block after its attention."""
        x = layer.output.add(attended, x)
        gate, up = layer.gate_up(self._norm(x, layer.mlp_norm)).chunk(2, -1)
        return layer.down.add(self._weights.activation(gate).mul_(up), x)

    def _norm(self, x: Float[Tensor, "n d"], weight: Float[Tensor, " d"]) -> Float[Tensor, "n d"]:
        return rms_norm(x, weight.shape, weight, self._weights.eps)

    def _indices(self, slots: Sequence[int]) -> Int64[Tensor, " m"]:
        return torch.tensor(slots, dtype=torch.int64, device=self._device)
