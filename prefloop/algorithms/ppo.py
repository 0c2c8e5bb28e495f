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
    ratio_mean        the same, mean over tokens
    clip_fraction     share of tokens whose gradient the clip has cut
    approx_kl         k3 estimate per token between the policy that sampled and the one being updated
    explained_variance   share of the returns' variance that the critic predicted before learning from them
    loss, lr, grad_norm  means over the step's updates; a separate critic's end in /critic, a shared trunk has lr/policy and lr/critic
    skipped           share of updates left out because loss or gradient was not finite; skipped/critic likewise
    importance, importance_cut, sampler_gap, sampler_gap_max   as GRPO's, with an engine or where `importance` is set
    staleness         steps between the weights that drew and those that learn; left out where it is 0
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from prefloop.configs.ppo import NLPOConfig, PPOConfig
from prefloop.errors import InputError
from prefloop.loop.actor_critic import Roles, open_roles
from prefloop.loop.adaptive import KLCoefficient
from prefloop.loop.environment_source import in_environment
from prefloop.loop.experience import AdvantageRule, Experience, Piece, critic_loss, estimate_advantages
from prefloop.loop.learn import Learner, Loss, Passes, Watch, shared_places
from prefloop.loop.penalties import Penalties
from prefloop.loop.ptx import Ptx, read_ptx
from prefloop.loop.session import Kept, Session
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import open_session, read_prompts, staleness
from prefloop.loop.supports import Supports
from prefloop.loop.tensors import rows_of
from prefloop.losses import clipped_surrogate, is_clipped, k3, mean_over, sum_and_count
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.rollout.steered import Drawer
from prefloop.runtime import Metrics, StepResult
from prefloop.text.groups import Group


class TokenMask(Kept, Protocol):
    """Restricts the tokens that the policy may choose."""

    def drawer(self, step: int) -> Drawer:
        """What the step's completions are drawn from."""
        ...

    def supports(self, groups: Sequence[Group]) -> Supports:
        """For each group the tokens that each of its completion tokens was chosen among."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOLoss:
    """PPO's loss."""

    clip: float
    dual_clip: float
    penalties: Penalties
    value_clip: float
    value_coef: float
    """Weight of the value loss where the critic is a head on the policy's trunk."""
    temperature: float
    k: int
    """Completions of each prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatesSeen:
    """What a step's updates show."""

    metrics: Metrics = field(default_factory=Metrics)
    watch: Watch = field(default_factory=Watch)


def train(config: PPOConfig) -> Path:
    """Train and return the folder of the finished policy. Raises `InputError` for NLPO's settings, whose mask would be left out."""
    if isinstance(config, NLPOConfig):
        raise InputError(
            f"config is an NLPOConfig with top_p {config.top_p}, but PPO masks no tokens; train it with prefloop.algorithms.nlpo"
        )
    return train_masked(config, lambda policy, session: None)


def train_masked(config: PPOConfig, mask: Callable[[Policy, Session], TokenMask | None]) -> Path:
    """As `train`; `mask` gives what restricts the tokens that a policy may choose, None if it may choose all (`nlpo.py`)."""
    k = config.completions_per_prompt
    kl_coef = KLCoefficient(config.kl, completions=config.batch_prompts * k)
    source = in_environment(config.environment, read_prompts(config))
    ptx, ptx_read = read_ptx(config, source)
    with open_session(
        config, source, reference=config.reference, headline=("score", "kl"), more=ptx_read
    ) as session:
        run, world = session.run, session.world
        for note in config.kl.notes:
            run.say(note)
        roles = open_roles(config, session)
        source.check_room(roles.policy, roles.reference, roles.critic)
        if ptx:
            ptx.check_room(roles.policy)
        session.begin()
        masking = mask(roles.policy, session)
        rule = AdvantageRule.of(config, world, masked=masking is not None)
        passes = Passes(epochs=config.epochs, minibatches=config.minibatches, session=session)
        objective = PPOLoss(
            clip=config.clip,
            dual_clip=config.dual_clip,
            penalties=Penalties(
                entropy_coef=config.entropy_coef, kl_coef=kl_coef, estimator=config.kl.estimator
            ),
            value_clip=config.critic.clip,
            value_coef=config.critic.coef,
            temperature=config.sampling.temperature,
            k=k,
        )
        kept = {"masking": masking} if masking else {}
        for step in session.steps(save=roles.save, roles=roles, kl_coef=kl_coef, scores=roles.shape, **kept):
            rollout = source.draw(masking.drawer(step) if masking else roles.policy, step, k=k)
            scores = roles.score(rollout)
            supports = masking.supports(rollout.groups) if masking else None
            experience, metrics = estimate_advantages(
                rule, roles, rollout, scores, kl_coef.in_reward, supports
            )
            if step == 1 and session.models.reference_is_start():
                source.check("kl", metrics["kl_distance"])
            warm = step > config.critic.warmup_steps
            learned = _learn(objective, roles, experience, ptx, passes, step, warm)
            source.check.ratio(learned)
            metrics |= {"kl_coef": kl_coef.value} | roles.score.metrics(world) | source.metrics()
            kl_coef.follow(metrics["kl"], completions=source.drawn(step) * k)
            run.log(step, {**metrics, **learned, **staleness(rollout, step - 1, world)})
            show_rollout(run, step, rollout, scores)
        return session.finish()


