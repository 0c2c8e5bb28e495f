"""Online DPO (arXiv:2402.04792), and XPO (arXiv:2405.21046): the policy's own pairs, judged as they are drawn.

One step: draw two completions of each prompt (for XPO one from the policy and one from the reference), score them, call the higher one chosen, and
take DPO's step on the pairs. XPO adds alpha log π(y) of the reference's completion y to the loss, which is minimised: probability
is moved away from what the reference already says, towards what has not been tried. Pairs of equal scores say nothing and are left out. What differs from the
papers: log-probabilities of policy and reference are both at the sampling temperature; the judge is a scorer, not a language model.

Logged: score (mean over both completions, as the scorer gave them), score_gap (mean absolute difference), equal (share of pairs that tie), length, ended,
kl (k1 of the policy's own completions, summed over each), kl_distance; of the updates dpo_loss, accuracy, margin, reward_chosen,
reward_rejected, logp_chosen, logp_rejected as in `dpo`; xpo (mean log π of the reference's completions); loss, lr, grad_norm, skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.loop.learn import Learner, Loss
from prefloop.loop.online import Online, open_online
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import staleness
from prefloop.loop.tensors import logprobs_of, mask_of
from prefloop.losses import (
    dpo_loss,
    example_mean,
    expected_at_start,
    implicit_reward,
    masked_sum,
    pairwise_accuracy,
    sequence_sum,
)
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult, World
from prefloop.text.groups import Group

REFERENCE_KEYS = 1 << 62
"""Added to a prompt's key for the completion that the reference draws, so that no two draws have one name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """This process's pairs of a step; those that tie are not among them."""

    groups: list[Group]
    """Chosen and rejected completion of each prompt."""
    places: list[int]
    """Where each prompt stands in the step."""
    everyone: list[int]
    """Places of the pairs of all processes, in order."""
    reference: Float[Tensor, "P 2"]
    """Reference log-probabilities of chosen and rejected, summed over tokens."""
    foreign: Float[Tensor, "P 2"]
    """1 if the reference has drawn the completion (XPO), else 0."""

    def at(
        self, places: Sequence[int], part: MicroBatch
    ) -> tuple[Float[Tensor, "p 2"], Float[Tensor, "p 2"]]:
        """`reference` and `foreign` of a micro-batch of the minibatch at these places."""
        rows = [places[g] for g in part.groups]
        return self.reference[rows], self.foreign[rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLoss:
    """DPO's loss, and XPO's with `xpo_alpha` above 0."""

    beta: float
    label_smoothing: float
    xpo_alpha: float
    temperature: float


def train(config: OnlineDPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    xpo = config.xpo_alpha > 0
    with open_online(config, headline=("score", "kl")) as online:
        session, source, policy, reference = online.session, online.source, online.policy, online.reference
        run, world = session.run, session.world
        objective = PairLoss(
            beta=config.beta,
            label_smoothing=config.label_smoothing,
            xpo_alpha=config.xpo_alpha,
            temperature=config.sampling.temperature,
        )
        for step in online.steps():
            rollout = source.draw(policy, step, k=1 if xpo else 2)
            if xpo:
                rollout = rollout.beside(source.draw(reference, step, k=1, first_key=REFERENCE_KEYS))
            scores = online.score(rollout)
            mask = mask_of(rollout.groups, world.device)
            ours, theirs = logprobs_of(
                (policy, reference),
                rollout.groups,
                mask,
                temperature=objective.temperature,
                tokens=session.tokens,
            )
            shaped = online.shape(rollout, scores)
            pairs = _compare(rollout, shaped, sequence_sum(theirs, mask), world, xpo=xpo)
            metrics = _seen(rollout, scores, len(pairs.groups), ours - theirs, mask, world, xpo=xpo)
            known = step == 1 and session.models.reference_is_start()
            if known:
                source.check("kl", metrics["kl_distance"])
            metrics |= online.score.metrics(world) | staleness(rollout, step - 1, world) | source.metrics()
            metrics |= _learn(objective, online, pairs, step, check_start=known)
            run.log(step, metrics)
            show_rollout(run, step, rollout, scores)
        return session.finish()


def _compare(
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    reference: Float[Tensor, " B"],
    world: World,
    *,
    xpo: bool,
) -> Pairs:
    """Which completion of each prompt is better, by their scores; `reference` are the reference's log-probabilities, `xpo` says that it drew each second one."""
    rows, sums = scores.view(-1, 2), reference.view(-1, 2)
    differ = (rows[:, 0] != rows[:, 1]).nonzero().flatten().tolist()
    first_is_chosen = (rows[:, 0] > rows[:, 1]).tolist()
    orders = [(0, 1) if first_is_chosen[i] else (1, 0) for i in differ]
    places = [i * world.size + world.rank for i in differ]
    order = torch.tensor(orders, dtype=torch.long, device=sums.device).view(-1, 2)
    return Pairs(
        groups=[rollout.groups[i].take(order) for i, order in zip(differ, orders, strict=True)],
        places=places,
        everyone=sorted(place for part in world.gather_objects(places) for place in part),
        reference=sums[differ].gather(1, order),
        foreign=(order == 1).to(sums.dtype) * xpo,
    )


