"""Row gathers whose backward pass is again a gather.

PyTorch's own `index_select` has a backward that scatters with accumulation, which is serial on CPU and uses atomics on a GPU. Where
every source row goes to one place at most, the inverse index is known beforehand and the gradient can be gathered instead.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, unused: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, unused)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, unused = ctx.saved_tensors
        out = grads[0].index_select(0, inverse)
        if unused.numel():
            out.index_fill_(0, unused, 0.0)
        return out, None, None, None


def gather_rows(
    rows: Float[Tensor, "n d"],
    index: Int[Tensor, " m"],
    inverse: Int[Tensor, " n"],
    unused: Int[Tensor, " u"],
) -> Float[Tensor, "m d"]:
    """`rows[index]`, for an index that names each used row once.

    `inverse[i]` is where row i went; rows in `unused` went nowhere and have gradient zero. Entries of the result that hold padding may repeat
    any row, as long as nothing downstream depends on them: their gradient is not looked at.
    """
    return _Gather.apply(rows, index, inverse, unused)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadRows:
    """Which m of n rows are read, and the inverse, from which the gradient is gathered. The few entries in `shared` may name a row twice."""

    index: Int[Tensor, " m"]
    inverse: Int[Tensor, " n"]
    """Place of a row among the m; of rows in `unused` anything."""
    unused: Int[Tensor, " u"]
    """Rows that no entry names but those in `shared`."""
    shared: Int[Tensor, " s"]
    """Entries that may name the same row as others of `shared`; their gradients are added up, s rows only."""

    def widened(self, *, rows: int, entries: int) -> "ReadRows":
        """With so many rows more, which nobody reads, and so many entries more, whose values nobody looks at: the first row again."""
        n, m = len(self.inverse), len(self.index)
        new = torch.arange(max(n + rows, m + entries), device=self.index.device)
        return ReadRows(
            index=torch.cat([self.index, self.index[:1].expand(entries)]),
            inverse=torch.cat([self.inverse, self.inverse.new_zeros(rows)]),
            unused=torch.cat([self.unused, new[n : n + rows]]),
            shared=torch.cat([self.shared, new[m : m + entries]]),
        )

    def take(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """`rows[index]`."""
        return _GatherShared.apply(rows, self.index, self.inverse, self.unused, self.shared)  # pyright: ignore[reportReturnType]


def rows_once(index: Int[Tensor, " m"], n: int) -> ReadRows:
    """Rows of n, each named once."""
    unused = torch.ones(n, dtype=torch.bool, device=index.device).index_fill_(0, index, False)
    inverse = index.new_zeros(n).index_copy_(0, index, torch.arange(len(index), device=index.device))
    return ReadRows(index=index, inverse=inverse, unused=unused.nonzero().squeeze(1), shared=index[:0])


class _GatherShared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, unused: Tensor, shared: Tensor
    ) -> Tensor:
        ctx.save_for_backward(index, inverse, unused, shared)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        index, inverse, unused, shared = ctx.saved_tensors
        out = grads[0].index_select(0, inverse)
        out.index_fill_(0, unused, 0.0)
        if shared.numel():
            out.index_add_(0, index.index_select(0, shared), grads[0].index_select(0, shared))
        return out, None, None, None, None
