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
from prefloop.runtime.products import filling

_BLOCK = 16
"""The cache's width is a multiple of it: columns computed in vain against how often the cache is copied to grow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefilled:
    """Keys and values of P prompts of at most L tokens."""

    pairs: Float[Tensor, "layers two P kv_heads L size"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """Views of a layer's cache; m is n times key-value heads."""

    pairs: Float[Tensor, "slots width two kv_heads size"]
    keys: Float[Tensor, "m size columns"]
    values: Float[Tensor, "m columns size"]


class FusedDecoder:
    """A `Decoder` that computes the model's blocks itself, from the weights as they were when it was made."""

    aligned = False

    def __init__(self, weights: Weights, *, slots: int, columns: int) -> None:
        self._weights = weights
        self._device, self._dtype = weights.norm.device, weights.norm.dtype
        self._precise = weights.turns.real.dtype
        self._columns = torch.arange(columns, device=self._device)
        self._rows = torch.arange(slots, device=self._device)
        self._least = torch.full((1,), weights.eps**0.5, dtype=self._precise, device=self._device)
        # On CPU products with keys and values that lie close together take half the time: the cache is as wide as it must be.
        self._grows = self._device.type == "cpu"
        self._width = 0 if self._grows else columns
        self._pairs = [self._blank(slots) for _ in weights.layers]
        self._shape, self._views = (0, 0), list[_Seen]()
        # On a GPU launching the kernels of a step one by one takes longer than they run.
        on_gpu = self._device.type == "cuda"
        self._recorded = Recorded(slots, columns, self._device, record_cuda) if on_gpu else None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """Compute the prompts' real tokens only; attention pads them on the right, where no real token looks."""
        w = self._weights
        lengths = [len(prompt) - 1 for prompt in prompts]
        asked, longest = len(prompts), max(lengths)
        fill = filling(sum(lengths), self._device)
        if longest:  # prompts that nobody asked for, of 0
            lengths += [min(longest, fill - start) for start in range(0, fill, longest)]
        count = len(lengths)
        shape = (len(w.layers), 2, count, w.kv_heads, longest, w.size)
        pairs = torch.zeros(shape, dtype=self._dtype, device=self._device)
        if not longest:
            return Prefilled(pairs=pairs)
        ids = [i for prompt in prompts for i in prompt[:-1]] + [0] * fill
        ids = torch.tensor(ids, device=self._device)
        places = torch.cat([torch.arange(n) + row * longest for row, n in enumerate(lengths)])
        places = places.to(self._device)
        turns = w.turns[places % longest]

        def block(rows: Float[Tensor, "n heads size"]) -> Float[Tensor, "P heads L size"]:
            padded = rows.new_zeros(count * longest, *rows.shape[1:]).index_copy_(0, places, rows)
            return padded.view(count, longest, *rows.shape[1:]).transpose(1, 2)

        x = w.embed(ids)
        for layer, (keys, values) in zip(w.layers, pairs, strict=True):
            heads = self._heads(layer, x, turns)
            query, key, value = heads.split([w.heads, w.kv_heads, w.kv_heads], 1)
            keys.copy_(block(key))
            values.copy_(block(value))
            if layer is w.layers[-1]:
                break  # nothing reads what the last layer gives for these tokens
            out = self._causal(block(query), keys, values, layer.window)
            x = self._finish(layer, x, out.transpose(1, 2).flatten(0, 1)[places].flatten(1))
        return Prefilled(pairs=pairs[:, :, :asked])

    def fill(self, slots: Sequence[int], prefill: Prefilled, sources: Sequence[int]) -> None:
        """See `Decoder`."""
        to, of, length = self._indices(slots), self._indices(sources), prefill.pairs.shape[4]
        if length > self._width:
            self._resize(length)
        for store, pairs in zip(self._pairs, prefill.pairs, strict=True):
            store[:, :, :, :length].index_copy_(1, to, pairs.index_select(1, of))

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """See `Decoder`."""
        of, to = self._indices(sources), self._indices(targets)
        for store in self._pairs:
            used = store[:, :, :, :columns]
            used.index_copy_(1, to, used.index_select(1, of))

    def logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """See `Decoder`."""
        if self._recorded:
            return self._recorded(self._logits, tokens, positions, columns)
        return self._logits(tokens, positions, columns)

    def _logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        w, n = self._weights, tokens.shape[0]
        if self._grows:
            if columns > self._width or 4 * _rounded(columns) <= 3 * self._width:
                self._resize(columns)
            columns = self._width
        behind = positions.unsqueeze(1) - self._columns[:columns]
        masks = {
            window: self._mask((behind >= 0) & (behind < window) if window else behind >= 0)
            for window in {layer.window for layer in w.layers}
        }
        places, turns = (self._rows[:n], positions), w.turns[positions]
        x = w.embed(tokens)
        for layer, seen in zip(w.layers, self._seen(n, columns), strict=True):
            heads = self._heads(layer, x, turns)
            seen.pairs.index_put_(places, heads[:, w.heads :].view(n, 2, -1, w.size))
            out = self._attend(heads[:, : w.heads], seen, masks[layer.window])
            x = self._finish(layer, x, out.view(n, -1))
        return w.head(self._norm(x, w.norm))

    def _seen(self, n: int, columns: int) -> list[_Seen]:
        """Every layer's cache as a step of this shape sees it: most steps have the shape of the one before."""
        if (n, columns) != self._shape:
            self._shape = n, columns
            self._views = [
                _Seen(
                    pairs=store.permute(1, 3, 0, 2, 4),
                    keys=store[0, :n, :, :columns].flatten(0, 1).transpose(1, 2),
                    values=store[1, :n, :, :columns].flatten(0, 1),
                )
                for store in self._pairs
            ]
        return self._views

    def _attend(
        self, query: Float[Tensor, "n heads size"], seen: _Seen, mask: Float[Tensor, "m group columns"]
    ) -> Float[Tensor, "m group size"]:
        """One query a head. The products of many short rows are faster here than fused attention."""
        w = self._weights
        grouped = query.reshape(-1, w.heads // w.kv_heads, w.size)
        scores = torch.baddbmm(mask, grouped, seen.keys, alpha=w.size**-0.5)
        return torch.bmm(torch.softmax(scores, -1, dtype=self._precise).to(self._dtype), seen.values)

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
    ) -> Float[Tensor, "n all_heads size"]:
        """Queries and keys, turned to their positions, and values: all heads of each."""
        w = self._weights
        heads = layer.qkv(self._norm(x, layer.attention_norm)).view(x.shape[0], -1, w.size)
        turning = heads[:, : -w.kv_heads]
        if layer.head_norm.shape[0]:
            turning.copy_(rms_norm(turning, (w.size,), None, w.eps).mul_(layer.head_norm))
        if self._precise == self._dtype:
            turning.view(turns.dtype).mul_(turns)
        else:
            pairs = torch.view_as_complex(turning.to(self._precise).unflatten(-1, (-1, 2)))
            turning.copy_(torch.view_as_real(pairs.mul_(turns)).flatten(-2))
        return heads

    def _finish(
        self, layer: Layer, x: Float[Tensor, "n d"], attended: Float[Tensor, "n e"]
    ) -> Float[Tensor, "n d"]:
        """The rest of a block after its attention."""
        x = layer.output.add(attended, x)
        gate, up = layer.gate_up(self._norm(x, layer.mlp_norm)).chunk(2, -1)
        return layer.down.add(self._weights.activation(gate).mul_(up), x)

    def _norm(self, x: Float[Tensor, "n d"], weight: Float[Tensor, " d"]) -> Float[Tensor, "n d"]:
        """Root-mean-square norm. On CPU PyTorch's own is made of eight operations."""
        if not self._grows or self._dtype != self._precise:
            return rms_norm(x, weight.shape, weight, self._weights.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / length.mul_(x.shape[-1] ** -0.5).hypot_(self._least)).mul_(weight)

    def _resize(self, columns: int) -> None:
        """Make the cache wide enough for so many columns, and not much wider; what it holds stays."""
        before, self._width = self._width, min(len(self._columns), _rounded(columns))
        self._shape = 0, 0
        kept = min(before, self._width)
        for index, old in enumerate(self._pairs):
            self._pairs[index] = self._blank(old.shape[1])
            self._pairs[index][:, :, :, :kept] = old[:, :, :, :kept]

    def _blank(self, slots: int) -> Float[Tensor, "two slots kv_heads width size"]:
        """An empty cache of a layer. Zeros, because attention multiplies hidden columns by 0 and a NaN in fresh memory would survive that."""
        shape = (2, slots, self._weights.kv_heads, self._width, self._weights.size)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _indices(self, slots: Sequence[int]) -> Int64[Tensor, " m"]:
        return torch.tensor(slots, dtype=torch.int64, device=self._device)


def _rounded(columns: int) -> int:
    return -(-columns // _BLOCK) * _BLOCK
