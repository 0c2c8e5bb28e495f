"""Ragged batches, and derivatives that do not come from autograd."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from hypothesis import settings
from torch import Tensor

Array = np.ndarray

quick = settings(deadline=None, max_examples=40, derandomize=True)


def ragged_mask(lengths: Sequence[int], width: int = 0) -> Tensor:
    """Right-padded `[B, T]` mask for completions of these lengths, at least `width` wide."""
    columns = torch.arange(max(width, *lengths))
    return columns < torch.tensor(lengths).unsqueeze(1)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Float64 noise, the same for the same seed."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numerical_gradient(function: Callable[[Array], float], at: Tensor, step: float = 1e-6) -> Array:
    """Central differences of a scalar function of one array."""
    point = at.detach().numpy().astype(np.float64)
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        up, down = point.copy(), point.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Autograd's gradient of the sum of a function's values."""
    variable = at.detach().clone().requires_grad_()
    function(variable).sum().backward()
    assert variable.grad is not None
    return variable.grad


def with_padding(values: Tensor, mask: Tensor, content: float, extra: int = 0) -> Tensor:
    """The same values with something else in the padding, and `extra` more columns of it."""
    filled = torch.where(mask, values, content)
    return torch.cat((filled, filled.new_full((len(filled), extra), content)), dim=1)


def widened(mask: Tensor, extra: int) -> Tensor:
    """The same mask with `extra` more columns of padding."""
    return torch.cat((mask, mask.new_zeros(len(mask), extra)), dim=1)
