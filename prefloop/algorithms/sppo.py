"""Self-play preference optimisation (arXiv:2405.00675): each round a step of multiplicative weights against the policy's own samples.

One step is one round: draw K completions of each prompt from the policy π_t, compare each with the others, and regress log(π(y)/π_t(y)) to
η (P(y ≻ π_t) - ½). The next round begins from there. π_t is the round's own starting point, so no reference is loaded; its log-probabilities are
computed once, when the round begins. What differs from the paper: a completion is not compared with itself, which makes the win rate an
unbiased estimate; a round may be any number of prompts.

Logged: score (mean of all completions, where scores decide), disagreement (of several scorers), win_rate_spread (standard deviation of win rates within a prompt, mean), win_rate_kept
(highest less lowest of the completions that are learned from, mean); length, ended; of the updates sppo_loss, log_ratio (mean log(π/π_t)
of what is learned from), margin (of the most preferred less the least); ratio; loss, lr, grad_norm, skipped.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.configs.games import SPPOConfig
from prefloop.loop.learn import Learner, Loss, Passes, shared_places
from prefloop.loop.payoff import Judged, open_payoff
from prefloop.loop.roles import open_policy, parameters_of, shard_roles
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import StartCheck, open_session, read_prompts, staleness
from prefloop.loop.tensors import logprobs_of, mask_of
from prefloop.losses import example_mean, sequence_sum
from prefloop.losses.games import sppo_loss, win_rates
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult, Updater, World
from prefloop.text.groups import Group

KEPT = {"all": slice(None), "extremes": [0, -1]}
"""`keep` -> which completions of a prompt are learned from, the most preferred being the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SPPORound:
    """What this process learns from in a round; every prompt has the same number k of completions, the most preferred first."""

    groups: list[Group]
    k: int
    win_rate: Float[Tensor, "P k"]
    old: Float[Tensor, "P k"]
    """log π_t, summed over tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """The policy, and what it regresses to."""

    policy: Policy
    updater: Updater
    temperature: float
    eta: float


def train(config: SPPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source, k = read_prompts(config), config.completions_per_prompt
    with open_session(config, source, headline=("win_rate_kept", "sppo_loss")) as session:
        run, world = session.run, session.world
        opened = open_policy(session, config.model, config.lora)
        policy = opened.role
        shard_roles(session, policy)
        payoff = open_payoff(session, config)
        source.check_room(policy)
        session.begin()
        passes = Passes(epochs=config.epochs, minibatches=config.minibatches, session=session)
        student = Student(
            policy=policy,
            updater=session.updater(
                parameters_of(policy, config.optim, name="policy"), updates=config.steps * passes.updates
            ),
            temperature=config.sampling.temperature,
            eta=config.eta,
        )
        for step in session.steps(save=opened.save, updater=student.updater, scores=payoff):
            rollout = source.draw(policy, step, k=k)
            judged = payoff(rollout, k=k)
            rates = win_rates(judged.table)
            order = rates.argsort(dim=1, descending=True, stable=True)[:, KEPT[config.keep]]
            batch = _round(student, rollout, rates, order, tokens=session.tokens)
            metrics = _seen(rollout, judged, rates, batch, world)
            metrics |= _learn(student, batch, passes, step, source.check)
            run.log(step, {**metrics, **payoff.metrics(), **staleness(rollout, step - 1, world)})
            show_rollout(run, step, rollout, judged.shown())
        return session.finish()


def _round(
    student: Student, rollout: Rollout, rates: Float[Tensor, "P K"], order: Int[Tensor, "P k"], *, tokens: int
) -> SPPORound:
    """The completions to learn from, in this order, with their log-probabilities before the round."""
    groups = [group.take(row) for group, row in zip(rollout.groups, order.tolist(), strict=True)]
    mask = mask_of(groups, rates.device)
    (old,) = logprobs_of((student.policy,), groups, mask, temperature=student.temperature, tokens=tokens)
    k = order.shape[1]
    return SPPORound(
        groups=groups, k=k, win_rate=rates.gather(1, order), old=sequence_sum(old, mask).view(-1, k)
    )


def _seen(
    rollout: Rollout, judged: Judged, rates: Float[Tensor, "P K"], batch: SPPORound, world: World
) -> dict[str, float]:
    """Metrics of what was drawn and what is learned from."""
    metrics, count, kept = Metrics(), len(rollout), batch.win_rate
    if judged.scores is not None:
        metrics.add("score", judged.scores.sum(), len(judged.scores))
    metrics.add("win_rate_spread", rates.std(dim=1, unbiased=False).sum(), len(rates))
    metrics.add("win_rate_kept", (kept[:, 0] - kept[:, -1]).sum(), len(rates))
    metrics.add("length", sum(len(c) for group in rollout.groups for c in group.completions), count)
    metrics.add("ended", sum(map(sum, rollout.ended)), count)
    return metrics.reduce(world)


def _learn(
    student: Student, batch: SPPORound, passes: Passes, step: int, check_start: StartCheck
) -> dict[str, float]:
    """The updates of a round; their metrics."""
    metrics, world = Metrics(), passes.session.world

    def loss(places: list[int]) -> Loss:
        count = world.sum_float(len(places) * batch.k)
        return lambda part: _loss(student, batch, part, [places[g] for g in part.groups], count, metrics)

    def check(result: StepResult) -> None:
        first = metrics.reduce(world)
        # Before any update π is π_t, and the loss is the mean of its targets' squares.
        check_start("sppo", first["sppo_loss"], first["expected"], scale=1 + first["expected"])

    (updates,) = passes.learn(
        [Learner(updater=student.updater, loss=loss)],
        batch.groups,
        shared_places(len(batch.groups), world),
        step=step,
        check=check,
    )
    learned = metrics.reduce(world)
    del learned["expected"]
    return {**updates, **learned}


def _loss(
    student: Student, batch: SPPORound, part: MicroBatch, rows: list[int], count: float, metrics: Metrics
) -> Tensor:
    """This micro-batch's part of the loss."""
    logprobs = student.policy(part.batch, temperature=student.temperature)
    sums = sequence_sum(logprobs, part.batch.completion_mask)
    old, rates = batch.old[rows].flatten(), batch.win_rate[rows].flatten()
    losses = sppo_loss(sums, old, rates, eta=student.eta)
    with torch.no_grad():
        change = (sums - old).view(-1, batch.k)
        metrics.add("sppo_loss", losses.sum(), len(losses))
        metrics.add("expected", sppo_loss(old, old, rates, eta=student.eta).sum(), len(losses))
        metrics.add("log_ratio", change.sum(), len(losses))
        metrics.add("margin", (change[:, 0] - change[:, -1]).sum(), len(change))
    return example_mean(losses, examples=count)
