"""Means of what a step computes, taken over micro-batches and processes.

A metric is a sum and a count, never a mean of means, so it is the same however the batch was cut.
"""

import math

import torch
from torch import Tensor

from prefloop.runtime.world import World


class Metrics:
    """Sums and counts by name, for one step. Nothing waits for the device until `reduce`."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add `total`, the sum of `count` values, to the metric `name`. Tensors have one element and may be on any device."""
        new = _scalar(name, total), _scalar(name, count)
        old = self._sums.get(name)
        if old is not None:
            new = _plus(old[0], new[0]), _plus(old[1], new[1])
        self._sums[name] = new

    def merge(self, other: "Metrics") -> None:
        """Add all of `other`'s sums and counts."""
        for name, (total, count) in other._sums.items():
            self.add(name, total, count)

    def reduce(self, world: World) -> dict[str, float]:
        """Each metric's mean over everything added on all processes, by name in alphabetical order; NaN if the count is 0.

        Processes may have different metrics: one that is missing somewhere counts as nothing there.
        """
        names = sorted(set().union(*world.gather_objects(sorted(self._sums))))
        if not names:
            return {}
        nothing = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        pairs = [self._sums.get(name, nothing) for name in names]
        local = torch.stack([part.to(world.device) for pair in pairs for part in pair])
        values = world.sum(local).tolist()
        return {name: _mean(*values[2 * i : 2 * i + 2]) for i, name in enumerate(names)}


def _scalar(name: str, value: Tensor | float) -> Tensor:
    """`value` as a float64 tensor where it already is: moving it to the CPU would wait for the device."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"metric {name} was given a tensor of shape {tuple(value.shape)}; give its sum and its count"
            )
        return value.detach().reshape(()).double()
    return torch.tensor(float(value), dtype=torch.float64)


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """a + b on the GPU if either is there; numbers of Python live on the CPU."""
    return a + b.to(a.device) if a.device.type != "cpu" else a.to(b.device) + b


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan
