"""Online DPO (arXiv:2402.04792), and XPO (arXiv:2405.21046): the policy's own pairs, judged as they are drawn.

One step: draw two completions of each prompt (for XPO one from the policy and one from the reference), score them, call the higher one chosen, and
take DPO's step on the pairs. XPO adds alpha log π(y) of the reference's completion y to the loss, which is minimised: probability
is moved away from what the reference already says, towards what has not been tried. Pairs of equal scores say nothing and are left out. What differs from the
papers: log-probabilities of policy and reference are both at the sampling temperature; the judge is a scorer, not a language model.

Logged: score (mean over both completions, as the scorer gave them), score_gap (mean absolute difference), equal (share of pairs that tie), length, ended,
kl (k1 of the policy's own completions, summed over each), kl_distance; of the updates dpo_loss, accuracy, margin, reward_chosen,
reward_rejected, logp_chosen, logp_rejected as in `dpo`; xpo (mean log π of the reference's completions); loss, lr, grad_norm, skipped.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.loop.adaptive import ScoreShaper
from prefloop.loop.learn import Learner, Loss, deal, learn
from prefloop.loop.online import (
    check_sampled,
    mask_of,
    open_scorer,
    put,
    reference_of,
    shown,
    shows_samples,
)
from prefloop.loop.roles import open_policy, parameters_of
from prefloop.loop.session import PromptSource, open_session, read_prompts
from prefloop.losses import (
    dpo_loss,
    example_mean,
    expected_at_start,
    implicit_reward,
    masked_sum,
    pairwise_accuracy,
    sequence_sum,
)
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult, Updater, World
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
    """1 where the reference has drawn the completion (XPO), else 0."""


def train(config: OnlineDPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source = read_prompts(config)
    with open_session(config, source, reference=config.reference, headline=("score", "kl")) as session:
        run, world = session.run, session.world
        opened = open_policy(config.model, session.tokenizer, config.lora, config.compute, run)
        policy = opened.role
        reference = reference_of(config, policy, session.tokenizer, run)
        score, stored = open_scorer(config, session.tokenizer, world)
        shape = ScoreShaper(config.reward, stored=stored, longest=config.sampling.max_new_tokens, world=world)
        source.check_room(policy, reference)
        session.begin()
        updater = session.updater(
            parameters_of(policy, config.optim, name="policy"),
            updates=config.steps * config.epochs * config.minibatches,
        )
        known = session.models.reference_is_start()
        for step in session.steps(save=opened.save, updater=updater, scores=shape):
            rollout = _draw(config, source, policy, reference, step)
            scores = score(rollout)
            pairs, metrics = _compare(
                config, policy, reference, rollout, scores, shape(rollout, scores), world
            )
            if step == 1 and known:
                check_sampled(config, "kl", metrics["kl_distance"], expected_at_start("kl"))
            learned = _learn(config, policy, updater, pairs, step, world, check=step == 1 and known)
            run.log(step, {**metrics, **score.metrics(world), **learned})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(rollout, scores))
        return session.finish()


def _draw(
    config: OnlineDPOConfig, source: PromptSource, policy: Policy, reference: Policy, step: int
) -> Rollout:
    """A step's two completions a prompt: both the policy's, or for XPO the policy's and then the reference's."""
    if not config.xpo_alpha:
        return source.draw(policy, step, k=2)
    others = source.draw(reference, step, k=1, first_key=REFERENCE_KEYS)
    return source.draw(policy, step, k=1).beside(others)


def _compare(
    config: OnlineDPOConfig,
    policy: Policy,
    reference: Policy,
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    shaped: Float[Tensor, " B"],
    world: World,
) -> tuple[Pairs, dict[str, float]]:
    """Which completion of each prompt is better, and the reference's log-probabilities of both; under no_grad."""
    mask = mask_of(rollout.groups, world.device)
    ours, theirs = torch.zeros(mask.shape, device=world.device), torch.zeros(mask.shape, device=world.device)
    temperature = config.sampling.temperature
    with torch.no_grad():
        for part in micro_batches(
            rollout.groups, tokens=config.compute.micro_batch_tokens, device=world.device
        ):
            put(ours, part, policy(part.batch, temperature=temperature))
            put(theirs, part, reference(part.batch, temperature=temperature))
    rows = shaped.view(-1, 2)
    differ = (rows[:, 0] != rows[:, 1]).nonzero().flatten().tolist()
    first_is_chosen = (rows[:, 0] > rows[:, 1]).tolist()
    sums = sequence_sum(theirs, mask).view(-1, 2)
    orders = [(0, 1) if first_is_chosen[i] else (1, 0) for i in differ]
    own_places = [i * world.size + world.rank for i in differ]
    pairs = Pairs(
        groups=[_ordered(rollout.groups[i], order) for i, order in zip(differ, orders, strict=True)],
        places=own_places,
        everyone=sorted(place for part in world.gather_objects(own_places) for place in part),
        reference=torch.stack([sums[i][list(order)] for i, order in zip(differ, orders, strict=True)])
        if differ
        else sums[:0],
        foreign=torch.tensor(orders, dtype=sums.dtype, device=sums.device).view(-1, 2)
        if config.xpo_alpha
        else sums.new_zeros(len(differ), 2),
    )

    metrics = Metrics()
    metrics.add("score", scores.sum(), len(scores))
    metrics.add("score_gap", (scores[0::2] - scores[1::2]).abs().sum(), len(rows))
    metrics.add("equal", len(rows) - len(differ), len(rows))
    metrics.add("length", mask.sum(), len(scores))
    metrics.add("ended", sum(map(sum, rollout.ended)), len(scores))
    of_policy = mask.clone()
    if config.xpo_alpha:
        of_policy[1::2] = False  # the reference has drawn these
    metrics.add("kl", masked_sum(ours - theirs, of_policy), of_policy.any(dim=1).sum())
    metrics.add("kl_distance", masked_sum((ours - theirs).abs(), mask), mask.sum())
    return pairs, metrics.reduce(world)


