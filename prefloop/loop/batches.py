"""Which examples each step trains on, by the run's settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from prefloop.runtime.order import batch_of, steps_in

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Batches of `size` out of `count` examples, reshuffled each epoch. The last batch of an epoch may be smaller."""

    count: int
    size: int
    seed: int

    def steps(self, *, epochs: float, max_steps: int) -> int:
        """Steps of a run: all epochs, cut to `max_steps` where that is given; `max_steps` alone where epochs is 0."""
        if epochs <= 0:
            return max_steps
        every = steps_in(epochs, self.count, self.size)
        return min(every, max_steps) if max_steps else every

    def at(self, step: int) -> list[int]:
        """Places of the examples of a step; the first step is 1."""
        return batch_of(step, size=self.count, batch_size=self.size, seed=self.seed)

    def pick(self, examples: Sequence[T], step: int) -> list[T]:
        """The examples of a step."""
        return [examples[i] for i in self.at(step)]
