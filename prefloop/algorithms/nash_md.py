"""Nash mirror descent (arXiv:2312.00886): towards a policy that no other is preferred to, with or without a score behind the preferences.

One step: draw a completion y of each prompt from the policy and one, y', from the opponent, the geometric mixture π^(1-c) π_ref^c token by token; ask
who is preferred; take one step of policy gradient on P(y ≻ y') - ½ less β times the log-ratio of the whole completion y. Nothing is learned from y'. What
differs from the paper: completions are drawn at a temperature, which is in every log-probability.

Logged: win_rate (mean P(y ≻ y'), at its fixed point near a half), score (mean of both completions, where scores decide), disagreement (of several scorers), kl (k1 of the policy's
completions, summed over each), kl_distance, reward (win_rate - ½ - β kl), length, ended (of the policy's completions); ratio; loss, lr,
grad_norm, skipped.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.games import NashMDConfig
from prefloop.loop.learn import Watch, update
from prefloop.loop.online import (
    check_sampled,
    mask_of,
    put,
    reference_of,
    shown,
    shows_samples,
)
from prefloop.loop.payoff import Judged, Payoff
from prefloop.loop.roles import open_policy, parameters_of
from prefloop.loop.session import open_session, read_prompts
from prefloop.losses import (
    example_mean,
    expected_at_start,
    masked_sum,
    sequence_sum,
)
from prefloop.losses.games import nash_md_loss
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.rollout.steered import geometric_mixture
from prefloop.runtime import Metrics, Updater, World
from prefloop.text.groups import Group

OPPONENT_KEYS = 1 << 62
"""Added to a prompt's key for the opponent's completion, so that no two draws have one name."""


def train(config: NashMDConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source = read_prompts(config)
    with open_session(config, source, reference=config.reference, headline=("win_rate", "kl")) as session:
        run, world = session.run, session.world
        opened = open_policy(config.model, session.tokenizer, config.lora, config.compute, run)
        policy = opened.role
        reference = reference_of(config, policy, session.tokenizer, run)
        opponent = geometric_mixture(policy, reference, share=config.mixture)
        payoff = Payoff(config, session.tokenizer, world)
        source.check_room(policy, reference)
        session.begin()
        updater = session.updater(parameters_of(policy, config.optim, name="policy"), updates=config.steps)
        for step in session.steps(save=opened.save, updater=updater, scores=payoff):
            own = source.draw(policy, step, k=1)
            both = own.beside(source.draw(opponent, step, k=1, first_key=OPPONENT_KEYS))
            judged = payoff(both, k=2)
            experience, metrics = _experience(config, policy, reference, own, judged, world)
            if step == 1 and session.models.reference_is_start():
                check_sampled(config, "kl", metrics["kl_distance"], expected_at_start("kl"))
            metrics |= _learn(config, policy, updater, own.groups, experience, world)
            run.log(step, {**metrics, **payoff.metrics()})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(both, judged.shown()))
        return session.finish()


Experience = tuple[Float[Tensor, "B T"], Float[Tensor, " B"], Float[Tensor, " B"]]
"""Of the policy's completions: log-probabilities when they were drawn, probability of being preferred, log-ratio to the reference."""


def _experience(
    config: NashMDConfig, policy: Policy, reference: Policy, own: Rollout, judged: Judged, world: World
) -> tuple[Experience, dict[str, float]]:
    """Log-probabilities, payoff and KL of the policy's completions; under no_grad."""
    mask = mask_of(own.groups, world.device)
    ours, theirs = torch.zeros(mask.shape, device=world.device), torch.zeros(mask.shape, device=world.device)
    temperature = config.sampling.temperature
    with torch.no_grad():
        for part in micro_batches(own.groups, tokens=config.compute.micro_batch_tokens, device=world.device):
            put(ours, part, policy(part.batch, temperature=temperature))
            put(theirs, part, reference(part.batch, temperature=temperature))
    payoff, kl = judged.table[:, 0, 1], sequence_sum(ours - theirs, mask)
    metrics, count = Metrics(), len(own)
    metrics.add("win_rate", payoff.sum(), count)
    for scores in judged.scores:
        metrics.add("score", scores.sum(), len(scores))
    metrics.add("kl", kl.sum(), count)
    metrics.add("kl_distance", masked_sum((ours - theirs).abs(), mask), mask.sum())
    metrics.add("reward", (payoff - 0.5 - config.beta * kl).sum(), count)
    metrics.add("length", mask.sum(), count)
    metrics.add("ended", sum(map(sum, own.ended)), count)
    return (ours, payoff, kl), metrics.reduce(world)


def _learn(
    config: NashMDConfig,
    policy: Policy,
    updater: Updater,
    groups: Sequence[Group],
    experience: Experience,
    world: World,
) -> dict[str, float]:
    """One update, and its metrics."""
    old, payoff, kl = experience
    count = world.sum_float(len(groups))
    watch = Watch()

    def loss(part: MicroBatch) -> Tensor:
        mask = part.batch.completion_mask
        logprobs = policy(part.batch, temperature=config.sampling.temperature)
        watch.see(logprobs, old[part.rows, : mask.shape[1]], mask)
        sums = sequence_sum(logprobs, mask)
        losses = nash_md_loss(sums, payoff[part.rows], kl[part.rows], beta=config.beta)
        return example_mean(losses, examples=count)

    result = update(updater, groups, loss, tokens=config.compute.micro_batch_tokens, world=world)
    ratio = world.max_float(watch.ratio_distance)
    check_sampled(config, "ratio", 1 + ratio, expected_at_start("ratio"))
    return {**result.metrics(), "ratio": ratio}