def _learn(
    objective: PPOLoss,
    roles: Roles,
    experience: Experience,
    ptx: Ptx | None,
    passes: Passes,
    step: int,
    warm: bool,
) -> dict[str, float]:
    """The epochs of clipped updates over one step's experience; their metrics. Until the critic is `warm` it learns alone."""
    world, seen = passes.session.world, UpdatesSeen()

    def pieces(places: list[int]) -> Callable[[MicroBatch], Piece]:
        rows = rows_of(places, objective.k).to(world.device)
        tokens = world.sum_float(int(experience.mask[rows].sum()))
        return lambda part: experience.piece(part, rows[part.rows], tokens, k=objective.k)

    def policy_loss(places: list[int]) -> Loss:
        piece = pieces(places)
        return lambda part: _policy_loss(objective, roles, piece(part), seen)

    def value_loss(places: list[int]) -> Loss:
        piece = pieces(places)
        return lambda part: critic_loss(
            roles.values(part.batch), piece(part), seen.metrics, clip=objective.value_clip
        )

    def check(result: StepResult) -> None:
        seen.watch.closed = True

    learners = {}
    if warm:
        learners["policy"] = Learner(
            updater=roles.policy_updater,
            loss=policy_loss,
            extra=lambda: ptx.jobs(roles.policy, roles.policy_updater.steps + 1) if ptx else (),
            after=roles.follow,
        )
    if roles.critic_updater:
        learners["critic"] = Learner(updater=roles.critic_updater, loss=value_loss)
    updates = passes.learn(
        list(learners.values()),
        experience.groups,
        shared_places(len(experience.groups), world),
        step=step,
        check=check,
    )
    of = dict(zip(learners, updates, strict=True))
    of_critic = {f"{name}/critic": value for name, value in of.get("critic", {}).items() if name != "loss"}
    return {**of.get("policy", {}), **of_critic, **seen.metrics.reduce(world), **seen.watch.metrics(world)}


def _policy_loss(objective: PPOLoss, roles: Roles, piece: Piece, seen: UpdatesSeen) -> Tensor:
    """This micro-batch's part of the policy's loss; of the value loss too where the critic is a head on the policy's trunk."""
    batch, mask, tokens = piece.batch, piece.mask, piece.tokens
    old, advantages, penalties = piece.old_logprobs, piece.advantages, objective.penalties
    statistics, values = roles.learning_pass(
        batch, penalties.want, temperature=objective.temperature, supports=piece.supports
    )
    logprobs = scatter_tokens(statistics.logprobs, batch)
    losses = piece.weights * clipped_surrogate(
        logprobs, old, advantages, clip=objective.clip, dual_clip=objective.dual_clip
    )
    total = mean_over(losses, mask, count=tokens)
    for weight, term in penalties.terms(statistics, batch, logprobs, old, piece.reference_logprobs):
        total = total + weight * mean_over(term, mask, count=tokens)

    with torch.no_grad():
        cut = is_clipped(logprobs, old, advantages, clip=objective.clip)
        seen.metrics.add("policy_loss", *sum_and_count(losses, mask))
        seen.metrics.add("clip_fraction", *sum_and_count(cut, mask))
        seen.metrics.add("approx_kl", *sum_and_count(k3(old, logprobs), mask))
        seen.watch.see(logprobs, old, mask)
    if values is not None:
        value_loss = critic_loss(values, piece, seen.metrics, clip=objective.value_clip)
        total = total + objective.value_coef * value_loss
    return total
