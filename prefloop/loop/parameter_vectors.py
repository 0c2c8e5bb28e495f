"""All weights as one vector: gradients of it, the Fisher matrix times it, and writing it back.

Where a model is sharded over the processes, each has its part of every vector, and none ever has a whole one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.models.packing import MicroBatch
from prefloop.runtime import World
from prefloop.runtime.dealt import dot, here, is_dealt
from prefloop.runtime.pace import in_step, settle, tell_backward
from prefloop.runtime.world import naming_peers

DIFFERENCE = 1e-2
"""Euclidean length of the steps to either side in a central difference: far above float32's rounding, and its square is its error."""

Vector = Float[Tensor, " n"]
"""This process's part: the weights that it holds, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightVector:
    """Weights that are one vector. All methods but `read` are collective where the weights are sharded."""

    parameters: Sequence[nn.Parameter]
    world: World

    def read(self) -> Vector:
        """The weights as they are."""
        return torch.cat([here(parameter.detach()).reshape(-1) for parameter in self.parameters])

    @torch.no_grad()
    def place(self, vector: Vector) -> None:
        """Write a vector into the weights, in place: each keeps a memory of its own."""
        own = [here(parameter) for parameter in self.parameters]
        for weight, piece in zip(own, vector.split([weight.numel() for weight in own]), strict=True):
            weight.copy_(piece.view_as(weight))
        settle()

    def dot(self, a: Vector, b: Vector) -> float:
        """The inner product, in float64."""
        return dot(a, b, self.parameters[0])

    def norm(self, vector: Vector) -> float:
        """The Euclidean norm."""
        return self.dot(vector, vector) ** 0.5

    def gradient(self, loss: Callable[[MicroBatch], Tensor], parts: Sequence[MicroBatch]) -> Vector:
        """Gradient of a loss that is a sum over micro-batches and processes."""
        for parameter in self.parameters:
            parameter.grad = None
        for part in in_step(parts):
            total = loss(part)
            tell_backward()
            naming_peers(total.backward)
        pieces = [
            here(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1)
            for parameter in self.parameters
        ]
        for parameter in self.parameters:
            parameter.grad = None
        vector = torch.cat(pieces)
        return vector if is_dealt(self.parameters[0]) else self.world.sum(vector)

    def fisher_times(
        self, vector: Vector, kl: Callable[[MicroBatch], Tensor], parts: Sequence[MicroBatch]
    ) -> Vector:
        """F v: how fast the gradient of the KL to the policy as it is grows along v, from a step to either side. Weights are given back as they were."""
        origin, length = self.read(), max(self.norm(vector), 1e-30)
        sides: list[Tensor] = []
        for sign in (1, -1):
            self.place(origin + (sign * DIFFERENCE / length) * vector)
            sides.append(self.gradient(kl, parts))
        self.place(origin)
        return (sides[0] - sides[1]) * (length / (2 * DIFFERENCE))
