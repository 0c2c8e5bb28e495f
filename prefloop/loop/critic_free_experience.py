"""The training data of a step of `critic_free`: the roles, a batch of scored completions, and how scores become advantages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.loop.adaptive import RunningStatistics, ScoreShaper
from prefloop.loop.dynamic_sampling import ScoredBatch
from prefloop.loop.frozen import FrozenPasses, frozen_statistics
from prefloop.loop.importance import ImportanceRule
from prefloop.loop.tensors import Whitening, ended_of, mask_of, paid, whitening
from prefloop.losses import (
    ADVANTAGES,
    masked_sum,
    sequence_sum,
    sum_and_count,
)
from prefloop.models.head import TokenStatistics, Want
from prefloop.models.packing import Batch, MicroBatch
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.rollout.reward_scorers import RolloutScorer
from prefloop.runtime import Metrics, Updater, World
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPolicy:
    """Policy, the reference if it is used, and the scorer."""

    policy: Policy
    reference: Policy | None
    score: RolloutScorer
    shape: ScoreShaper
    updater: Updater
    save: Callable[[Path], None]

    def learning_pass(self, batch: Batch, want: Want, *, temperature: float) -> TokenStatistics:
        """What an update needs of the policy: log-probabilities, and the entropy and the exact KL to the reference where they are wanted."""
        if want.kl and self.reference:
            return self.policy.statistics_against(self.reference, batch, temperature=temperature, want=want)
        return self.policy.statistics(batch, temperature=temperature, entropy=want.entropy)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPiece:
    """A micro-batch with what its completions' tokens were before the first update."""

    batch: Batch
    mask: Bool[Tensor, "b t"]
    """True on tokens that are learned from."""
    old_logprobs: Float[Tensor, "b t"]
    reference_logprobs: Float[Tensor, "b t"]
    advantages: Float[Tensor, "b t"]
    weights: Float[Tensor, "b t"]
    tokens: float
    """Learned from in the whole minibatch, on all processes."""
    sequences: float
    """With such tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupExperience:
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
    """Of each token's loss; ones unless `importance` says otherwise."""

    def piece(self, part: MicroBatch, rows: Tensor, *, tokens: float, sequences: float) -> GroupPiece:
        """A micro-batch of completions that stand at these rows."""
        width = part.batch.completion_mask.shape[1]
        names = ("mask", "old_logprobs", "reference_logprobs", "advantages", "weights")
        at = {name: getattr(self, name)[rows, :width] for name in names}
        return GroupPiece(batch=part.batch, **at, tokens=tokens, sequences=sequences)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRule:
    """How a run turns scores into advantages."""

    passes: FrozenPasses
    advantage: Callable[..., Tensor]
    """Of rewards, mask, group and baseline."""
    totals: RunningStatistics
    """Of each completion's rewards."""
    running: bool
    """Whether their mean so far is the baseline."""
    has_baseline: bool
    """Whether returns are compared with a baseline at all, and not with the group."""
    mask_truncated: bool
    whiten: Whitening
    importance: ImportanceRule
    k: int
    """Completions of each prompt."""
    world: World

    @classmethod
    def of(cls, config: CriticFreeConfig, world: World) -> "GroupRule":
        """By a run's settings."""
        exact = config.watched == "kl" and config.kl.estimator == "exact"
        importance = ImportanceRule.of(config, world)
        return cls(
            passes=FrozenPasses.of(config, world.device, needs_pass=exact or importance.on),
            advantage=ADVANTAGES[config.advantage],
            totals=RunningStatistics(world),
            running=config.baseline == "running",
            has_baseline=config.advantage == "return",
            mask_truncated=config.mask_truncated,
            whiten=whitening(config.whiten_advantages, world),
            importance=importance,
            k=config.completions_per_prompt,
            world=world,
        )


def estimate_advantages(
    rule: GroupRule,
    roles: ScoredPolicy,
    batch: ScoredBatch,
    greedy: tuple[Rollout, Tensor] | None,
    kl_coef: float,
) -> tuple[GroupExperience, dict[str, float]]:
    """Log-probabilities, KL, rewards, advantages; all under no_grad, means and moments over all processes.

    `greedy` are the prompts' greedy completions with their scores, where those are the baseline; `kl_coef` weighs the KL in the rewards.
    """
    rollout, k, device = batch.rollout, rule.k, rule.world.device
    mask, ended = mask_of(rollout.groups, device), ended_of(rollout, device)
    frozen = frozen_statistics(rule.passes, roles.policy, roles.reference, rollout, mask)
    old, reference, kl = frozen.old_logprobs, frozen.reference_logprobs, frozen.kl

    shaped, baseline = _shaped(roles, batch, greedy, k)
    rewards = paid(rollout, shaped, kl, mask, kl_coef=kl_coef)
    totals = sequence_sum(rewards, mask)
    if rule.running:
        # Of earlier steps: it does not know these completions.
        baseline = torch.full_like(totals, rule.totals.moments.mean)
        rule.totals.add(totals)
    group = torch.arange(len(rollout.groups), device=device).repeat_interleave(k)
    learned = mask & ended.unsqueeze(1) if rule.mask_truncated else mask
    advantages = rule.whiten(rule.advantage(rewards, mask, group, baseline), learned)
    weights, of_sampler = rule.importance.weights(old, rollout, mask)
    metrics, count = Metrics(), len(batch.scores)
    metrics.add("score", batch.scores.sum(), count)
    metrics.add("reward", masked_sum(rewards, mask), count)
    if k > 1:
        metrics.add("reward_spread", totals.view(-1, k).std(dim=1).sum(), len(rollout.groups))
    if roles.reference:
        metrics.add("kl", masked_sum(kl, mask), count)
        metrics.add("kl_distance", masked_sum((old - reference).abs(), mask), mask.sum())
    if rule.has_baseline:
        metrics.add("baseline", baseline.sum(), count)
    metrics.add("entropy", *sum_and_count(frozen.entropy, mask))
    metrics.add("length", mask.sum(), count)
    metrics.add("ended", ended.sum(), count)
    metrics.add("trained", learned.any(dim=1).sum(), count)
    experience = GroupExperience(
        groups=rollout.groups,
        places=batch.places,
        total=batch.total,
        mask=learned,
        old_logprobs=old,
        reference_logprobs=reference,
        advantages=advantages,
        weights=weights,
    )
    own = {**of_sampler, "rounds": float(batch.rounds)}
    if k > 1:
        own["equal_groups"] = batch.equal_groups
    return experience, {**metrics.reduce(rule.world), **own}


def _shaped(
    roles: ScoredPolicy, batch: ScoredBatch, greedy: tuple[Rollout, Tensor] | None, k: int
) -> tuple[Tensor, Tensor]:
    """Shaped scores, and those of the greedy completions as a baseline for each (zeros if there are none); both shaped together."""
    if greedy is None:
        shaped = roles.shape(batch.rollout, batch.scores)
        return shaped, torch.zeros_like(shaped)
    answers, scores = greedy
    together = roles.shape(batch.rollout.join(answers), torch.cat([batch.scores, scores]))
    shaped, of_greedy = together.split([len(batch.scores), len(scores)])
    return shaped, of_greedy.repeat_interleave(k)
