"""What several trainings changed of one base model, added up tensor by tensor."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def trimmed(change: Float[Tensor, "*shape"], density: float) -> Float[Tensor, "*shape"]:
    """The largest share `density` of a tensor's changes by size, zero elsewhere: the trim step of arXiv:2306.01708. Ties of size go by place."""
    keep = round(density * change.numel())
    if keep >= change.numel():
        return change
    flat = change.flatten()
    places = flat.abs().argsort(descending=True, stable=True)[:keep]
    return torch.zeros_like(flat).scatter(0, places, flat[places]).view_as(change)


def summed(changes: Float[Tensor, "n ..."], weights: Float[Tensor, " n"]) -> Float[Tensor, "..."]:
    """Σ_i w_i δ_i: task arithmetic (arXiv:2212.04089)."""
    return torch.tensordot(weights, changes, dims=1)


def ties(changes: Float[Tensor, "n ..."], weights: Float[Tensor, " n"]) -> Float[Tensor, "..."]:
    """Of every weight the weighted mean of those changes that have the sign of Σ_i w_i δ_i: elect and merge of arXiv:2306.01708.

    A change of zero has no sign and does not count in the mean, so that what one training left alone is not halved.
    """
    sign = summed(changes, weights).sign()
    agree = (changes.sign() == sign) & (changes != 0)
    weighted = torch.where(agree, weights.view(-1, *[1] * (changes.dim() - 1)), 0.0)
    return (weighted * changes).sum(dim=0) / weighted.sum(dim=0).clamp(min=torch.finfo(changes.dtype).tiny)


METHODS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"ties": ties, "sum": summed}
"""By their name in the configuration."""


def merged(
    base: Mapping[str, Tensor],
    trained: Sequence[Mapping[str, Tensor]],
    *,
    method: str,
    densities: Sequence[float],
    weights: Sequence[float],
    scale: float,
) -> dict[str, Tensor]:
    """base + scale · method(trained - base), worked out in float32; names and shapes must be those of the base. Tensors of integers stay the base's."""
    of = torch.tensor(weights, dtype=torch.float32)
    result: dict[str, Tensor] = {}
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            result[name] = tensor.clone()
            continue
        start = tensor.float()
        changes = torch.stack(
            [
                trimmed(state[name].float() - start, density)
                for state, density in zip(trained, densities, strict=True)
            ]
        )
        result[name] = (start + scale * METHODS[method](changes, of)).to(tensor.dtype)
    return result
