"""Proximal policy optimisation with four roles (arXiv:1707.06347, arXiv:1909.08593, arXiv:2203.02155).

One step: sample completions of a batch of prompts; score them; take a per-token KL to the reference; turn both into rewards; estimate
advantages with the critic; then a few passes of clipped updates over them. What differs from the papers: old log-probabilities are
the training forward's, or the sampler's where they are the same to rounding; means are over the tokens of a whole minibatch, whatever the
micro-batches and processes; advantages are whitened over the whole batch.

Logged at every step, means over completions or tokens of the whole step:
    score             score of the reward model, as it gave it
    reward            what the policy was paid: shaped score minus the KL penalty where that is in the reward, summed over a completion
    kl                KL to the reference per completion, by the chosen estimator (k1 unless set otherwise)
    kl_distance       distance of the policy's from the reference's log-probability, per token
    kl_coef           weight of the KL penalty, which an adaptive controller changes
    entropy           entropy of the policy per token, in nats; the mean of -log π of what it drew where old log-probabilities are the sampler's
    length, ended     completion tokens; share that stopped by itself
    policy_loss, value_loss
    ratio             largest distance of a probability ratio from 1 in the first minibatch: float noise, or something is wrong
    clip_fraction     share of tokens whose gradient the clip has cut
    approx_kl         k3 estimate per token between the policy that sampled and the one being updated
    explained_variance   share of the returns' variance that the critic predicted before learning from them
    loss, lr, grad_norm  means over the step's updates; a separate critic's end in /critic, a shared trunk has lr/policy and lr/critic
    skipped           share of updates left out because loss or gradient was not finite; skipped/critic likewise
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.algorithms.sft import trained_tokens
from prefloop.configs.ppo import ActorCriticConfig, CriticSettings, PPOConfig
from prefloop.loop.actor_critic import Roles, open_ptx, open_roles
from prefloop.loop.adaptive import KLCoefficient, ScoreShaper
from prefloop.loop.batches import Batches
from prefloop.loop.frozen import frozen_statistics
from prefloop.loop.learn import Job, Learner, Loss, Watch, deal, learn, shared_places
from prefloop.loop.online import (
    check_sampled,
    ended_of,
    mask_of,
    rows_of,
    shown,
    shows_samples,
)
from prefloop.loop.roles import longest_of
from prefloop.loop.session import Kept, open_session, read_prompts
from prefloop.loop.supports import Supports, allowed_tokens, masked_numbers
from prefloop.losses import (
    ESTIMATORS,
    Moments,
    clipped_surrogate,
    clipped_value_loss,
    expected_at_start,
    explained_variance,
    gae,
    is_clipped,
    k3,
    masked_sum,
    mean_over,
    shape_rewards,
    sum_and_count,
    whiten,
)
from prefloop.models.packing import Batch, MicroBatch, micro_batches
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.models.trunk import check_length
from prefloop.rollout import Rollout
from prefloop.rollout.steered import Drawer
from prefloop.runtime import Metrics, StepResult, World
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """All that the updates need of this process's completions, prompt after prompt; fixed before the first update. T is the longest."""

    groups: list[Group]
    mask: Bool[Tensor, "B T"]
    old_logprobs: Float[Tensor, "B T"]
    reference_logprobs: Float[Tensor, "B T"]
    old_values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    supports: Supports | None
    """By group: the tokens that each token was chosen among; None where all could be."""

    def supports_at(self, rows: Tensor, k: int) -> Supports | None:
        """Those of the groups of k whose completions are at these rows."""
        if self.supports is None:
            return None
        return [self.supports[row // k] for row in rows[::k].tolist()]


class Masking(Kept, Protocol):
    """Restricts the tokens that the policy may choose."""

    def drawer(self, step: int) -> Drawer:
        """What the step's completions are drawn from."""
        ...

    def supports(self, groups: Sequence[Group]) -> Supports:
        """For each group the tokens that each of its completion tokens was chosen among."""
        ...


class Judges(Protocol):
    """The roles that a rollout is judged by."""

    @property
    def policy(self) -> Policy: ...
    @property
    def reference(self) -> Policy: ...
    @property
    def shape(self) -> ScoreShaper: ...
    def values(self, batch: Batch, hidden: Sequence[Tensor] = ()) -> Float[Tensor, "B T"]:
        """The critic's value of the state before each completion token; of the policy's hidden states where it is a head on them."""
        ...


def train(config: PPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    return train_masked(config, lambda policy: None)


def train_masked(config: PPOConfig, mask: Callable[[Policy], Masking | None]) -> Path:
    """As `train`; `mask` gives what restricts the tokens that a policy may choose, None where it may choose all (`nlpo.py`)."""
    kl_coef = KLCoefficient(config.kl, completions=config.batch_prompts * config.completions_per_prompt)
    source = read_prompts(config)
    ptx, ptx_reads = open_ptx(config, source.tokenizer, source.world)
    with open_session(
        config, source, reference=config.reference, headline=("score", "kl"), more=ptx_reads
    ) as session:
        run, world = session.run, session.world
        if config.kl.placement == "reward" and config.kl.estimator != "k1":
            run.say(
                f"kl.estimator {config.kl.estimator} in the reward does not pull to the reference as a KL does; k1 does (docs/ppo.md)"
            )
        roles = open_roles(config, session)
        source.check_room(roles.policy, roles.reference, roles.critic)
        if ptx:
            check_length(roles.policy.model, max(map(longest_of, ptx)), what=f"{config.ptx}: a record")
        session.begin()
        masking = mask(roles.policy)
        kept = {"masking": masking} if masking else {}
        for step in session.steps(save=roles.save, roles=roles, kl_coef=kl_coef, scores=roles.shape, **kept):
            drawer = masking.drawer(step) if masking else roles.policy
            rollout = source.draw(drawer, step, k=config.completions_per_prompt)
            scores = roles.score(rollout)
            supports = masking.supports(rollout.groups) if masking else None
            experience, metrics = estimate_advantages(
                config, roles, rollout, scores, kl_coef.value, world, supports
            )
            if step == 1 and session.models.reference_is_start():
                check_sampled(config, "kl", metrics["kl_distance"], expected_at_start("kl"))
            learned = _learn(config, roles, experience, ptx, kl_coef.value, step, world)
            check_sampled(config, "ratio", 1 + learned["ratio"], expected_at_start("ratio"))
            kl_coef.follow(metrics["kl"], completions=source.drawn(step) * config.completions_per_prompt)
            run.log(step, {**metrics, **roles.score.metrics(world), **learned})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(rollout, scores))
        return session.finish()


def estimate_advantages(
    config: ActorCriticConfig,
    roles: Judges,
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    kl_coef: float,
    world: World,
    supports: Supports | None = None,
) -> tuple[Experience, dict[str, float]]:
    """Log-probabilities, KL, rewards, values, advantages; all under no_grad, means and moments over all processes."""
    mask = mask_of(rollout.groups, world.device)
    ended = ended_of(rollout, world.device)
    parts = micro_batches(rollout.groups, tokens=config.compute.micro_batch_tokens, device=world.device)
    frozen = frozen_statistics(
        config,
        roles.policy,
        (roles.reference,),
        parts,
        rollout,
        mask,
        needs_pass=supports is not None,  # the sampler drew among the allowed tokens, the KL is of all
        values=roles.values,
    )
    old_logprobs, entropy, kl, values = frozen.old_logprobs, frozen.entropy, frozen.kl, frozen.values
    reference_logprobs = frozen.reference_logprobs

    shaped = roles.shape(rollout, scores)
    rewards = shape_rewards(shaped, kl, mask, kl_coef=kl_coef if config.kl.placement == "reward" else 0.0)
    if config.reward.whiten:
        rewards = whiten(rewards, mask, Moments.of(rewards, mask).summed(world.sum), keep_mean=True)
    advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
    explained = explained_variance(
        Moments.of(returns, mask).summed(world.sum), Moments.of(returns - values, mask).summed(world.sum)
    )
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, Moments.of(advantages, mask).summed(world.sum))

    metrics, count = Metrics(), len(scores)
    metrics.add("score", scores.sum(), count)
    metrics.add("reward", masked_sum(rewards, mask), count)
    metrics.add("kl", masked_sum(kl, mask), count)
    metrics.add("kl_distance", masked_sum((old_logprobs - reference_logprobs).abs(), mask), mask.sum())
    if supports is not None:  # the KL above is of the whole distributions, what is learned from is not
        old_logprobs, entropy = masked_numbers(
            roles.policy, parts, supports, old_logprobs, config.sampling.temperature
        )
        metrics.add("allowed", *allowed_tokens(supports))
    metrics.add("entropy", *sum_and_count(entropy, mask))
    metrics.add("length", mask.sum(), count)
    metrics.add("ended", ended.sum(), count)
    experience = Experience(
        groups=rollout.groups,
        mask=mask,
        old_logprobs=old_logprobs,
        reference_logprobs=reference_logprobs,
        old_values=values,
        advantages=advantages,
        returns=returns,
        supports=supports,
    )
    own = {"kl_coef": kl_coef, "explained_variance": explained.item()}
    return experience, {**metrics.reduce(world), **own}


def _learn(
    config: PPOConfig,
    roles: Roles,
    experience: Experience,
    ptx: Sequence[Group],
    kl_coef: float,
    step: int,
    world: World,
) -> dict[str, float]:
    """The epochs of clipped updates over one step's experience; their metrics."""
    metrics, watch = Metrics(), Watch()
    own, everyone = shared_places(len(experience.groups), world)

    def rows_and_tokens(places: list[int]) -> tuple[Tensor, float]:
        rows = rows_of(places, config.completions_per_prompt).to(world.device)
        return rows, world.sum_float(int(experience.mask[rows].sum()))

    def policy_loss(places: list[int]) -> Loss:
        rows, tokens = rows_and_tokens(places)
        return lambda part: _policy_loss(
            config, roles, experience, part, rows[part.rows], tokens, kl_coef, metrics, watch
        )

    def value_loss(places: list[int]) -> Loss:
        rows, tokens = rows_and_tokens(places)
        return lambda part: critic_loss(
            config.critic, roles.values(part.batch), experience, part, rows[part.rows], tokens, metrics
        )

    def check(result: StepResult) -> None:
        watch.closed = True

    of_policy = Learner(
        updater=roles.policy_updater,
        loss=policy_loss,
        extra=lambda: _ptx_jobs(config, ptx, roles, world),
        after=roles.follow,
    )
    updates = learn(
        [
            *([of_policy] if step > config.critic.warmup_steps else []),
            *(Learner(updater=updater, loss=value_loss) for updater in roles.critic_updaters),
        ],
        experience.groups,
        deal(
            own,
            everyone,
            minibatches=config.minibatches,
            epochs=config.epochs,
            seed=config.run.seed,
            step=step,
        ),
        tokens=config.compute.micro_batch_tokens,
        world=world,
        check=check,
    )
    ratio = world.max_float(watch.ratio_distance)
    of_critic = updates.pop() if roles.critic_updaters else {}
    named = {f"{name}/critic": value for name, value in of_critic.items() if name != "loss"}
    return {**(updates[0] if updates else {}), **named, **metrics.reduce(world), "ratio": ratio}


def _policy_loss(
    config: PPOConfig,
    roles: Roles,
    experience: Experience,
    part: MicroBatch,
    rows: Tensor,
    tokens: float,
    kl_coef: float,
    metrics: Metrics,
    watch: Watch,
) -> Tensor:
    """This micro-batch's part of the policy's loss; of the value loss too where the critic is a head on the policy's trunk."""
    batch, mask = part.batch, part.batch.completion_mask
    width = mask.shape[1]
    old, advantages, reference = (
        tensor[rows, :width]
        for tensor in (experience.old_logprobs, experience.advantages, experience.reference_logprobs)
    )
    kl_in_loss = kl_coef if config.kl.placement == "loss" else 0.0
    exact = kl_in_loss and config.kl.estimator == "exact"
    statistics, values = roles.learning_pass(
        batch,
        temperature=config.sampling.temperature,
        entropy=config.entropy_coef > 0,
        exact_kl=bool(exact),
        supports=experience.supports_at(rows, config.completions_per_prompt),
    )
    logprobs = scatter_tokens(statistics.logprobs, batch)
    losses = clipped_surrogate(logprobs, old, advantages, clip=config.clip, dual_clip=config.dual_clip)
    total = mean_over(losses, mask, count=tokens)
    if config.entropy_coef:
        total = total - config.entropy_coef * mean_over(
            scatter_tokens(statistics.entropy, batch), mask, count=tokens
        )
    if kl_in_loss:
        kl = (
            scatter_tokens(statistics.kl, batch)
            if exact
            else ESTIMATORS[config.kl.estimator](logprobs, reference)
        )
        total = total + kl_in_loss * mean_over(kl, mask, count=tokens)

    with torch.no_grad():
        cut = is_clipped(logprobs, old, advantages, clip=config.clip)
        metrics.add("policy_loss", *sum_and_count(losses, mask))
        metrics.add("clip_fraction", *sum_and_count(cut, mask))
        metrics.add("approx_kl", *sum_and_count(k3(old, logprobs), mask))
        watch.see(logprobs, old, mask)
    if values is not None:
        total = total + config.critic.coef * critic_loss(
            config.critic, values, experience, part, rows, tokens, metrics
        )
    return total


def critic_loss(
    settings: CriticSettings,
    values: Float[Tensor, "b t"],
    experience: Experience,
    part: MicroBatch,
    rows: Tensor,
    tokens: float,
    metrics: Metrics,
) -> Tensor:
    """This micro-batch's part of the critic's loss."""
    mask = part.batch.completion_mask
    width = mask.shape[1]
    old, returns = experience.old_values[rows, :width], experience.returns[rows, :width]
    losses = clipped_value_loss(values, old, returns, clip=settings.clip)
    metrics.add("value_loss", *sum_and_count(losses.detach(), mask))
    return mean_over(losses, mask, count=tokens)


def _ptx_jobs(config: PPOConfig, ptx: Sequence[Group], roles: Roles, world: World) -> list[Job]:
    """The pretraining mix's part of the next minibatch's loss: as many of its sequences as the minibatch has prompts, the next ones at every update."""
    if not config.ptx_coef:
        return []
    size = max(1, config.batch_prompts // config.minibatches)
    batches = Batches(count=len(ptx), size=size, seed=config.run.seed)
    groups = world.share(batches.pick(ptx, roles.policy_updater.steps + 1))
    count = world.sum_float(trained_tokens(groups))

    def loss(part: MicroBatch) -> Tensor:
        return config.ptx_coef * mean_over(-roles.policy(part.batch), part.batch.completion_mask, count=count)

    parts = micro_batches(groups, tokens=config.compute.micro_batch_tokens, device=world.device)
    return [partial(loss, part) for part in parts]
