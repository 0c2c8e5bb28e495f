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
    rounds            rounds of sampling that the step took
    trained           share of completions that are learned from
    policy_loss       in the unit of the reduction: per token, per completion, or per completion over the limit of tokens
    ratio             largest distance of a probability ratio from 1 in the first minibatch: float noise, or something is wrong
    clip_fraction     share of tokens whose gradient, or whose weight, the clip has cut
    approx_kl         k3 estimate per token between the policy that sampled and the one being updated
    importance        mean weight of tokens against the sampler's forward pass, where `importance_cap` is set
    loss, lr, grad_norm, skipped   of the step's updates
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.loop.adaptive import KLCoefficient, RunningStatistics, ScoreShaper
from prefloop.loop.critic_free_experience import (
    Batch,
    Experience,
    Roles,
    Rounds,
    estimate_advantages,
    uses_reference,
)
from prefloop.loop.learn import Learner, Loss, Watch, deal, learn
from prefloop.loop.online import (
    check_sampled,
    open_scorer,
    reference_of,
    rows_of,
    shown,
    shows_samples,
)
from prefloop.loop.roles import open_policy, parameters_of
from prefloop.loop.session import PromptSource, Session, open_session, read_prompts
from prefloop.losses import (
    CLIPPED,
    ESTIMATORS,
    RATIOS,
    REDUCTIONS,
    SURROGATES,
    expected_at_start,
    k3,
    probability_ratio,
    sum_and_count,
)
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import scatter_tokens
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult, World

GREEDY_KEYS = 1 << 62
"""Added to a prompt's key for its greedy completion, so that no two draws have one name."""


def train(config: CriticFreeConfig) -> Path:
    """Train and return the folder of the finished policy."""
    kl_coef = KLCoefficient(config.kl, completions=config.batch_prompts * config.completions_per_prompt)
    headline = ("score", "kl" if uses_reference(config) else "length")
    source = read_prompts(config)
    with open_session(config, source, reference=config.reference, headline=headline) as session:
        run, world, rounds = session.run, session.world, Rounds()
        roles = _open(config, session)
        source.check_room(roles.policy, *([roles.reference] if roles.reference else []))
        session.begin()
        for step in session.steps(
            save=roles.save,
            updater=roles.updater,
            kl_coef=kl_coef,
            scores=roles.shape,
            rewards=roles.rewards,
            rounds=rounds,
        ):
            batch = _collect(config, roles, source, rounds, world)
            greedy = _greedy_answers(config, roles, source, rounds) if config.baseline == "greedy" else None
            experience, metrics = estimate_advantages(config, roles, batch, greedy, kl_coef.value, world)
            if step == 1 and "kl_distance" in metrics and session.models.reference_is_start():
                check_sampled(config, "kl", metrics["kl_distance"], expected_at_start("kl"))
            learned = _learn(config, roles, experience, kl_coef.value, step, world)
            if roles.reference:
                kl_coef.follow(metrics["kl"], completions=batch.total * config.completions_per_prompt)
            run.log(step, {**metrics, **roles.score.metrics(world), **learned})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(batch.rollout, batch.scores))
        return session.finish()


def _open(config: CriticFreeConfig, session: Session) -> Roles:
    """The roles, from the start or from the checkpoint the run goes on from."""
    run, tokenizer = session.run, session.tokenizer
    opened = open_policy(config.model, tokenizer, config.lora, config.compute, run)
    policy = opened.role
    score, stored = open_scorer(config, tokenizer, run.world)
    return Roles(
        policy=policy,
        reference=reference_of(config, policy, tokenizer, run) if uses_reference(config) else None,
        score=score,
        shape=ScoreShaper(
            config.reward, stored=stored, longest=config.sampling.max_new_tokens, world=run.world
        ),
        rewards=RunningStatistics(run.world),
        updater=session.updater(
            parameters_of(policy, config.optim, name="policy"),
            updates=config.steps * config.epochs * config.minibatches,
        ),
        save=opened.save,
    )


