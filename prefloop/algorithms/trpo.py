"""Trust-region policy optimisation (arXiv:1502.05477): the natural gradient of the surrogate, as far as a bound on the KL allows.

One step: sample, score, shape rewards and estimate advantages as PPO does. Then solve F x = g by conjugate gradients, where g is the gradient of the
mean of ρ A over tokens and F the Fisher matrix of the policy at those tokens; take the longest step along x whose quadratic KL is `max_kl`; go back
along it until the true mean KL is within the bound and the surrogate has risen; then fit the critic. What differs from the paper: F is
multiplied by as the central difference of the gradient of the exact KL, so no second derivative is taken and any model's forward will do;
actions are tokens, and KL and surrogate are means over them.

Logged as by PPO: score, reward, kl, kl_distance, kl_coef, entropy, length, ended, explained_variance, ratio, value_loss, lr, grad_norm, skipped (of the
critic); and of the step:
    step_kl      mean KL per token of the old policy to the new one; never above max_kl, 0 where no step was accepted
    gain         rise of the mean of ρ A
    step_share   share of the longest step that was taken, 0 where none was good enough
    slope        Euclidean norm of g
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.algorithms.ppo import Experience, critic_loss, estimate_advantages
from prefloop.configs.ppo import TRPOConfig
from prefloop.loop.actor_critic import CRITIC, frozen_reward_models, open_critic
from prefloop.loop.adaptive import KLCoefficient, ScoreShaper
from prefloop.loop.learn import Learner, learn
from prefloop.loop.online import (
    Score,
    check_sampled,
    open_scorer,
    reference_of,
    shown,
    shows_samples,
)
from prefloop.loop.roles import parameters_of
from prefloop.loop.session import Session, open_session, read_prompts
from prefloop.losses import (
    Trial,
    conjugate_gradient,
    expected_at_start,
    mean_over,
    probability_ratio,
    search_back,
    trust_region_step,
)
from prefloop.models.load import load_policy, save_classifier, save_policy
from prefloop.models.packing import Batch, MicroBatch, micro_batches
from prefloop.models.roles import Critic, Policy, scatter_tokens, vocabulary_size
from prefloop.runtime import Metrics, Updater, World
from prefloop.text import check_vocabulary

DIFFERENCE = 1e-2
"""Euclidean length of the steps to either side in a central difference: far above float32's rounding, and its square is its error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Policy, the policy before the step, reference, critic and scorer."""

    policy: Policy
    old: Policy
    reference: Policy
    critic: Critic
    score: Score
    shape: ScoreShaper
    critic_updater: Updater
    save: Callable[[Path], None]

    def values(self, batch: Batch, hidden: Sequence[Tensor] = ()) -> Float[Tensor, "B T"]:
        """The critic's value of the state before each completion token; it is a model of its own, with no use for the policy's states."""
        return self.critic(batch)


def train(config: TRPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    kl_coef = KLCoefficient(config.kl, completions=config.batch_prompts * config.completions_per_prompt)
    source = read_prompts(config)
    with open_session(config, source, reference=config.reference, headline=("score", "kl")) as session:
        run, world = session.run, session.world
        roles = _open(config, session)
        source.check_room(roles.policy, roles.reference, roles.critic)
        session.begin()
        for step in session.steps(
            save=roles.save, critic=roles.critic_updater, kl_coef=kl_coef, scores=roles.shape
        ):
            rollout = source.draw(roles.policy, step, k=config.completions_per_prompt)
            scores = roles.score(rollout)
            experience, metrics = estimate_advantages(config, roles, rollout, scores, kl_coef.value, world)
            if step == 1 and session.models.reference_is_start():
                check_sampled(config, "kl", metrics["kl_distance"], expected_at_start("kl"))
            if step > config.critic.warmup_steps:
                metrics |= _move_policy(config, roles, experience, world)
            metrics |= _fit_critic(config, roles, experience, world)
            kl_coef.follow(metrics["kl"], completions=source.drawn(step) * config.completions_per_prompt)
            run.log(step, {**metrics, **roles.score.metrics(world)})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(rollout, scores))
        return session.finish()


def _open(config: TRPOConfig, session: Session) -> Roles:
    """A model for each role, from the start or from the checkpoint the run goes on from."""
    run, tokenizer = session.run, session.tokenizer
    policy = load_policy(run.source(config.model), config.compute)
    check_vocabulary(tokenizer, vocabulary_size(policy))
    reward_models = frozen_reward_models(config)
    critic = open_critic(config, tokenizer, run, policy, reward_models)
    score, stored = open_scorer(config, tokenizer, run.world, loaded=reward_models)

    def save(folder: Path) -> None:
        save_policy(policy, tokenizer, folder)
        save_classifier(critic, tokenizer, folder / CRITIC)

    return Roles(
        policy=policy,
        old=policy.frozen_copy(),
        reference=reference_of(config, policy, tokenizer, run),
        critic=critic,
        score=score,
        shape=ScoreShaper(
            config.reward, stored=stored, longest=config.sampling.max_new_tokens, world=run.world
        ),
        critic_updater=session.updater(
            parameters_of(critic, config.critic.optim, name="critic"),
            updates=config.steps * config.critic_epochs,
        ),
        save=save,
    )


