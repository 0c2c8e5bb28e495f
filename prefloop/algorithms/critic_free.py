"""Policy gradients without a critic: REINFORCE, RLOO, REINFORCE++, ReMax, GRPO, Dr. GRPO, DAPO, GSPO, CISPO.

One step: sample K completions of each prompt of a batch, score them, turn scores (and a KL to the reference, where that is in the reward) into
advantages by comparing with a baseline that needs no model, then update the policy. The methods differ in an entry of four dictionaries
(`losses/critic_free.py` has the table with the papers) and are presets of one configuration. What differs from the papers: old
log-probabilities are the training forward's, or the sampler's where they are the same to rounding; counts are of the whole minibatch, whatever the
micro-batches and processes.

Logged at every step, means over completions or tokens of the whole step:
    score             score of the reward model, as it gave it
    reward            what the policy was paid: shaped score minus the KL penalty where that is in the reward, summed over a completion
    reward_spread     standard deviation of that within a prompt's group, mean over groups; without groups left out
    equal_groups      share of groups whose scores are all equal: they teach nothing
    kl, kl_distance   as PPO's; left out where no reference is loaded
    baseline          mean of the baseline that returns are compared with (advantage `return`)
    entropy, length, ended   as PPO's
    rounds, trained   rounds of sampling that the step took, and share of completions that are learned from
    policy_loss       in the unit of the reduction: per token, per completion, or per completion over the limit of tokens
    ratio             largest distance of a probability ratio from 1 in the first minibatch: float noise, or something is wrong
    ratio_mean        the same, mean over tokens
    clip_fraction     share of tokens whose gradient, or whose weight, the clip has cut
    approx_kl         k3 estimate per token between the policy that sampled and the one being updated
    importance        mean weight of tokens against the sampler's forward pass, with an engine or where `importance` is set
    importance_cut    share of tokens whose weight is bounded, or 0
    sampler_gap       distance of the trainer's from the sampler's log-probability, mean over tokens; sampler_gap_max is the largest
    loss, lr, grad_norm, skipped   of the step's updates
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.loop.adaptive import KLCoefficient
from prefloop.loop.critic_free_experience import (
    GroupExperience,
    GroupPiece,
    GroupRule,
    ScoredPolicy,
    estimate_advantages,
)
from prefloop.loop.dynamic_sampling import Rounds, collect
from prefloop.loop.environment_source import in_environment
from prefloop.loop.learn import Learner, Loss, Passes, Watch
from prefloop.loop.penalties import Penalties
from prefloop.loop.roles import open_policy, parameters_of, reference_of, shard_roles
from prefloop.loop.scoring import open_shaped_scorer
from prefloop.loop.session import Session
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import PromptSource, open_session, read_prompts, staleness
from prefloop.loop.tensors import rows_of
from prefloop.losses import CLIPPED, RATIOS, REDUCTIONS, SURROGATES, k3, sum_and_count
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import scatter_tokens
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult

GREEDY_KEYS = 1 << 62
"""Added to a prompt's key for its greedy completion, so that no two draws have one name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodLoss:
    """A method's loss; `losses/critic_free.py` has its parts."""

    ratio: Callable[..., Tensor]
    surrogate: Callable[..., Tensor]
    cut: Callable[..., Tensor] | None
    """Which tokens the clip has cut; None if nothing is clipped."""
    reduction: Callable[..., Tensor]
    clip: tuple[float, float]
    penalties: Penalties
    temperature: float
    k: int
    """Completions of each prompt."""


@dataclass(slots=True)
class FirstLoss:
    """The policy's loss in the first minibatch, before any update: there it is known."""

    loss: float = 0.0
    expected: float = 0.0
    size: float = 0.0
    """Reduced absolute losses: what float noise is measured against."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What a step's updates show."""

    metrics: Metrics = field(default_factory=Metrics)
    watch: Watch = field(default_factory=Watch)
    first: FirstLoss = field(default_factory=FirstLoss)


def train(config: CriticFreeConfig) -> Path:
    """Train and return the folder of the finished policy."""
    k, size, greedy = config.completions_per_prompt, config.batch_prompts, config.baseline == "greedy"
    kl_coef = KLCoefficient(config.kl, completions=size * k)
    source = in_environment(config.environment, read_prompts(config))
    headline = ("score", config.watched)
    with open_session(config, source, reference=config.reference, headline=headline) as session:
        run, world, rounds = session.run, session.world, Rounds()
        roles = _open(config, session)
        source.check_room(roles.policy, *([roles.reference] if roles.reference else []))
        session.begin()
        passes = Passes(epochs=config.epochs, minibatches=config.minibatches, session=session)
        objective = _objective(config, kl_coef)
        rule, more = GroupRule.of(config, world), config.dynamic_sampling
        kept = {"updater": roles.updater, "kl_coef": kl_coef, "scores": roles.shape, "rounds": rounds}
        for step in session.steps(save=roles.save, rewards=rule.totals, **kept):
            batch = collect(
                roles.policy, roles.score, source, rounds, k=k, size=size, version=step - 1, more=more
            )
            answers = _greedy_answers(roles, source, rounds, version=step - 1) if greedy else None
            experience, metrics = estimate_advantages(rule, roles, batch, answers, kl_coef.in_reward)
            if step == 1 and "kl_distance" in metrics and session.models.reference_is_start():
                source.check("kl", metrics["kl_distance"])
            learned, first = _learn(objective, roles, experience, passes, step)
            source.check.ratio(learned)
            source.check("policy_loss", first.loss, first.expected, scale=1 + first.size)
            if roles.reference:
                metrics["kl_coef"] = kl_coef.value
                kl_coef.follow(metrics["kl"], completions=batch.total * k)
            metrics |= roles.score.metrics(world) | staleness(batch.rollout, step - 1, world)
            run.log(step, metrics | source.metrics() | learned)
            show_rollout(run, step, batch.rollout, batch.scores)
        return session.finish()