def _seen(
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    pairs: int,
    log_ratios: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    world: World,
    *,
    xpo: bool,
) -> dict[str, float]:
    """Metrics of what was drawn; `pairs` of this process's did not tie."""
    metrics, count = Metrics(), len(rollout.groups)
    metrics.add("score", scores.sum(), len(scores))
    metrics.add("score_gap", (scores[0::2] - scores[1::2]).abs().sum(), count)
    metrics.add("equal", count - pairs, count)
    metrics.add("length", mask.sum(), len(scores))
    metrics.add("ended", sum(map(sum, rollout.ended)), len(scores))
    of_policy = mask.clone()
    if xpo:
        of_policy[1::2] = False  # the reference has drawn these
    metrics.add("kl", masked_sum(log_ratios, of_policy), of_policy.any(dim=1).sum())
    metrics.add("kl_distance", masked_sum(log_ratios.abs(), mask), mask.sum())
    return metrics.reduce(world)


def _learn(
    objective: PairLoss, online: Online, pairs: Pairs, step: int, *, check_start: bool
) -> dict[str, float]:
    """The updates on the pairs; their metrics. Nothing where every pair ties. `check_start` says that policy and reference are still the same."""
    metrics, world, policy = Metrics(), online.session.world, online.policy

    def loss(places: list[int]) -> Loss:
        count = world.sum_float(len(places))
        return lambda part: _loss(objective, policy, pairs.at(places, part), part, count, metrics)

    def check(result: StepResult) -> None:
        if check_start:
            at_start = expected_at_start(
                "dpo", beta=objective.beta, label_smoothing=objective.label_smoothing
            )
            online.source.check("dpo", metrics.reduce(world)["dpo_loss"], at_start)

    (updates,) = online.passes.learn(
        [Learner(updater=online.updater, loss=loss)],
        pairs.groups,
        (pairs.places, pairs.everyone),
        step=step,
        check=check,
    )
    return {**updates, **metrics.reduce(world)}


def _loss(
    objective: PairLoss,
    policy: Policy,
    drawn: tuple[Tensor, Tensor],
    part: MicroBatch,
    count: float,
    metrics: Metrics,
) -> Tensor:
    """This micro-batch's part of the loss; `drawn` are its rows of `Pairs.reference` and `Pairs.foreign`."""
    logprobs = policy(part.batch, temperature=objective.temperature)
    sums = sequence_sum(logprobs, part.batch.completion_mask).view(-1, 2)
    reference, foreign = drawn
    losses = dpo_loss(
        *sums.unbind(1),
        *reference.unbind(1),
        beta=objective.beta,
        label_smoothing=objective.label_smoothing,
    )
    n = len(sums)
    with torch.no_grad():
        chosen, rejected = implicit_reward(sums, reference, beta=objective.beta).unbind(1)
        metrics.add("dpo_loss", losses.sum(), n)
        metrics.add("accuracy", pairwise_accuracy(chosen, rejected).sum(), n)
        metrics.add("margin", (chosen - rejected).sum(), n)
        metrics.add("reward_chosen", chosen.sum(), n)
        metrics.add("reward_rejected", rejected.sum(), n)
        metrics.add("logp_chosen", sums[:, 0].sum(), n)
        metrics.add("logp_rejected", sums[:, 1].sum(), n)
    if objective.xpo_alpha:
        of_reference = (sums * foreign).sum(1)
        metrics.add("xpo", of_reference.detach().sum(), n)
        losses = losses + objective.xpo_alpha * of_reference
    return example_mean(losses, examples=count)
