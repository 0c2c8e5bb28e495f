"""Trust-region policy optimisation (arXiv:1502.05477): the natural gradient of the surrogate, as far as a bound on the KL allows.

One step: sample, score, shape rewards and estimate advantages as PPO does. Then solve F x = g by conjugate gradients, where g is the gradient of the
mean of ρ A over tokens and F the Fisher matrix of the policy at those tokens; take the longest step along x whose quadratic KL is `max_kl`; go back
along it until the true mean KL is within the bound and the surrogate has risen; then fit the critic. What differs from the paper: F is
multiplied by as the central difference of the gradient of the exact KL, so no second derivative is taken and any model's forward will do;
actions are tokens, and KL and surrogate are means over them.

Logged as by PPO: score, reward, kl, kl_distance, kl_coef, entropy, length, ended, explained_variance, ratio, value_loss, lr, grad_norm, skipped (of the
critic); and of the step:
    step_kl      mean KL per token of the old policy to the new one; never above max_kl, 0 if no step was accepted
    gain         rise of the mean of ρ A
    step_share   share of the longest step that was taken, 0 if none was good enough
    slope        Euclidean norm of g
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prefloop.configs.ppo import TRPOConfig
from prefloop.loop.actor_critic import CRITIC, ActorCritic, frozen_reward_models, open_critic
from prefloop.loop.adaptive import KLCoefficient
from prefloop.loop.experience import AdvantageRule, Experience, critic_loss, estimate_advantages
from prefloop.loop.learn import Learner, learn
from prefloop.loop.parameter_vectors import WeightVector
from prefloop.loop.roles import frozen_twin, parameters_of, reference_of, shard_roles
from prefloop.loop.scoring import open_shaped_scorer
from prefloop.loop.session import Session
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import StartCheck, open_session, read_prompts, staleness
from prefloop.losses import (
    conjugate_gradient,
    mean_over,
    probability_ratio,
    search_back,
    trust_region_step,
)
from prefloop.models.load import load_policy, save_classifier, save_policy
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy, scatter_tokens, vocabulary_size
from prefloop.runtime import Metrics, Updater, World
from prefloop.runtime.dealt import copy_parts
from prefloop.runtime.pace import in_step
from prefloop.text import check_vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """The trust region, and how the step in it is found."""

    max_kl: float
    damping: float
    iterations: int
    backtracks: int
    temperature: float
    tokens: int
    """Of a micro-batch."""


def train(config: TRPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    k = config.completions_per_prompt
    kl_coef = KLCoefficient(config.kl, completions=config.batch_prompts * k)
    source = read_prompts(config)
    with open_session(config, source, reference=config.reference, headline=("score", "kl")) as session:
        run, world = session.run, session.world
        models = _open(config, session)
        source.check_room(models.policy, models.reference, models.critic)
        session.begin()
        critic_updater = session.updater(
            parameters_of(models.critic, config.critic.optim, name="critic"),
            updates=config.steps * config.critic_epochs,
        )
        old = frozen_twin(session, models.policy, config.model)
        rule = AdvantageRule.of(config, world)
        region = Region(
            max_kl=config.max_kl,
            damping=config.cg_damping,
            iterations=config.cg_iterations,
            backtracks=config.backtracks,
            temperature=config.sampling.temperature,
            tokens=session.tokens,
        )

        def save(folder: Path) -> None:
            save_policy(models.policy, session.tokenizer, folder)
            save_classifier(models.critic, session.tokenizer, folder / CRITIC)

        warmup = config.critic.warmup_steps
        for step in session.steps(save=save, critic=critic_updater, kl_coef=kl_coef, scores=models.shape):
            rollout = source.draw(models.policy, step, k=k)
            scores = models.score(rollout)
            experience, metrics = estimate_advantages(rule, models, rollout, scores, kl_coef.in_reward)
            if step == 1 and session.models.reference_is_start():
                source.check("kl", metrics["kl_distance"])
            if step > warmup:
                metrics |= _move_policy(region, models.policy, old, experience, world, source.check)
            metrics |= _fit_critic(
                models,
                critic_updater,
                experience,
                session,
                clip=config.critic.clip,
                epochs=config.critic_epochs,
            )
            metrics |= {"kl_coef": kl_coef.value} | models.score.metrics(world)
            kl_coef.follow(metrics["kl"], completions=source.drawn(step) * k)
            run.log(step, {**metrics, **staleness(rollout, step - 1, world)})
            show_rollout(run, step, rollout, scores)
        return session.finish()


def _open(config: TRPOConfig, session: Session) -> ActorCritic:
    """A model for each role, from the start or from the checkpoint that the run resumes from."""
    policy = load_policy(session.run.source(config.model), session.learning)
    check_vocabulary(session.tokenizer, vocabulary_size(policy))
    reward_models = frozen_reward_models(session, config.reward_model)
    critic = open_critic(
        session,
        policy,
        reward_models,
        start=config.critic.start,
        model=config.model,
        reward_model=config.reward_model,
        normalise=config.reward.normalise,
    )
    score, shape = open_shaped_scorer(
        session,
        config.reward_model,
        config.reward,
        longest=config.sampling.max_new_tokens,
        loaded=reward_models,
    )
    reference = reference_of(session, policy, config.model, config.reference)
    shard_roles(session, policy, critic)
    return ActorCritic(
        policy=policy,
        reference=reference,
        critic=critic,
        on_trunk=False,
        score=score,
        shape=shape,
    )


def _move_policy(
    region: Region,
    policy: Policy,
    old: Policy,
    experience: Experience,
    world: World,
    check_start: StartCheck,
) -> dict[str, float]:
    """One trust-region step of the policy; its metrics. Weights are left as they were where no share of it is good enough.

    `old` becomes the policy before the step.
    """
    temperature = region.temperature
    copy_parts(policy.parameters(), old.parameters())
    weights = WeightVector(parameters=[p for p in policy.parameters() if p.requires_grad], world=world)
    origin = weights.read()
    parts = micro_batches(experience.groups, tokens=region.tokens, device=world.device)
    tokens = world.sum_float(int(experience.mask.sum()))
    distances: list[float] = []

    def gain_of(part: MicroBatch) -> Tensor:
        mask = part.batch.completion_mask
        before, advantages = (
            tensor[part.rows, : mask.shape[1]] for tensor in (experience.old_logprobs, experience.advantages)
        )
        change = probability_ratio(policy(part.batch, temperature=temperature), before) - 1
        distances.append((change.detach().abs() * mask).max().item())
        return mean_over(change * advantages, mask, count=tokens)

    def kl_of(part: MicroBatch) -> Tensor:
        statistics = policy.statistics_against(old, part.batch, temperature=temperature)
        kl = scatter_tokens(statistics.kl, part.batch)
        return mean_over(kl, part.batch.completion_mask, count=tokens)

    slope = weights.gradient(gain_of, parts)
    ratio = world.max_float(max(distances, default=0.0))
    check_start("ratio", 1 + ratio)

    def product(vector: Tensor) -> Tensor:
        return weights.fisher_times(vector, kl_of, parts) + region.damping * vector

    direction = conjugate_gradient(product, slope, iterations=region.iterations, dot=weights.dot)
    longest = trust_region_step(direction, product(direction), max_kl=region.max_kl, dot=weights.dot)

    @torch.no_grad()
    def evaluate(share: float) -> tuple[float, float]:
        weights.place(origin + share * longest)
        gain = kl = 0.0
        for part in in_step(parts):
            gain += gain_of(part).item()
            # The old policy's KL to the new one, the direction of the paper's bound.
            statistics = old.statistics_against(policy, part.batch, temperature=temperature)
            values = scatter_tokens(statistics.kl, part.batch)
            kl += mean_over(values, part.batch.completion_mask, count=tokens).item()
        return world.sum_float(gain), world.sum_float(kl)

    trial = search_back(evaluate, max_kl=region.max_kl, tries=region.backtracks)
    weights.place(origin + trial.share * longest if trial.share else origin)
    return {
        "step_kl": trial.kl,
        "gain": trial.gain,
        "step_share": trial.share,
        "ratio": ratio,
        "slope": weights.norm(slope),
    }


def _fit_critic(
    models: ActorCritic,
    updater: Updater,
    experience: Experience,
    session: Session,
    *,
    clip: float,
    epochs: int,
) -> dict[str, float]:
    """Epochs of the value loss over the step's completions; its metrics."""
    metrics, world = Metrics(), session.world
    tokens = world.sum_float(int(experience.mask.sum()))

    def loss(part: MicroBatch) -> Tensor:
        piece = experience.piece(part, part.rows, tokens, k=1)
        return critic_loss(models.values(part.batch), piece, metrics, clip=clip)

    (learned,) = learn(
        [Learner(updater=updater, loss=lambda places: loss)],
        experience.groups,
        [list(range(len(experience.groups)))] * epochs,
        tokens=session.tokens,
        world=world,
    )
    del learned["loss"]
    return {**learned, **metrics.reduce(world)}