def _open(config: CriticFreeConfig, session: Session) -> ScoredPolicy:
    """The roles, from the start or from the checkpoint that the run resumes from."""
    opened, watched = open_policy(session, config.model, config.lora), config.watched == "kl"
    policy = opened.role
    score, shape = open_shaped_scorer(
        session,
        config.reward_model,
        config.reward,
        longest=config.most_tokens,
        environment=config.environment.name,
    )
    shard_roles(session, policy)
    updates = config.steps * config.epochs * config.minibatches
    return ScoredPolicy(
        policy=policy,
        reference=reference_of(session, policy, config.model, config.reference) if watched else None,
        score=score,
        shape=shape,
        updater=session.updater(parameters_of(policy, config.optim, name="policy"), updates=updates),
        save=opened.save,
    )


def _objective(config: CriticFreeConfig, kl_coef: KLCoefficient) -> MethodLoss:
    """The method's loss with this weight of the KL."""
    return MethodLoss(
        ratio=RATIOS[config.ratio],
        surrogate=SURROGATES[config.surrogate],
        cut=CLIPPED.get(config.surrogate),
        reduction=partial(REDUCTIONS[config.reduction], length=config.most_tokens),
        clip=(config.clip_low, config.clip_high),
        penalties=Penalties(
            entropy_coef=config.entropy_coef,
            kl_coef=kl_coef,
            estimator=config.kl.estimator,
            kl_weighted=config.kl_weighted,
        ),
        temperature=config.sampling.temperature,
        k=config.completions_per_prompt,
    )


def _greedy_answers(
    roles: ScoredPolicy, source: PromptSource, rounds: Rounds, *, version: int
) -> tuple[Rollout, Tensor]:
    """The greedy completion of each of this process's prompts of the last round, and its score."""
    greedy = replace(source.sampling, temperature=0.0, top_p=1.0, top_k=0)
    rollout = source.draw(
        roles.policy, rounds.done, k=1, first_key=GREEDY_KEYS, sampling=greedy, version=version
    )
    return rollout, roles.score(rollout)


def _learn(
    objective: MethodLoss, roles: ScoredPolicy, experience: GroupExperience, passes: Passes, step: int
) -> tuple[dict[str, float], FirstLoss]:
    """The updates over one step's experience; their metrics, and the loss before the first of them."""
    world, seen = passes.session.world, Observed()

    def loss(places: list[int]) -> Loss | None:
        rows = rows_of(places, objective.k).to(world.device)
        mask = experience.mask[rows]
        tokens = world.sum_float(int(mask.sum()))
        sequences = world.sum_float(int(mask.any(dim=1).sum()))
        if not tokens:  # every completion was cut, and mask_truncated leaves them out
            return None
        # Its parts add up over micro-batches and processes.
        seen.metrics.add("policy_loss", 0.0, int(world.is_main))

        def of_part(part: MicroBatch) -> Tensor:
            piece = experience.piece(part, rows[part.rows], tokens=tokens, sequences=sequences)
            return _policy_loss(objective, roles, piece, seen)

        return of_part

    def check(result: StepResult) -> None:
        seen.watch.closed = True

    (updates,) = passes.learn(
        [Learner(updater=roles.updater, loss=loss)],
        experience.groups,
        (experience.places, range(experience.total)),
        step=step,
        check=check,
    )
    first = seen.first
    everywhere = FirstLoss(*(world.sum_float(value) for value in (first.loss, first.expected, first.size)))
    return {**updates, **seen.metrics.reduce(world), **seen.watch.metrics(world)}, everywhere


def _policy_loss(objective: MethodLoss, roles: ScoredPolicy, piece: GroupPiece, seen: Observed) -> Tensor:
    """This micro-batch's part of the policy's loss."""
    batch, mask, old, penalties = piece.batch, piece.mask, piece.old_logprobs, objective.penalties
    statistics = roles.learning_pass(batch, penalties.want, temperature=objective.temperature)
    logprobs = scatter_tokens(statistics.logprobs, batch)
    reduced = partial(objective.reduction, mask=mask, tokens=piece.tokens, sequences=piece.sequences)
    surrogate = partial(objective.surrogate, advantages=piece.advantages, clip=objective.clip)
    ours, theirs = objective.ratio(logprobs, mask), objective.ratio(old, mask)
    total = policy_loss = reduced(piece.weights * surrogate(ours, theirs))
    for weight, term in penalties.terms(statistics, batch, logprobs, old, piece.reference_logprobs):
        total = total + weight * reduced(term)

    with torch.no_grad():
        seen.metrics.add("policy_loss", policy_loss, 0)
        if objective.cut:
            cut = objective.cut(ours, theirs, piece.advantages, clip=objective.clip)
            seen.metrics.add("clip_fraction", *sum_and_count(cut, mask))
        seen.metrics.add("approx_kl", *sum_and_count(k3(old, logprobs), mask))
        if not seen.watch.closed:
            seen.watch.see(logprobs, old, mask)
            at_start = piece.weights * surrogate(theirs, theirs)
            seen.first.loss += policy_loss.item()
            seen.first.expected += reduced(at_start).item()
            seen.first.size += reduced(at_start.abs()).item()
    return total
