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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.algorithms.batches import Batches
from prefloop.algorithms.frozen import frozen_statistics
from prefloop.algorithms.inputs import prompts, store_of
from prefloop.algorithms.learn import Job, Learner, Loss, Watch, deal, learn, shared_places
from prefloop.algorithms.nlpo import (
    Masking,
    Supports,
    allowed_tokens,
    masked_numbers,
    open_masking,
    statistics_among,
)
from prefloop.algorithms.online import (
    check_sampled,
    draw_rollout,
    ended_of,
    mask_of,
    models_of,
    require_prompts,
    rows_of,
    shape_scores,
    shown,
    shows_samples,
    state_of_moments,
)
from prefloop.algorithms.opening import check_prompt_room, longest_of
from prefloop.algorithms.ppo_roles import Roles, open_ptx, open_roles
from prefloop.algorithms.provenance import RunRecord
from prefloop.algorithms.sft import trained_tokens
from prefloop.configs.ppo import ActorCriticConfig, CriticSettings, PPOConfig
from prefloop.losses import (
    ESTIMATORS,
    Moments,
    RunningMoments,
    clipped_surrogate,
    clipped_value_loss,
    expected_at_start,
    explained_variance,
    gae,
    is_clipped,
    k3,
    masked_sum,
    mean_over,
    next_coef,
    shape_rewards,
    sum_and_count,
    whiten,
)
from prefloop.models.packing import Batch, MicroBatch, micro_batches
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.models.trunk import check_length
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, Run, StateTree, StepResult, World, start_world
from prefloop.text import decode_completion, load_tokenizer, stop_token_ids
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
    supports: Supports = ()
    """NLPO's, by group: the tokens that each token was chosen among."""


class Judges(Protocol):
    """The roles that a rollout is judged by."""

    @property
    def policy(self) -> Policy: ...
    @property
    def reference(self) -> Policy: ...
    @property
    def reward_moments(self) -> tuple[float, float]: ...
    def values(self, batch: Batch, hidden: Sequence[Tensor] = ()) -> Float[Tensor, "B T"]:
        """The critic's value of the state before each completion token; of the policy's hidden states where it is a head on them."""
        ...


@dataclass(kw_only=True, slots=True)
class Adaptive:
    """What a step leaves to the next besides weights; changed in place."""

    kl_coef: float
    scores: RunningMoments


def train(config: PPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    world = start_world(config.compute.device)
    if config.kl.target:  # refuses settings it could not go on with, before anything is done
        controlled(config, config.kl.coef, config.kl.target, config.batch_prompts)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    store = store_of(config.run.out, config.run.store)
    train_prompts, _, read = world.on_main(lambda: prompts(config.data, tokenizer, store))
    require_prompts(train_prompts, config.data.source)
    ptx, ptx_reads = open_ptx(config, tokenizer, world)
    reads = [read, *ptx_reads]
    data = {name: one.content for name, one in zip(("data", "ptx_data"), reads, strict=False)}
    models = models_of(config, world, reference=config.reference)
    batches = Batches(count=len(train_prompts), size=config.batch_prompts, seed=config.run.seed)
    with (
        Run.open(
            config.run,
            stage=config.STAGE,
            config=config,
            total_steps=config.steps,
            world=world,
            headline=("score", "kl"),
            reads={**data, **models.contents},
        ) as run,
        RunRecord(stage=config.STAGE, config=config, settings=config.run, world=world) as record,
    ):
        for each in reads:
            run.say(each.summary)
        if config.kl.placement == "reward" and config.kl.estimator != "k1":
            run.say(
                f"kl.estimator {config.kl.estimator} in the reward does not pull to the reference as a KL does; k1 does (docs/ppo.md)"
            )
        roles = open_roles(config, tokenizer, run)
        for role in (roles.policy, roles.reference, roles.critic):
            check_prompt_room(role, train_prompts, new_tokens=config.sampling.max_new_tokens)
        if ptx:
            check_length(roles.policy.model, max(map(longest_of, ptx)), what=f"{config.ptx}: a record")
        record.begin(models=models, reads=reads)
        adaptive = Adaptive(kl_coef=config.kl.coef, scores=RunningMoments())
        maskings = open_masking(config, roles.policy)
        if run.resumed:
            _load_state(roles, adaptive, maskings, run.resumed)
        stop_ids = stop_token_ids(tokenizer)

        def decode(ids: Sequence[int]) -> str:
            return decode_completion(tokenizer, ids)

        for step in run.steps(save=roles.save, state=lambda: _state(roles, adaptive, maskings)):
            chosen = batches.at(step)
            for masking in maskings:
                masking.refresh(step)
            rollout = draw_rollout(
                maskings[0].drawer() if maskings else roles.policy,
                train_prompts,
                chosen,
                k=config.completions_per_prompt,
                first_key=(step - 1) * config.batch_prompts,
                sampling=config.sampling,
                seed=config.run.seed,
                stop_ids=stop_ids,
                decode=decode,
                world=world,
            )
            scores = roles.score(rollout)
            supports = maskings[0].supports(rollout.groups) if maskings else ()
            experience, metrics = judge(config, roles, rollout, scores, adaptive, world, supports)
            if step == 1 and models.reference_is_start():
                check_sampled(config, "kl", metrics["kl_distance"], expected_at_start("kl"))
            learned = _learn(config, roles, experience, ptx, adaptive.kl_coef, step, world)
            check_sampled(config, "ratio", 1 + learned["ratio"], expected_at_start("ratio"))
            if config.kl.target:
                adaptive.kl_coef = controlled(config, adaptive.kl_coef, metrics["kl"], len(chosen))
            run.log(step, {**metrics, **roles.score.metrics(world), **learned})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(rollout, scores))
        record.finish(run.final, kind="policy", step=run.total_steps, metrics=run.last_metrics)
        return run.final


