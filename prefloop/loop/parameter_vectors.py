"""All weights as one vector: gradients of it, the Fisher matrix times it, and writing it back."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.models.packing import MicroBatch
from prefloop.runtime import World

DIFFERENCE = 1e-2
"""Euclidean length of the steps to either side in a central difference: far above float32's rounding, and its square is its error."""


def fisher_times(
    vector: Float[Tensor, " n"],
    kl: Callable[[MicroBatch], Tensor],
    parts: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    world: World,
) -> Float[Tensor, " n"]:
    """F v: how fast the gradient of the KL to the policy as it is grows along v, from a step to either side. Weights are given back as they were."""
    origin = nn.utils.parameters_to_vector(parameters).detach()
    length = vector.norm().clamp(min=1e-30)
    sides: list[Tensor] = []
    for sign in (1, -1):
        place(origin + (sign * DIFFERENCE / length) * vector, parameters)
        sides.append(gradient_of(kl, parts, parameters, world))
    place(origin, parameters)
    return (sides[0] - sides[1]) * (length / (2 * DIFFERENCE))


def gradient_of(
    loss: Callable[[MicroBatch], Tensor],
    parts: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    world: World,
) -> Float[Tensor, " n"]:
    """Gradient of a loss that is a sum over micro-batches and processes, as one vector."""
    for parameter in parameters:
        parameter.grad = None
    for part in parts:
        loss(part).backward()
    pieces = [
        torch.zeros_like(parameter).reshape(-1) if parameter.grad is None else parameter.grad.reshape(-1)
        for parameter in parameters
    ]
    for parameter in parameters:
        parameter.grad = None
    return world.sum(torch.cat(pieces))


@torch.no_grad()
def place(vector: Float[Tensor, " n"], parameters: Sequence[nn.Parameter]) -> None:
    """Write a vector into the weights, in place: each keeps a memory of its own."""
    pieces = vector.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.copy_(piece.view_as(parameter))
