"""Processes that share the weights of a model make its passes together.

Each pass gathers weights from all processes and hands gradients back to them, so all must make the same passes in the same order. But one
process may have fewer micro-batches than another, or none. `in_step` goes over a process's own; in a round for which it has none it follows the
first process that has one. That process says what it does next, and the follower does the same on a batch that counts for nothing.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from prefloop.runtime.world import World

Part = TypeVar("Part")

ENTER, PASS, LEAVE, BACKWARD, END = range(5)
"""What a leading process says: it enters a model, runs its trunk, leaves the model, goes backward, is done with the round."""

_changes = 0
_pace: "Pace | None" = None
"""Of the run that is open, where models are shared."""


class Shared(Protocol):
    """A model whose weights are shared, as a follower uses it."""

    def __call__(self, work: Callable[[], None]) -> None:
        """Do `work` while the weights outside its layers are gathered."""
        ...

    def idle_pass(self, adapter: int) -> Tensor:
        """A pass of the trunk with one of its adapters; 0, with a gradient of zeros."""
        ...

    def settle(self) -> None:
        """Let go of what is gathered."""
        ...


@dataclass(slots=True)
class _Round:
    """What a follower's passes leave for the backward pass."""

    total: Tensor


class Pace:
    """The passes of this process, beside those of the others."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._models: list[weakref.ref[Shared]] = []
        self._leader = -1
        """In a round that has followers, who leads; else -1."""

    def add(self, model: Shared) -> int:
        """Take in a model. All processes take in the same, in the same order; the number is its name."""
        self._models.append(weakref.ref(model))
        return len(self._models) - 1

    def tell(self, kind: int, model: int = 0, adapter: int = 0) -> None:
        """Say what comes next, where somebody follows. All processes with a micro-batch do."""
        if self._leader < 0:
            return
        own = [kind, model, adapter, int(torch.is_grad_enabled())]
        heard = self.world.numbers_from(self._leader, own)
        if heard != own:
            raise RuntimeError(
                f"process {self.world.rank} does {own} where process {self._leader} does {heard}"
            )

    def rounds(self, parts: Sequence[Part]) -> Iterator[Part]:
        """This process's parts, one a round; follows in the rounds of the others."""
        counts = self.world.gather_objects(len(parts))
        for number in range(max(counts)):
            having = [rank for rank, count in enumerate(counts) if count > number]
            if number >= len(parts):
                self._follow(having[0])
                continue
            self._leader = having[0] if len(having) < len(counts) else -1
            try:
                yield parts[number]
                self.tell(END)
            finally:
                self._leader = -1

    def settle(self) -> None:
        """After an update: no model keeps weights that were gathered before it."""
        for known in self._models:
            if model := known():
                model.settle()

    def _model(self, number: int) -> Shared:
        model = self._models[number]()
        assert model is not None, "another process uses a model that this one has let go of"
        return model

    def _follow(self, leader: int) -> None:
        self._do(leader, END, _Round(torch.zeros((), device=self.world.device)))

    def _do(self, leader: int, until: int, round: _Round) -> None:
        """What the leader says, until it says `until`."""
        while True:
            kind, model, adapter, grad = self.world.numbers_from(leader, [0, 0, 0, 0])
            if kind == until:
                return
            with torch.set_grad_enabled(bool(grad)):
                if kind == ENTER:
                    self._model(model)(lambda: self._do(leader, LEAVE, round))
                elif kind == PASS:
                    round.total = round.total + self._model(model).idle_pass(adapter)
            if kind == BACKWARD and round.total.requires_grad:
                round.total.backward()


@contextmanager
def keeping_pace(world: World) -> Iterator[None]:
    """Inside, models may be shared between the processes. Collective: all processes call it."""
    global _pace
    before, _pace = _pace, Pace(world)
    try:
        yield
    finally:
        _pace = before


def pace() -> Pace | None:
    """Of the run that is open, None where no model is shared."""
    return _pace


def in_step(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts, for a loop that runs models on each; where models are shared, in step with the other processes, which all must call it."""
    return iter(parts) if _pace is None else _pace.rounds(parts)


def settle() -> None:
    """Said after weights have changed: see `Pace.settle`."""
    global _changes
    _changes += 1
    if _pace is not None:
        _pace.settle()


def changes() -> int:
    """How often this process has changed weights."""
    return _changes


def tell_backward() -> None:
    """Said before a backward pass inside `in_step`."""
    if _pace is not None:
        _pace.tell(BACKWARD)
