"""The step of trust-region policy optimisation (arXiv:1502.05477): natural gradient, length by a KL bound, and a search back along it.

Vectors are flat. Nothing here knows of models or of processes: whoever calls gives a function that multiplies by the Fisher matrix, and one
that says what a share of the step would do. Where a process has a part of each vector only, `dot` is the inner product of whole ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Vector = Float[Tensor, " n"]
Dot = Callable[[Vector, Vector], float]


def _dot(a: Vector, b: Vector) -> float:
    return torch.dot(a.double(), b.double()).item()


def conjugate_gradient(
    product: Callable[[Vector], Vector],
    target: Vector,
    *,
    iterations: int,
    tolerance: float = 1e-10,
    dot: Dot = _dot,
) -> Vector:
    """An approximate solution of F x = target for a symmetric positive matrix F given by its products; appendix C of the paper.

    Stops early where the squared residual is below `tolerance` of the target's. The inner products are float64's.
    """
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    squared = first = dot(residual, residual)
    for _ in range(iterations):
        if squared <= tolerance * first:
            break
        multiplied = product(direction)
        curvature = dot(direction, multiplied)
        if not curvature > 0:  # noise, or no direction left: what there is will do
            break
        share = squared / curvature
        solution = solution + share * direction
        residual = residual - share * multiplied
        squared, before = dot(residual, residual), squared
        direction = residual + (squared / before) * direction
    return solution


def trust_region_step(direction: Vector, multiplied: Vector, *, max_kl: float, dot: Dot = _dot) -> Vector:
    """The longest step along `direction` that keeps the quadratic model of the KL, ½ sᵀF s, within `max_kl`: sqrt(2 δ / xᵀF x) x.

    `multiplied` is F times the direction. Zeros where the direction has no curvature.
    """
    curvature = dot(direction, multiplied)
    if not curvature > 0:
        return torch.zeros_like(direction)
    return (2 * max_kl / curvature) ** 0.5 * direction


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a share of a step does."""

    share: float
    """0: no share was good enough, and nothing changes."""
    gain: float
    """Mean surrogate ρ A after, less before."""
    kl: float
    """Mean KL of the old policy to the new one."""


def search_back(
    evaluate: Callable[[float], tuple[float, float]], *, max_kl: float, shrink: float = 0.8, tries: int = 10
) -> Trial:
    """The first of the shares 1, shrink, shrink², ... that keeps KL <= max_kl and raises the surrogate.

    `evaluate` gives (gain, KL) of a share. NaN is never good enough.
    """
    for number in range(tries):
        share = shrink**number
        gain, kl = evaluate(share)
        if gain > 0 and kl <= max_kl:
            return Trial(share=share, gain=gain, kl=kl)
    return Trial(share=0.0, gain=0.0, kl=0.0)
