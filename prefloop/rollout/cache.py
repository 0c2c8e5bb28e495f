"""Key-value caches for sampling: one that only holds a prefill, and one with a fixed slot for every completion being decoded.

Both are what transformers' attention layers call (`Cache.update`) and nothing more. A slot's columns are its positions: the token at position p
of a completion is stored in column p of its slot, whatever the other slots do. So a completion can start, stop and move without touching
the others, there is no left padding, and nothing grows: the memory is set aside once, for as many slots and columns as the job needs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers.cache_utils import Cache

Pair = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, heads, columns, head size]."""


class PrefillCache(Cache):
    """Keeps the keys and values of one forward pass over P right-padded prompts, as the layers made them."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.stored: dict[int, Pair] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Pair:
        """Keep a layer's keys and values, [P, heads, columns, head size], and give them back."""
        self.stored[layer_idx] = (key_states, value_states)
        return key_states, value_states


class SlotCache(Cache):
    """Keys and values of the completions being decoded: `slots` rows of `columns` positions, filled from prefills, one token a step."""

    def __init__(self, *, slots: int, columns: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self._slots = slots
        self._columns = columns
        self._device = device
        self._pairs: dict[int, Pair] = {}
        self._rows: dict[int, Int64[Tensor, " rows"]] = {}
        self._positions = torch.zeros(0, dtype=torch.int64, device=device)
        self._visible = 0

    def step(self, positions: Int64[Tensor, " n"], visible: int) -> None:
        """Before a forward pass of one token in each of the first n slots: where they go, and how many columns the attention reads."""
        self._positions = positions
        self._visible = visible
        self._rows.clear()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Pair:
        """Write one token's keys and values, [n, heads, 1, size], at the step's positions; views [n, heads, visible, size] come back."""
        keys, values = self._pair(layer_idx, key_states, value_states)
        n, heads = key_states.shape[:2]
        rows = self._rows_of(heads)
        # One copy of n * heads short rows; indexing with [slots, :, positions] takes half as long again.
        keys.view(-1, keys.shape[-1]).index_copy_(0, rows, key_states.reshape(n * heads, -1))
        values.view(-1, values.shape[-1]).index_copy_(0, rows, value_states.reshape(n * heads, -1))
        return keys[:n, :, : self._visible], values[:n, :, : self._visible]

    def fill(self, slots: Sequence[int], prefill: PrefillCache, sources: Sequence[int]) -> None:
        """Copy prefilled prompts `sources` into `slots`: the K completions of a prompt copy the same one."""
        to, of = self._indices(slots), self._indices(sources)
        for layer, states in prefill.stored.items():
            for store, prompt in zip(self._pair(layer, *states), states, strict=True):
                store[:, :, : prompt.shape[2]].index_copy_(0, to, prompt.index_select(0, of))

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copy the first `columns` of some slots over others, so that the slots in use stay together at the front."""
        to, of = self._indices(targets), self._indices(sources)
        for pair in self._pairs.values():
            for store in pair:
                used = store[:, :, :columns]
                used.index_copy_(0, to, used.index_select(0, of))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that hold something before the step's tokens are written, as transformers counts."""
        return max(self._visible - 1, 0)

    def _pair(self, layer: int, keys: Tensor, values: Tensor) -> Pair:
        """A layer's memory, set aside when the layer is first seen. Zeros, because attention multiplies hidden columns by 0 and a NaN
        left in fresh memory would survive that."""
        if layer not in self._pairs:
            self._pairs[layer] = (self._zeros(keys), self._zeros(values))
        return self._pairs[layer]

    def _zeros(self, like: Tensor) -> Float[Tensor, "slots heads columns size"]:
        return like.new_zeros(self._slots, like.shape[1], self._columns, like.shape[3])

    def _rows_of(self, heads: int) -> Int64[Tensor, " rows"]:
        """Where (slot, head, position) lies among all rows of a layer's memory; the same for every layer with as many heads."""
        if heads not in self._rows:
            slots = torch.arange(len(self._positions), device=self._device)
            first = (slots.unsqueeze(1) * heads + torch.arange(heads, device=self._device)) * self._columns
            self._rows[heads] = (first + self._positions.unsqueeze(1)).flatten()
        return self._rows[heads]

    def _indices(self, slots: Sequence[int]) -> Int64[Tensor, " m"]:
        return torch.tensor(slots, dtype=torch.int64, device=self._device)
