"""Training on a step's completions: minibatches distributed over all processes, each cut into micro-batches, one optimiser update for each.

Losses are given by value, as functions of a minibatch that return a function of a micro-batch.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.loop.session import Session
from prefloop.losses import probability_ratio
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.runtime import Metrics, StateTree, StepResult, Updater, World
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group

Key = TypeVar("Key", bound=Hashable)
Loss = Callable[[MicroBatch], Tensor]
"""A micro-batch's part of the loss, a scalar already divided by the count over all micro-batches and processes."""
Job = Callable[[], Tensor]
"""A part of the loss that is not of a micro-batch of the step."""


def deal(
    own: Sequence[Key], everyone: Sequence[Key], *, minibatches: int, epochs: int, seed: int, step: int
) -> Iterator[list[int]]:
    """The minibatches of a step, epoch after epoch: for each the places in `own` of this process's items.

    They are distributed over `everyone`, the items of all processes in an order that all agree on, so neither their number nor their order depends on
    the number of processes. Each epoch has an order of its own. There are no more minibatches than items; without items there is none.
    """
    if not everyone:
        return
    place_of = {key: place for place, key in enumerate(own)}
    for epoch in range(epochs):
        order = np.random.Generator(np.random.PCG64([seed, step, epoch])).permutation(len(everyone))
        for part in np.array_split(order, min(minibatches, len(everyone))):
            keys = [everyone[i] for i in part.tolist()]
            yield [place_of[key] for key in keys if key in place_of]


def shared_places(count: int, world: World) -> tuple[list[int], range]:
    """Keys for `deal` where item i of this process stands at i · size + rank among all: those of this process, and those of all."""
    return [i * world.size + world.rank for i in range(count)], range(int(world.sum_float(count)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """An optimiser, and what it lowers in each minibatch."""

    updater: Updater
    loss: Callable[[list[int]], Loss | None]
    """The loss of the groups at these places of this process. Called on all processes together; None, on all, where there is nothing to learn."""
    extra: Callable[[], Sequence[Job]] = field(default=tuple)
    """More parts of the loss of the next minibatch."""
    after: Callable[[], None] = field(default=lambda: None)
    """Called after each update."""


def learn(
    learners: Sequence[Learner],
    groups: Sequence[Group],
    minibatches: Iterable[list[int]],
    *,
    tokens: int,
    world: World,
    check: Callable[[StepResult], None] = lambda result: None,
) -> list[dict[str, float]]:
    """One update of each learner, in turn, on every minibatch. Collective: all processes call it.

    Args:
        learners: Whose updates take turns.
        groups: This process's.
        minibatches: Places of this process's groups in each minibatch, see `deal`.
        tokens: Of a micro-batch.
        world: The processes.
        check: Is given the last learner's first result, before the second minibatch.

    Returns:
        For each learner the means of its updates' metrics; empty if there was no update.
    """
    updates, checked = [Metrics() for _ in learners], False
    for places in minibatches:
        chosen = [groups[place] for place in places]
        result = None
        for learner, seen in zip(learners, updates, strict=True):
            loss = learner.loss(places)
            if loss is None:
                continue
            result = update(learner.updater, chosen, loss, tokens=tokens, world=world, extra=learner.extra())
            learner.after()
            for name, value in result.metrics().items():
                seen.add(name, value, 1)
        if result and not checked:
            check(result)
            checked = True
    return [seen.reduce(world) for seen in updates]


def update(
    updater: Updater,
    groups: Sequence[Group],
    loss: Loss,
    *,
    tokens: int,
    world: World,
    extra: Sequence[Job] = (),
) -> StepResult:
    """One update from this process's groups, in micro-batches of so many tokens, and from `extra` parts of the loss."""
    parts = micro_batches(groups, tokens=tokens, device=world.device)
    jobs = chain(in_step([partial(loss, part) for part in parts]), in_step(extra))
    return updater.step(jobs, lambda job: job(), replay=lambda: replayable(groups))


def replayable(groups: Sequence[Group]) -> StateTree:
    """Groups as a tree for a dump: token ids of prompts and completions."""
    return {
        "prompts": [list(group.prompt) for group in groups],
        "completions": [[list(completion) for completion in group.completions] for group in groups],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """How often a step's items are trained on: the number of epochs, and of minibatches in each."""

    epochs: int
    minibatches: int
    session: Session

    @property
    def updates(self) -> int:
        """Maximum number of updates of each optimiser in a step."""
        return self.epochs * self.minibatches

    def learn(
        self,
        learners: Sequence[Learner],
        groups: Sequence[Group],
        keys: tuple[Sequence[Hashable], Sequence[Hashable]],
        *,
        step: int,
        check: Callable[[StepResult], None] = lambda result: None,
    ) -> list[dict[str, float]]:
        """`learn` on minibatches dealt for this step; `keys` are those of `groups` and those of all processes' groups, see `deal`."""
        own, everyone = keys
        minibatches = deal(
            own,
            everyone,
            minibatches=self.minibatches,
            epochs=self.epochs,
            seed=self.session.settings.seed,
            step=step,
        )
        return learn(
            learners,
            groups,
            minibatches,
            tokens=self.session.tokens,
            world=self.session.world,
            check=check,
        )


@dataclass(slots=True)
class Watch:
    """Watches the first minibatch of a step, before any update: there the probability ratio must be 1."""

    largest: float = 0.0
    """The largest |ratio - 1| seen."""
    total: float = 0.0
    """Sum of all that were seen."""
    tokens: float = 0.0
    """How many they are."""
    closed: bool = False
    """Whether the first minibatch is over."""

    def see(
        self,
        logprobs: Float[Tensor, "b t"],
        old_logprobs: Float[Tensor, "b t"],
        mask: Bool[Tensor, "b t"],
    ) -> None:
        """Look at a micro-batch; does nothing, and does not wait for the device, once the first minibatch is over."""
        if self.closed:
            return
        with torch.no_grad():
            distance = (probability_ratio(logprobs, old_logprobs) - 1).abs() * mask
            largest, total, tokens = torch.stack([distance.max(), distance.sum(), mask.sum()]).tolist()
        self.largest = max(self.largest, largest)
        self.total += total
        self.tokens += tokens

    def metrics(self, world: World) -> dict[str, float]:
        """The distances from 1: `ratio` is the largest, `ratio_mean` the mean over tokens. Collective: all processes call it."""
        total, tokens = world.sum_float(self.total), world.sum_float(self.tokens)
        return {"ratio": world.max_float(self.largest), "ratio_mean": total / tokens if tokens else 0.0}