def _collect(
    config: CriticFreeConfig, roles: Roles, source: PromptSource, rounds: Rounds, world: World
) -> Batch:
    """One round of sampling, or with dynamic sampling as many as it takes until enough groups have scores that differ.

    A step in which no group has any keeps its last round: its advantages are zero.
    """
    k = config.completions_per_prompt
    kept: list[tuple[int, int]] = []  # (round, place), the same on every process
    equal = sampled = 0
    rollouts: list[Rollout] = []
    scores: list[Tensor] = []
    drawn = 0
    for taken in range(1 + config.dynamic_sampling):
        rounds.done += 1
        drawn = source.drawn(rounds.done)
        rollouts.append(source.draw(roles.policy, rounds.done, k=k))
        scores.append(roles.score(rollouts[-1]))
        own = world.share(range(drawn))
        rows = scores[-1].view(len(own), k)
        differ = (rows != rows[:, :1]).any(dim=1).tolist()
        varied = sorted(
            place
            for part in world.gather_objects([p for p, d in zip(own, differ, strict=True) if d])
            for place in part
        )
        sampled += drawn
        equal += drawn - len(varied)
        places = varied if config.dynamic_sampling else range(drawn)
        kept += [(taken, place) for place in places]
        if len(kept) >= config.batch_prompts or not config.dynamic_sampling:
            break
    last = len(rollouts) - 1
    kept = kept[: config.batch_prompts] or [(last, place) for place in range(drawn)]
    mine = [(at, index, place) for at, (index, place) in enumerate(kept) if place % world.size == world.rank]
    rollout = rollouts[0].take([])
    for index, of_round in enumerate(rollouts):
        rollout = rollout.join(of_round.take([place // world.size for _, of, place in mine if of == index]))
    own_scores = [scores[index].view(-1, k)[place // world.size] for _, index, place in mine]
    return Batch(
        rollout=rollout,
        scores=torch.cat([scores[0][:0], *own_scores]),
        places=[at for at, _, _ in mine],
        total=len(kept),
        equal_groups=equal / sampled,
        rounds=len(rollouts),
    )


def _greedy_answers(
    config: CriticFreeConfig, roles: Roles, source: PromptSource, rounds: Rounds
) -> tuple[Rollout, Tensor]:
    """The greedy completion of each of this process's prompts of the last round, and its score."""
    greedy = replace(config.sampling, temperature=0.0)
    rollout = source.draw(roles.policy, rounds.done, k=1, first_key=GREEDY_KEYS, sampling=greedy)
    return rollout, roles.score(rollout)


@dataclass(slots=True)
class FirstLoss:
    """The policy's loss in the first minibatch, before any update: there it is known."""

    loss: float = 0.0
    expected: float = 0.0
    size: float = 0.0
    """Reduced absolute losses: what float noise is measured against."""


def _learn(
    config: CriticFreeConfig,
    roles: Roles,
    experience: Experience,
    kl_coef: float,
    step: int,
    world: World,
) -> dict[str, float]:
    """The updates over one step's experience; their metrics."""
    metrics, watch, first = Metrics(), Watch(), FirstLoss()

    def loss(places: list[int]) -> Loss | None:
        rows = rows_of(places, config.completions_per_prompt).to(world.device)
        mask = experience.mask[rows]
        tokens = world.sum_float(int(mask.sum()))
        sequences = world.sum_float(int(mask.any(dim=1).sum()))
        if not tokens:  # every completion was cut, and mask_truncated leaves them out
            return None
        # Its parts add up over micro-batches and processes.
        metrics.add("policy_loss", 0.0, int(world.is_main))
        return lambda part: _policy_loss(
            config,
            roles,
            experience,
            part,
            rows[part.rows],
            tokens,
            sequences,
            kl_coef,
            metrics,
            watch,
            first,
        )

    def check(result: StepResult) -> None:
        watch.closed = True

    (updates,) = learn(
        [Learner(updater=roles.updater, loss=loss)],
        experience.groups,
        deal(
            experience.places,
            range(experience.total),
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
    check_sampled(config, "ratio", 1 + ratio, expected_at_start("ratio"))
    observed, expected, size = (world.sum_float(value) for value in (first.loss, first.expected, first.size))
    check_sampled(config, "policy_loss", observed, expected, scale=1 + size)
    return {**updates, **metrics.reduce(world), "ratio": ratio}


def _policy_loss(
    config: CriticFreeConfig,
    roles: Roles,
    experience: Experience,
    part: MicroBatch,
    rows: Tensor,
    tokens: float,
    sequences: float,
    kl_coef: float,
    metrics: Metrics,
    watch: Watch,
    first: FirstLoss,
) -> Tensor:
    """This micro-batch's part of the policy's loss."""
    policy, batch, temperature = roles.policy, part.batch, config.sampling.temperature
    width = batch.completion_mask.shape[1]
    mask, old, advantages, reference, weights = (
        tensor[rows, :width]
        for tensor in (
            experience.mask,
            experience.old_logprobs,
            experience.advantages,
            experience.reference_logprobs,
            experience.weights,
        )
    )
    kl_in_loss = kl_coef if config.kl.placement == "loss" else 0.0
    exact = bool(kl_in_loss) and config.kl.estimator == "exact"
    if exact and roles.reference:
        statistics = policy.statistics_against(roles.reference, batch, temperature=temperature)
    else:
        statistics = policy.statistics(batch, temperature=temperature, entropy=config.entropy_coef > 0)
    logprobs = scatter_tokens(statistics.logprobs, batch)
    of, surrogate, clip = (
        RATIOS[config.ratio],
        SURROGATES[config.surrogate],
        (config.clip_low, config.clip_high),
    )

    def reduced(losses: Tensor) -> Tensor:
        return REDUCTIONS[config.reduction](
            losses, mask, tokens=tokens, sequences=sequences, length=config.sampling.max_new_tokens
        )

    ours, theirs = of(logprobs, mask), of(old, mask)
    policy_loss = reduced(weights * surrogate(ours, theirs, advantages, clip=clip))
    total = policy_loss
    if config.entropy_coef:
        total = total - config.entropy_coef * reduced(scatter_tokens(statistics.entropy, batch))
    if kl_in_loss:
        kl = (
            scatter_tokens(statistics.kl, batch)
            if exact
            else ESTIMATORS[config.kl.estimator](logprobs, reference)
        )
        if config.kl_weighted:
            kl = probability_ratio(logprobs, old) * kl
        total = total + kl_in_loss * reduced(kl)

    with torch.no_grad():
        metrics.add("policy_loss", policy_loss, 0)
        if config.surrogate != "score":
            cut = CLIPPED[config.surrogate](ours, theirs, advantages, clip=clip)
            metrics.add("clip_fraction", *sum_and_count(cut, mask))
        metrics.add("approx_kl", *sum_and_count(k3(old, logprobs), mask))
        if not watch.closed:
            watch.see(logprobs, old, mask)
            at_start = weights * surrogate(theirs, theirs, advantages, clip=clip)
            first.loss += policy_loss.item()
            first.expected += reduced(at_start).item()
            first.size += reduced(at_start.abs()).item()
    return total
