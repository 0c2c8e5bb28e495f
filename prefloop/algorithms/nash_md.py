"""Nash mirror descent (arXiv:2312.00886): towards a policy that no other is preferred to, with or without a score behind the preferences.

One step: draw a completion y of each prompt from the policy and one, y', from the opponent, the geometric mixture π^(1-c) π_ref^c token by token; ask
who is preferred; take one step of policy gradient on P(y ≻ y') - ½ less β times the log-ratio of the whole completion y. Nothing is learned from y'. What
differs from the paper: completions are drawn at a temperature, which is in every log-probability.

Logged: win_rate (mean P(y ≻ y'), at its fixed point near a half), score (mean of both completions, where scores decide), disagreement (of several scorers), kl (k1 of the policy's
completions, summed over each), kl_distance, reward (win_rate - ½ - β kl), length, ended (of the policy's completions); ratio, ratio_mean; loss, lr,
grad_norm, skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.games import NashMDConfig
from prefloop.loop.learn import Watch, update
from prefloop.loop.payoff import Judged, open_payoff
from prefloop.loop.roles import open_policy, parameters_of, reference_of, shard_roles
from prefloop.loop.session import Session
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import open_session, read_prompts, staleness
from prefloop.loop.tensors import logprobs_of, mask_of
from prefloop.losses import example_mean, masked_sum, sequence_sum
from prefloop.losses.games import nash_md_loss
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.rollout.steered import geometric_mixture
from prefloop.runtime import Metrics, Updater

OPPONENT_KEYS = 1 << 62
"""Added to a prompt's key for the opponent's completion, so that no two draws have one name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Of the policy's completions, prompt after prompt."""

    rollout: Rollout
    old_logprobs: Float[Tensor, "B T"]
    """When they were drawn."""
    payoff: Float[Tensor, " B"]
    """Probability of being preferred."""
    kl: Float[Tensor, " B"]
    """Log-ratio to the reference."""


def train(config: NashMDConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source = read_prompts(config)
    with open_session(config, source, reference=config.reference, headline=("win_rate", "kl")) as session:
        run, temperature = session.run, config.sampling.temperature
        opened = open_policy(session, config.model, config.lora)
        policy = opened.role
        shard_roles(session, policy)
        reference = reference_of(session, policy, config.model, config.reference)
        opponent = geometric_mixture(policy, reference, share=config.mixture)
        payoff = open_payoff(session, config)
        source.check_room(policy, reference)
        session.begin()
        updater = session.updater(parameters_of(policy, config.optim, name="policy"), updates=config.steps)
        for step in session.steps(save=opened.save, updater=updater, scores=payoff):
            own = source.draw(policy, step, k=1)
            both = own.beside(source.draw(opponent, step, k=1, first_key=OPPONENT_KEYS))
            judged = payoff(both, k=2)
            mask = mask_of(own.groups, session.world.device)
            logprobs = logprobs_of(
                (policy, reference), own.groups, mask, temperature=temperature, tokens=session.tokens
            )
            experience, metrics = _experience(own, judged, logprobs, mask, beta=config.beta)
            seen = metrics.reduce(session.world)
            if step == 1 and session.models.reference_is_start():
                source.check("kl", seen["kl_distance"])
            learned = _learn(experience, policy, updater, session, temperature, beta=config.beta)
            source.check.ratio(learned)
            stale = staleness(own, step - 1, session.world)
            run.log(step, {**seen, **learned, **payoff.metrics(), **stale})
            show_rollout(run, step, both, judged.shown())
        return session.finish()


def _experience(
    own: Rollout, judged: Judged, logprobs: Sequence[Tensor], mask: Bool[Tensor, "B T"], *, beta: float
) -> tuple[Contest, Metrics]:
    """Payoff and KL of the policy's completions; `logprobs` are the policy's and the reference's."""
    ours, theirs = logprobs
    payoff, kl = judged.table[:, 0, 1], sequence_sum(ours - theirs, mask)
    metrics, count = Metrics(), len(own)
    metrics.add("win_rate", payoff.sum(), count)
    if judged.scores is not None:
        metrics.add("score", judged.scores.sum(), len(judged.scores))
    metrics.add("kl", kl.sum(), count)
    metrics.add("kl_distance", masked_sum((ours - theirs).abs(), mask), mask.sum())
    metrics.add("reward", (payoff - 0.5 - beta * kl).sum(), count)
    metrics.add("length", mask.sum(), count)
    metrics.add("ended", sum(map(sum, own.ended)), count)
    return Contest(rollout=own, old_logprobs=ours, payoff=payoff, kl=kl), metrics


def _learn(
    of: Contest, policy: Policy, updater: Updater, session: Session, temperature: float, *, beta: float
) -> dict[str, float]:
    """One update, and its metrics."""
    world, watch = session.world, Watch()
    count = world.sum_float(len(of.rollout.groups))

    def loss(part: MicroBatch) -> Tensor:
        mask = part.batch.completion_mask
        logprobs = policy(part.batch, temperature=temperature)
        watch.see(logprobs, of.old_logprobs[part.rows, : mask.shape[1]], mask)
        sums = sequence_sum(logprobs, mask)
        losses = nash_md_loss(sums, of.payoff[part.rows], of.kl[part.rows], beta=beta)
        return example_mean(losses, examples=count)

    result = update(updater, of.rollout.groups, loss, tokens=session.tokens, world=world)
    return {**result.metrics(), **watch.metrics(world)}
