"""Self-play preference optimisation (arXiv:2405.00675): each round a step of multiplicative weights against the policy's own samples.

One step is one round: draw K completions of each prompt from the policy π_t, compare each with the others, and regress log(π(y)/π_t(y)) to
η (P(y ≻ π_t) - ½). The next round begins from there. π_t is the round's own starting point, so no reference is loaded; its log-probabilities are
computed once, when the round begins. What differs from the paper: a completion is not compared with itself, which makes the win rate an
unbiased estimate; a round may be any number of prompts.

Logged: score (mean of all completions, where scores decide), disagreement (of several scorers), win_rate_spread (standard deviation of win rates within a prompt, mean), win_rate_kept
(highest less lowest of the completions that are learned from, mean); length, ended; of the updates sppo_loss, log_ratio (mean log(π/π_t)
of what is learned from), margin (of the most preferred less the least); ratio; loss, lr, grad_norm, skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.games import SPPOConfig
from prefloop.loop.learn import Learner, Loss, deal, learn, shared_places
from prefloop.loop.online import check_sampled, mask_of, put, shown, shows_samples
from prefloop.loop.payoff import Judged, Payoff
from prefloop.loop.roles import open_policy, parameters_of
from prefloop.loop.session import open_session, read_prompts
from prefloop.losses import example_mean, sequence_sum
from prefloop.losses.games import sppo_loss, win_rates
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult, Updater, World
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What this process learns from in a round; every prompt has the same number k of completions, the most preferred first."""

    groups: list[Group]
    k: int
    win_rate: Float[Tensor, "P k"]
    old: Float[Tensor, "P k"]
    """log π_t, summed over tokens."""


def train(config: SPPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source = read_prompts(config)
    with open_session(config, source, headline=("win_rate_kept", "sppo_loss")) as session:
        run, world = session.run, session.world
        opened = open_policy(config.model, session.tokenizer, config.lora, config.compute, run)
        policy = opened.role
        payoff = Payoff(config, session.tokenizer, world)
        source.check_room(policy)
        session.begin()
        updater = session.updater(
            parameters_of(policy, config.optim, name="policy"),
            updates=config.steps * config.epochs * config.minibatches,
        )
        for step in session.steps(save=opened.save, updater=updater, scores=payoff):
            rollout = source.draw(policy, step, k=config.completions_per_prompt)
            judged = payoff(rollout, k=config.completions_per_prompt)
            learned_from, metrics = _choose(config, policy, rollout, judged, world)
            metrics |= _learn(config, policy, updater, learned_from, step, world)
            run.log(step, {**metrics, **payoff.metrics()})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(rollout, judged.shown()))
        return session.finish()


def _choose(
    config: SPPOConfig, policy: Policy, rollout: Rollout, judged: Judged, world: World
) -> tuple[Round, dict[str, float]]:
    """Win rates, the completions to learn from, and their log-probabilities before the round; under no_grad."""
    rates = win_rates(judged.table)
    order = rates.argsort(dim=1, descending=True, stable=True)
    if config.keep == "extremes":
        order = order[:, [0, -1]]
    k = order.shape[1]
    groups = [_taken(group, row) for group, row in zip(rollout.groups, order.tolist(), strict=True)]
    mask = mask_of(groups, world.device)
    old = torch.zeros(mask.shape, device=world.device)
    with torch.no_grad():
        for part in micro_batches(groups, tokens=config.compute.micro_batch_tokens, device=world.device):
            put(old, part, policy(part.batch, temperature=config.sampling.temperature))
    kept = rates.gather(1, order)
    metrics, count = Metrics(), len(rollout)
    for scores in judged.scores:
        metrics.add("score", scores.sum(), len(scores))
    metrics.add("win_rate_spread", rates.std(dim=1, unbiased=False).sum(), len(rates))
    metrics.add("win_rate_kept", (kept[:, 0] - kept[:, -1]).sum(), len(rates))
    metrics.add("length", sum(len(c) for group in rollout.groups for c in group.completions), count)
    metrics.add("ended", sum(map(sum, rollout.ended)), count)
    learned_from = Round(
        groups=groups,
        k=k,
        win_rate=kept,
        old=sequence_sum(old, mask).view(-1, k),
    )
    return learned_from, metrics.reduce(world)


def _taken(group: Group, order: Sequence[int]) -> Group:
    """Some of a group's completions, in this order."""
    return Group(
        prompt=group.prompt,
        completions=tuple(group.completions[j] for j in order),
        masks=tuple(group.masks[j] for j in order),
    )


def _learn(
    config: SPPOConfig, policy: Policy, updater: Updater, batch: Round, step: int, world: World
) -> dict[str, float]:
    """The updates of a round; their metrics."""
    metrics = Metrics()

    def loss(places: list[int]) -> Loss:
        count = world.sum_float(len(places) * batch.k)
        return lambda part: _loss(
            config, policy, batch, part, [places[g] for g in part.groups], count, metrics
        )

    def check(result: StepResult) -> None:
        first = metrics.reduce(world)
        # Before any update π is π_t, and the loss is the mean of its targets' squares.
        check_sampled(config, "sppo", first["sppo_loss"], first["expected"], scale=1 + first["expected"])

    (updates,) = learn(
        [Learner(updater=updater, loss=loss)],
        batch.groups,
        deal(
            *shared_places(len(batch.groups), world),
            minibatches=config.minibatches,
            epochs=config.epochs,
            seed=config.run.seed,
            step=step,
        ),
        tokens=config.compute.micro_batch_tokens,
        world=world,
        check=check,
    )
    learned = metrics.reduce(world)
    del learned["expected"]
    return {**updates, **learned}


def _loss(
    config: SPPOConfig,
    policy: Policy,
    batch: Round,
    part: MicroBatch,
    rows: list[int],
    count: float,
    metrics: Metrics,
) -> Tensor:
    """This micro-batch's part of the loss."""
    logprobs = policy(part.batch, temperature=config.sampling.temperature)
    sums = sequence_sum(logprobs, part.batch.completion_mask)
    old, rates = batch.old[rows].flatten(), batch.win_rate[rows].flatten()
    losses = sppo_loss(sums, old, rates, eta=config.eta)
    with torch.no_grad():
        change = (sums - old).view(-1, batch.k)
        metrics.add("sppo_loss", losses.sum(), len(losses))
        metrics.add("expected", sppo_loss(old, old, rates, eta=config.eta).sum(), len(losses))
        metrics.add("log_ratio", change.sum(), len(losses))
        metrics.add("margin", (change[:, 0] - change[:, -1]).sum(), len(change))
    return example_mean(losses, examples=count)
