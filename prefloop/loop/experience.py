"""The training data of an actor and its critic: a step's completions with rewards, values and advantages, fixed before the first update."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.ppo import ActorCriticConfig
from prefloop.loop.actor_critic import ActorCritic
from prefloop.loop.frozen import FrozenPasses, frozen_statistics
from prefloop.loop.importance import ImportanceRule
from prefloop.loop.supports import Supports, allowed_tokens, masked_numbers
from prefloop.loop.tensors import Whitening, ended_of, mask_of, paid, whitening
from prefloop.losses import (
    Moments,
    clipped_value_loss,
    explained_variance,
    gae,
    masked_sum,
    mean_over,
    sum_and_count,
)
from prefloop.models.packing import Batch, MicroBatch
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, World
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A micro-batch with what its completions' tokens were before the first update."""

    batch: Batch
    old_logprobs: Float[Tensor, "b t"]
    reference_logprobs: Float[Tensor, "b t"]
    old_values: Float[Tensor, "b t"]
    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"]
    weights: Float[Tensor, "b t"]
    supports: Supports | None
    tokens: float
    """Of the whole minibatch, on all processes."""

    @property
    def mask(self) -> Bool[Tensor, "b t"]:
        """True on completion tokens."""
        return self.batch.completion_mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """All that the updates need of this process's completions, prompt after prompt. T is the longest."""

    groups: list[Group]
    mask: Bool[Tensor, "B T"]
    old_logprobs: Float[Tensor, "B T"]
    reference_logprobs: Float[Tensor, "B T"]
    old_values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    weights: Float[Tensor, "B T"]
    """Of each token's loss; ones unless `importance` says otherwise."""
    supports: Supports | None
    """By group: the tokens that each token was chosen among; None if all could be."""

    def piece(self, part: MicroBatch, rows: Tensor, tokens: float, *, k: int) -> Piece:
        """A micro-batch of completions that stand at these rows, in groups of k."""
        width = part.batch.completion_mask.shape[1]
        at = {
            name: getattr(self, name)[rows, :width]
            for name in (
                *("old_logprobs", "reference_logprobs", "old_values", "advantages", "returns", "weights"),
            )
        }
        supports = self.supports and [self.supports[row // k] for row in rows[::k].tolist()]
        return Piece(batch=part.batch, **at, supports=supports, tokens=tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvantageRule:
    """How a run turns scores into advantages."""

    passes: FrozenPasses
    whiten_rewards: Whitening
    whiten_advantages: Whitening
    gamma: float
    lam: float
    importance: ImportanceRule
    world: World

    @classmethod
    def of(cls, config: ActorCriticConfig, world: World, *, masked: bool = False) -> "AdvantageRule":
        """By a run's settings. `masked`: the policy may choose some tokens only."""
        importance = ImportanceRule.of(config, world)
        # The sampler draws among the allowed tokens, the KL is of all.
        needs_pass = masked or config.kl.estimator == "exact" or importance.on
        return cls(
            passes=FrozenPasses.of(config, world.device, needs_pass=needs_pass),
            whiten_rewards=whitening(config.reward.whiten, world, keep_mean=True),
            whiten_advantages=whitening(config.whiten_advantages, world),
            gamma=config.gamma,
            lam=config.lam,
            importance=importance,
            world=world,
        )


def estimate_advantages(
    rule: AdvantageRule,
    models: ActorCritic,
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    kl_coef: float,
    supports: Supports | None = None,
) -> tuple[Experience, dict[str, float]]:
    """Log-probabilities, KL, rewards, values, advantages; all under no_grad, means and moments over all processes.

    `kl_coef` weighs the KL in the rewards; `supports` are the tokens that each token was chosen among, where not all could be.
    """
    world, passes = rule.world, rule.passes
    mask = mask_of(rollout.groups, world.device)
    frozen = frozen_statistics(passes, models.policy, models.reference, rollout, mask, models.values)
    old_logprobs, entropy, kl, values = frozen.old_logprobs, frozen.entropy, frozen.kl, frozen.values

    rewards = paid(rollout, models.shape(rollout, scores), kl, mask, kl_coef=kl_coef)
    rewards = rule.whiten_rewards(rewards, mask)
    advantages, returns = gae(rewards, values, mask, gamma=rule.gamma, lam=rule.lam)
    explained = explained_variance(
        Moments.of(returns, mask).summed(world.sum), Moments.of(returns - values, mask).summed(world.sum)
    )
    advantages = rule.whiten_advantages(advantages, mask)

    metrics, count = Metrics(), len(scores)
    metrics.add("score", scores.sum(), count)
    metrics.add("reward", masked_sum(rewards, mask), count)
    metrics.add("kl", masked_sum(kl, mask), count)
    distance = (old_logprobs - frozen.reference_logprobs).abs()
    metrics.add("kl_distance", masked_sum(distance, mask), mask.sum())
    if supports is not None:  # the KL above is of the whole distributions, what is learned from is not
        old_logprobs, entropy = masked_numbers(
            models.policy,
            rollout.groups,
            supports,
            mask,
            temperature=passes.temperature,
            tokens=passes.tokens,
        )
        metrics.add("allowed", *allowed_tokens(supports))
    weights, of_sampler = rule.importance.weights(old_logprobs, rollout, mask)
    metrics.add("entropy", *sum_and_count(entropy, mask))
    metrics.add("length", mask.sum(), count)
    metrics.add("ended", ended_of(rollout, world.device).sum(), count)
    experience = Experience(
        groups=rollout.groups,
        mask=mask,
        old_logprobs=old_logprobs,
        reference_logprobs=frozen.reference_logprobs,
        old_values=values,
        advantages=advantages,
        returns=returns,
        weights=weights,
        supports=supports,
    )
    return experience, {**metrics.reduce(world), **of_sampler, "explained_variance": explained.item()}


def critic_loss(values: Float[Tensor, "b t"], piece: Piece, metrics: Metrics, *, clip: float) -> Tensor:
    """This micro-batch's part of the critic's loss."""
    losses = clipped_value_loss(values, piece.old_values, piece.returns, clip=clip)
    metrics.add("value_loss", *sum_and_count(losses.detach(), piece.mask))
    return mean_over(losses, piece.mask, count=piece.tokens)