def _move_policy(config: TRPOConfig, roles: Roles, experience: Experience, world: World) -> dict[str, float]:
    """One trust-region step of the policy; its metrics. Weights are left as they were where no share of it is good enough."""
    policy, old, temperature = roles.policy, roles.old, config.sampling.temperature
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for frozen, current in zip(old.parameters(), policy.parameters(), strict=True):
            frozen.copy_(current)
    origin = nn.utils.parameters_to_vector(parameters).detach()
    parts = micro_batches(experience.groups, tokens=config.compute.micro_batch_tokens, device=world.device)
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

    slope = _gradient(gain_of, parts, parameters, world)
    ratio = world.max_float(max(distances, default=0.0))
    check_sampled(config, "ratio", 1 + ratio, expected_at_start("ratio"))

    def product(vector: Tensor) -> Tensor:
        return _fisher_times(vector, kl_of, parts, parameters, world) + config.cg_damping * vector

    direction = conjugate_gradient(product, slope, iterations=config.cg_iterations)
    longest = trust_region_step(direction, product(direction), max_kl=config.max_kl)

    @torch.no_grad()
    def evaluate(share: float) -> tuple[float, float]:
        _place(origin + share * longest, parameters)
        gain = kl = 0.0
        for part in parts:
            gain += gain_of(part).item()
            # The old policy's KL to the new one, the direction of the paper's bound.
            statistics = old.statistics_against(policy, part.batch, temperature=temperature)
            values = scatter_tokens(statistics.kl, part.batch)
            kl += mean_over(values, part.batch.completion_mask, count=tokens).item()
        return world.sum_float(gain), world.sum_float(kl)

    trial = search_back(evaluate, max_kl=config.max_kl, tries=config.backtracks)
    _place(origin + trial.share * longest if trial.share else origin, parameters)
    return {**_metrics(trial), "ratio": ratio, "slope": slope.norm().item()}


def _fisher_times(
    vector: Float[Tensor, " n"],
    kl: Callable[[MicroBatch], Tensor],
    parts: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    world: World,
) -> Float[Tensor, " n"]:
    """F v: how fast the gradient of the KL to the policy as it is grows along v, from a step to either side. Weights are given back as they were."""
    origin = nn.utils.parameters_to_vector(parameters).detach()
    length = vector.norm().clamp(min=1e-30)
    sides: list[Tensor] = []
    for sign in (1, -1):
        _place(origin + (sign * DIFFERENCE / length) * vector, parameters)
        sides.append(_gradient(kl, parts, parameters, world))
    _place(origin, parameters)
    return (sides[0] - sides[1]) * (length / (2 * DIFFERENCE))


def _metrics(trial: Trial) -> dict[str, float]:
    return {"step_kl": trial.kl, "gain": trial.gain, "step_share": trial.share}


def _gradient(
    loss: Callable[[MicroBatch], Tensor],
    parts: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    world: World,
) -> Float[Tensor, " n"]:
    """Gradient of a loss that is a sum over micro-batches and processes, as one vector."""
    for parameter in parameters:
        parameter.grad = None
    for part in parts:
        loss(part).backward()
    pieces = [
        torch.zeros_like(parameter).reshape(-1) if parameter.grad is None else parameter.grad.reshape(-1)
        for parameter in parameters
    ]
    for parameter in parameters:
        parameter.grad = None
    return world.sum(torch.cat(pieces))


@torch.no_grad()
def _place(vector: Float[Tensor, " n"], parameters: Sequence[nn.Parameter]) -> None:
    """Write a vector into the weights, in place: each keeps a memory of its own."""
    pieces = vector.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.copy_(piece.view_as(parameter))


def _fit_critic(config: TRPOConfig, roles: Roles, experience: Experience, world: World) -> dict[str, float]:
    """Epochs of the value loss over the step's completions; its metrics."""
    metrics = Metrics()
    tokens = world.sum_float(int(experience.mask.sum()))

    def loss(part: MicroBatch) -> Tensor:
        values = roles.values(part.batch)
        return critic_loss(config.critic, values, experience, part, part.rows, tokens, metrics)

    (learned,) = learn(
        [Learner(updater=roles.critic_updater, loss=lambda places: loss)],
        experience.groups,
        [list(range(len(experience.groups)))] * config.critic_epochs,
        tokens=config.compute.micro_batch_tokens,
        world=world,
    )
    del learned["loss"]
    return {**learned, **metrics.reduce(world)}
