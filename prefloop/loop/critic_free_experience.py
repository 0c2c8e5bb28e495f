"""What a step of `critic_free` learns from: the roles, a batch of scored completions, and how it becomes advantages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.loop.adaptive import RunningStatistics, ScoreShaper
from prefloop.loop.frozen import frozen_statistics, sampler_logprobs
from prefloop.loop.online import Score, ended_of, mask_of
from prefloop.losses import (
    ADVANTAGES,
    Moments,
    masked_sum,
    sequence_sum,
    shape_rewards,
    sum_and_count,
    truncated_weights,
    whiten,
)
from prefloop.models.packing import micro_batches
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StateTree, Updater, World
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Policy, the reference if it is used, and the scorer."""

    policy: Policy
    reference: Policy | None
    score: Score
    shape: ScoreShaper
    rewards: RunningStatistics
    """Of each completion's rewards, for the running baseline."""
    updater: Updater
    save: Callable[[Path], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """All that the updates need of this process's completions, prompt after prompt; fixed before the first update. T is the longest."""

    groups: list[Group]
    places: list[int]
    total: int
    mask: Bool[Tensor, "B T"]
    """True on tokens that are learned from."""
    old_logprobs: Float[Tensor, "B T"]
    reference_logprobs: Float[Tensor, "B T"]
    """Zeros where no reference is used."""
    advantages: Float[Tensor, "B T"]
    weights: Float[Tensor, "B T"]
    """Of each token's loss; ones unless `importance_cap` is set."""


class Rounds:
    """Rounds of sampling so far: which prompts come next. A step may take several."""

    def __init__(self) -> None:
        self.done = 0

    def state(self) -> StateTree:
        """For a checkpoint."""
        return self.done

    def load_state(self, state: StateTree) -> None:
        """Go on from what `state` gave."""
        self.done = state


def uses_reference(config: CriticFreeConfig) -> bool:
    """Without a KL no reference is loaded, unless one is named to be watched."""
    return config.kl.coef > 0 or bool(config.reference)


def estimate_advantages(
    config: CriticFreeConfig,
    roles: Roles,
    batch: Batch,
    greedy: tuple[Rollout, Tensor] | None,
    kl_coef: float,
    world: World,
) -> tuple[Experience, dict[str, float]]:
    """Log-probabilities, KL, rewards, advantages; all under no_grad, means and moments over all processes."""
    rollout, k = batch.rollout, config.completions_per_prompt
    mask = mask_of(rollout.groups, world.device)
    ended = ended_of(rollout, world.device)
    parts = micro_batches(rollout.groups, tokens=config.compute.micro_batch_tokens, device=world.device)
    frozen = frozen_statistics(
        config,
        roles.policy,
        (roles.reference,) if roles.reference else (),
        parts,
        rollout,
        mask,
        needs_pass=config.importance_cap > 0,
    )
    old, reference, kl = frozen.old_logprobs, frozen.reference_logprobs, frozen.kl

    shaped, baseline = _shaped(roles, batch, greedy, k)
    rewards = shape_rewards(shaped, kl, mask, kl_coef=kl_coef if config.kl.placement == "reward" else 0.0)
    totals = sequence_sum(rewards, mask)
    if config.baseline == "running":
        # Of earlier steps: it does not know these completions.
        baseline = torch.full_like(totals, roles.rewards.moments.mean)
        roles.rewards.add(totals)
    group = torch.arange(len(rollout.groups), device=world.device).repeat_interleave(k)
    advantages = ADVANTAGES[config.advantage](rewards, mask, group, baseline)
    learned = mask & ended.unsqueeze(1) if config.mask_truncated else mask
    if config.whiten_advantages:
        advantages = whiten(advantages, learned, Moments.of(advantages, learned).summed(world.sum))
    weights = torch.ones_like(old)
    if config.importance_cap:
        weights = truncated_weights(old, sampler_logprobs(rollout, mask), cap=config.importance_cap)

    metrics, count = Metrics(), len(batch.scores)
    metrics.add("score", batch.scores.sum(), count)
    metrics.add("reward", masked_sum(rewards, mask), count)
    if k > 1:
        metrics.add("reward_spread", totals.view(-1, k).std(dim=1).sum(), len(rollout.groups))
    if roles.reference:
        metrics.add("kl", masked_sum(kl, mask), count)
        metrics.add("kl_distance", masked_sum((old - reference).abs(), mask), mask.sum())
    if config.advantage == "return":
        metrics.add("baseline", baseline.sum(), count)
    metrics.add("entropy", *sum_and_count(frozen.entropy, mask))
    metrics.add("length", mask.sum(), count)
    metrics.add("ended", ended.sum(), count)
    metrics.add("trained", learned.any(dim=1).sum(), count)
    if config.importance_cap:
        metrics.add("importance", *sum_and_count(weights, mask))
    experience = Experience(
        groups=rollout.groups,
        places=batch.places,
        total=batch.total,
        mask=learned,
        old_logprobs=old,
        reference_logprobs=reference,
        advantages=advantages,
        weights=weights,
    )
    own = {"rounds": float(batch.rounds)}
    if k > 1:
        own["equal_groups"] = batch.equal_groups
    if roles.reference:
        own["kl_coef"] = kl_coef
    return experience, {**metrics.reduce(world), **own}


def _shaped(
    roles: Roles, batch: Batch, greedy: tuple[Rollout, Tensor] | None, k: int
) -> tuple[Tensor, Tensor]:
    """Shaped scores, and those of the greedy completions as a baseline for each (zeros where there are none); both shaped together."""
    if greedy is None:
        shaped = roles.shape(batch.rollout, batch.scores)
        return shaped, torch.zeros_like(shaped)
    answers, scores = greedy
    together = roles.shape(batch.rollout.join(answers), torch.cat([batch.scores, scores]))
    shaped, of_greedy = together.split([len(batch.scores), len(scores)])
    return shaped, of_greedy.repeat_interleave(k)
