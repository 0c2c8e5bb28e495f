"""Row gathers whose backward pass is again a gather.

PyTorch's own `index_select` has a backward that scatters with accumulation, which is serial on CPU and uses atomics on a GPU. Where
every source row goes to one place at most, the inverse index is known beforehand and the gradient can be gathered instead.
"""

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
        out.index_add_(0, index.index_select(0, shared), grads[0].index_select(0, shared))
        return out, None, None, None, None


def gather_rows_shared(
    rows: Float[Tensor, "n d"],
    index: Int[Tensor, " m"],
    inverse: Int[Tensor, " n"],
    unused: Int[Tensor, " u"],
    shared: Int[Tensor, " s"],
) -> Float[Tensor, "m d"]:
    """`rows[index]`, where the few entries listed in `shared` may name the same row several times.

    Those rows count as `unused` for the gather; their gradients are added afterwards, `s` rows only.
    """
    return _GatherShared.apply(rows, index, inverse, unused, shared)  # pyright: ignore[reportReturnType]