def _ordered(group: Group, order: tuple[int, int]) -> Group:
    """The group's completions, the chosen one first."""
    return Group(
        prompt=group.prompt,
        completions=tuple(group.completions[j] for j in order),
        masks=tuple(group.masks[j] for j in order),
    )


def _learn(
    config: OnlineDPOConfig,
    policy: Policy,
    updater: Updater,
    pairs: Pairs,
    step: int,
    world: World,
    *,
    check: bool,
) -> dict[str, float]:
    """DPO's updates on the pairs; their metrics. Nothing where every pair ties. `check`: policy and reference are still the same."""
    metrics = Metrics()

    def loss(places: list[int]) -> Loss:
        count = world.sum_float(len(places))
        return lambda part: _loss(
            config, policy, pairs, part, [places[g] for g in part.groups], count, metrics
        )

    def check_first(result: StepResult) -> None:
        if check:
            observed = metrics.reduce(world)["dpo_loss"]
            expected = expected_at_start("dpo", beta=config.beta, label_smoothing=config.label_smoothing)
            check_sampled(config, "dpo", observed, expected)

    (updates,) = learn(
        [Learner(updater=updater, loss=loss)],
        pairs.groups,
        deal(
            pairs.places,
            pairs.everyone,
            minibatches=config.minibatches,
            epochs=config.epochs,
            seed=config.run.seed,
            step=step,
        ),
        tokens=config.compute.micro_batch_tokens,
        world=world,
        check=check_first,
    )
    return {**updates, **metrics.reduce(world)}


def _loss(
    config: OnlineDPOConfig,
    policy: Policy,
    pairs: Pairs,
    part: MicroBatch,
    rows: list[int],
    count: float,
    metrics: Metrics,
) -> Tensor:
    """This micro-batch's part of the loss."""
    logprobs = policy(part.batch, temperature=config.sampling.temperature)
    sums = sequence_sum(logprobs, part.batch.completion_mask).view(-1, 2)
    reference, foreign = pairs.reference[rows], pairs.foreign[rows]
    losses = dpo_loss(
        *sums.unbind(1), *reference.unbind(1), beta=config.beta, label_smoothing=config.label_smoothing
    )
    n = len(rows)
    with torch.no_grad():
        chosen, rejected = implicit_reward(sums, reference, beta=config.beta).unbind(1)
        metrics.add("dpo_loss", losses.sum(), n)
        metrics.add("accuracy", pairwise_accuracy(chosen, rejected).sum(), n)
        metrics.add("margin", (chosen - rejected).sum(), n)
        metrics.add("reward_chosen", chosen.sum(), n)
        metrics.add("reward_rejected", rejected.sum(), n)
        metrics.add("logp_chosen", sums[:, 0].sum(), n)
        metrics.add("logp_rejected", sums[:, 1].sum(), n)
    if config.xpo_alpha:
        of_reference = (sums * foreign).sum(1)
        metrics.add("xpo", of_reference.detach().sum(), n)
        losses = losses + config.xpo_alpha * of_reference
    return example_mean(losses, examples=count)