def controlled(config: ActorCriticConfig, coef: float, kl: float, prompts: int) -> float:
    """The KL coefficient after a step of so many prompts with this mean KL."""
    n = prompts * config.completions_per_prompt
    return next_coef(coef, kl, target=config.kl.target, horizon=config.kl.horizon, n=n)


def judge(
    config: ActorCriticConfig,
    roles: Judges,
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    adaptive: Adaptive,
    world: World,
    supports: Supports = (),
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
        needs_pass=len(supports) > 0,  # the sampler drew among the allowed tokens, the KL is of all
        values=roles.values,
    )
    old_logprobs, entropy, kl, values = frozen.old_logprobs, frozen.entropy, frozen.kl, frozen.values
    reference_logprobs = frozen.reference_logprobs

    shaped, adaptive.scores = shape_scores(
        config.reward,
        scores,
        lengths=mask.sum(dim=1).float(),
        ended=ended,
        longest=config.sampling.max_new_tokens,
        stored=roles.reward_moments,
        running=adaptive.scores,
        world=world,
    )
    in_reward = adaptive.kl_coef if config.kl.placement == "reward" else 0.0
    rewards = shape_rewards(shaped, kl, mask, kl_coef=in_reward)
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
    if len(supports):  # the KL above is of the whole distributions, what is learned from is not
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
    own = {"kl_coef": adaptive.kl_coef, "explained_variance": explained.item()}
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
    policy, batch, mask = roles.policy, part.batch, part.batch.completion_mask
    temperature = config.sampling.temperature
    width = mask.shape[1]
    old, advantages, reference = (
        tensor[rows, :width]
        for tensor in (experience.old_logprobs, experience.advantages, experience.reference_logprobs)
    )
    kl_in_loss = kl_coef if config.kl.placement == "loss" else 0.0
    exact = kl_in_loss and config.kl.estimator == "exact"
    values = torch.zeros(())
    if exact and roles.has_own_critic:
        statistics = policy.statistics_against(roles.reference, batch, temperature=temperature)
    elif exact:
        with torch.no_grad():
            theirs = roles.reference.hidden(batch)
        hidden = policy.hidden(batch)
        statistics = policy.statistics_between(
            hidden, roles.reference, theirs, batch, temperature=temperature
        )
        values = roles.values(batch, (hidden,))
    elif experience.supports:
        hidden, groups = policy.hidden(batch), rows[:: config.completions_per_prompt]
        places = (groups // config.completions_per_prompt).tolist()
        statistics = statistics_among(
            policy, hidden, batch, experience.supports, places, temperature=temperature
        )
        values = values if roles.has_own_critic else roles.critic.values_of(hidden, batch)
    elif roles.has_own_critic:
        statistics = policy.statistics(batch, temperature=temperature, entropy=config.entropy_coef > 0)
    else:
        hidden = policy.hidden(batch)
        wants_entropy = config.entropy_coef > 0
        statistics = policy.statistics_of(hidden, batch, temperature=temperature, entropy=wants_entropy)
        values = roles.values(batch, (hidden,))

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
    if not roles.has_own_critic:
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


def _state(roles: Roles, adaptive: Adaptive, maskings: Sequence[Masking]) -> StateTree:
    return {
        "roles": roles.state(),
        "kl_coef": adaptive.kl_coef,
        "score_moments": state_of_moments(adaptive.scores),
        "maskings": [masking.state() for masking in maskings],
    }


def _load_state(roles: Roles, adaptive: Adaptive, maskings: Sequence[Masking], saved: StateTree) -> None:
    """Go on from what `_state` gave."""
    roles.load_state(saved["roles"])
    adaptive.kl_coef = saved["kl_coef"]
    adaptive.scores = RunningMoments(**saved["score_moments"])
    for masking, own in zip(maskings, saved.get("maskings", []), strict=True):
        masking.load_state(own)
