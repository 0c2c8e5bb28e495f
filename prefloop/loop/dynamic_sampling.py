"""Rounds of sampling until a step has enough groups that teach something (dynamic sampling, arXiv:2503.14476); one round where that is off."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.loop.sources import RolloutSource
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.rollout.reward_scorers import RolloutScorer
from prefloop.runtime import StateTree


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredBatch:
    """This process's prompts of a step with their completions and scores."""

    rollout: Rollout
    scores: Float[Tensor, " B"]
    places: list[int]
    """Where each of these prompts stands among those of all processes."""
    total: int
    """Prompts of all processes."""
    equal_groups: float
    """Share of all sampled groups whose scores are all equal."""
    rounds: int


class Rounds:
    """Rounds of sampling so far: which prompts come next. A step may take several."""

    def __init__(self) -> None:
        self.done = 0

    def state(self) -> StateTree:
        """For a checkpoint."""
        return self.done

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        self.done = state


def collect(
    policy: Policy,
    score: RolloutScorer,
    source: RolloutSource,
    rounds: Rounds,
    *,
    k: int,
    size: int,
    version: int,
    more: int,
) -> ScoredBatch:
    """A round of sampling; with `more` than none, up to so many more until `size` groups have scores that differ.

    A step in which no group has any keeps its last round: its advantages are zero.
    """
    kept: list[tuple[int, int]] = []  # (round, place), the same on every process
    equal = sampled = drawn = 0
    rollouts: list[Rollout] = []
    scores: list[Tensor] = []
    world = source.world
    for taken in range(1 + more):
        rounds.done += 1
        drawn = source.drawn(rounds.done)
        rollouts.append(source.draw(policy, rounds.done, k=k, version=version))
        scores.append(score(rollouts[-1]))
        rows = scores[-1].view(-1, k)
        differ = (rows != rows[:, :1]).any(dim=1).tolist()
        own = [p for p, differs in zip(world.share(range(drawn)), differ, strict=True) if differs]
        varied = sorted(place for part in world.gather_objects(own) for place in part)
        sampled += drawn
        equal += drawn - len(varied)
        kept += [(taken, place) for place in (varied if more else range(drawn))]
        if len(kept) >= size:
            break
    kept = kept[:size] or [(len(rollouts) - 1, place) for place in range(drawn)]
    mine = [(at, index, place) for at, (index, place) in enumerate(kept) if place % world.size == world.rank]
    rollout = rollouts[0].take([])
    for index, of_round in enumerate(rollouts):
        rollout = rollout.join(of_round.take([place // world.size for _, of, place in mine if of == index]))
    own_scores = [scores[index].view(-1, k)[place // world.size] for _, index, place in mine]
    return ScoredBatch(
        rollout=rollout,
        scores=torch.cat([scores[0][:0], *own_scores]),
        places=[at for at, _, _ in mine],
        total=len(kept),
        equal_groups=equal / sampled,
        rounds=len(rollouts),
    )
