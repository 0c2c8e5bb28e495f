"""Implicit language Q-learning (arXiv:2206.11871): reinforcement learning from completions that are there already, each with a score.

On the policy's hidden states stand two Q heads, slowly moving copies of both, and a V head. One step, over a batch of the data: V regresses to an upper
expectile of the target heads' Q over the tokens that the data has; both Q heads regress to r_t + γ V of the next state; a conservative term (the
cross-entropy of softmax(Q)) keeps Q of other tokens down; the policy itself is trained by likelihood. Completions are then drawn from
log π + β (min Q - V) (`prefloop sample --ilql_beta`). What differs from the paper: heads begin at zero; means are over the tokens of the whole step.

Logged, means over tokens: loss, td_loss (of both Q heads together), v_loss, cql (cross-entropy of the data's tokens under softmax(Q), both heads together; 2 log of
the vocabulary at the start), nll (of the policy, per token), q, v, advantage (min target Q - V), gain (advantage of the last token); and the same
of held-out completions as heldout_*; lr/policy, lr/heads, grad_norm, skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.ilql import ILQLConfig
from prefloop.errors import InputError
from prefloop.loop.inputs import Examples, examples
from prefloop.loop.learn import update
from prefloop.loop.likelihood import trained_tokens
from prefloop.loop.provenance import models_read
from prefloop.loop.reading import open_reader
from prefloop.loop.roles import check_room, open_policy, parameters_of, shard_q_heads, shard_roles
from prefloop.loop.session import Session, open_training
from prefloop.loop.shown import show_completions
from prefloop.losses import check_start, mean_over, shape_rewards, sum_and_count
from prefloop.losses.ilql import expectile_loss, likelihood_weights, td_loss, td_targets
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.q_heads import FOLDER, QHeads, load_q_heads
from prefloop.models.roles import Policy, scatter_tokens, vocabulary_size
from prefloop.records import Score
from prefloop.runtime import Metrics, ParameterGroup, Updater
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarded:
    """Completions as tokens, each with its reward, and where each stands in the list."""

    groups: list[Group]
    rewards: Float[Tensor, " B"]

    def take(self, places: Sequence[int]) -> "Rewarded":
        """Some of them."""
        return Rewarded(groups=[self.groups[i] for i in places], rewards=self.rewards[list(places)])


@dataclass(frozen=True, kw_only=True, slots=True)
class ILQLLoss:
    """Numbers of the loss."""

    gamma: float
    tau: float
    """Expectile of V."""
    advantage_weight: float
    """Of the likelihood's weight by advantage."""
    cql_coef: float
    likelihood_coef: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyWithHeads:
    """Policy and heads, and what they learn by."""

    policy: Policy
    heads: QHeads
    objective: ILQLLoss


def train(config: ILQLConfig) -> Path:
    """Train and return the folder of the finished policy, its heads in `ilql` beside it."""
    reader = open_reader(config.run, config.compute, config.model)
    world, tokenizer = reader.world, reader.tokenizer
    inputs = examples("scores", config.data, reader)
    models, headline = models_read(world, model=config.model), ("td_loss", "v_loss", "nll")
    with open_training(config, reader, inputs, stage=config.STAGE, models=models, headline=headline) as (
        session,
        batches,
    ):
        run, every = session.run, config.eval_every
        opened = open_policy(session, config.model, config.lora)
        policy = opened.role
        if has_encoder(policy.model.config):
            raise InputError(
                f"model {config.model!r} is an encoder-decoder, which Q heads cannot steer; name a causal language model"
            )
        check_room(policy, inputs.train, inputs.heldout)
        heads = _open_heads(policy, session, config.model)
        shard_roles(session, policy)
        shard_q_heads(session, heads)
        session.begin()
        learner = PolicyWithHeads(
            policy=policy,
            heads=heads,
            objective=ILQLLoss(
                gamma=config.gamma,
                tau=config.tau,
                advantage_weight=config.advantage_weight,
                cql_coef=config.cql_coef,
                likelihood_coef=config.likelihood_coef,
            ),
        )
        moments = score_moments(inputs.train, config.data.source) if config.whiten_scores else (0.0, 1.0)
        scored, heldout = (
            scored_part(part, *moments, device=world.device) for part in (inputs.train, inputs.heldout)
        )
        updater = session.updater(
            parameters_of(policy, config.optim, name="policy"),
            ParameterGroup.of(heads, config.heads_optim, name="heads"),
            updates=run.total_steps,
        )

        def save(folder: Path) -> None:
            opened.save(folder)
            heads.save(folder / FOLDER)

        follow_every = config.target_every
        for step in session.steps(save=save, updater=updater):
            own = scored.take(world.share(batches.at(step)))
            metrics = _learn(learner, updater, own, session)
            if step == 1:
                _check_start(metrics["cql"], heads)
            if updater.steps % follow_every == 0 and not metrics["skipped"]:
                heads.follow(config.target_rate)
            if session.due(step, every):
                metrics |= _heldout(learner, heldout, session)
                shown = heldout.groups or scored.groups
                show_completions(run, step, policy, tokenizer, shown, beside="scored")
            run.log(step, metrics)
        return session.finish()


def _open_heads(policy: Policy, session: Session, model: str) -> QHeads:
    """Fresh heads, or those of the checkpoint that the run resumes from."""
    if not policy.linear_head:
        raise InputError(
            f"{model} has a head that is more than a linear layer, which decoding with Q heads does not support; use another model"
        )
    if session.run.start:
        return load_q_heads(Path(session.run.source("")), policy.device)
    width = policy.head().weight.shape[1]
    return QHeads(width, vocabulary_size(policy), seed=session.settings.seed).to(policy.device)


def score_moments(train: Examples[Score], source: str) -> tuple[float, float]:
    """Mean and standard deviation of the scores. Raises `InputError` if all are equal."""
    scores = torch.tensor([record.value for record in train.records], dtype=torch.float64)
    mean, std = scores.mean().item(), scores.std(unbiased=False).item()
    if std < 1e-8:
        raise InputError(
            f"{source}: all {len(scores)} scores are {mean:g}, so no token is better than another; give completions of different scores"
        )
    return mean, std


def scored_part(some: Examples[Score], mean: float, std: float, *, device: torch.device) -> Rewarded:
    """Examples with their rewards: the scores by these moments."""
    raw = torch.tensor([record.value for record in some.records], dtype=torch.float64)
    return Rewarded(groups=some.groups, rewards=((raw - mean) / std).float().to(device))


def _learn(learner: PolicyWithHeads, updater: Updater, own: Rewarded, session: Session) -> dict[str, float]:
    """One update of policy and heads on this process's share of a batch; its metrics."""
    metrics, world = Metrics(), session.world
    tokens = world.sum_float(trained_tokens(own.groups))

    def loss(part: MicroBatch) -> Tensor:
        return loss_of(learner, part, own.rewards[part.rows], tokens, metrics)

    result = update(updater, own.groups, loss, tokens=session.tokens, world=world)
    return {**result.metrics(), **metrics.reduce(world)}


def _check_start(cql: float, heads: QHeads) -> None:
    uniform = 2 * torch.log(torch.tensor(float(heads.vocabulary))).item()
    way_out = "the Q heads do not begin at zero: please report it"
    check_start("cql", cql, uniform, 1e-3, way_out=way_out)


def loss_of(
    learner: PolicyWithHeads, part: MicroBatch, rewards: Float[Tensor, " b"], tokens: float, metrics: Metrics
) -> Tensor:
    """This micro-batch's part of the loss, `tokens` being those of the whole step."""
    policy, heads, objective = learner.policy, learner.heads, learner.objective
    batch, mask = part.batch, part.batch.completion_mask
    hidden = policy.hidden(batch)
    logprobs = scatter_tokens(policy.statistics_of(hidden, batch).logprobs, batch)
    read = heads.read(hidden, batch.targets)
    values, target_q, surprise = (
        scatter_tokens(numbers, batch) for numbers in (read.values, read.target_q, read.surprise)
    )
    targets = td_targets(
        shape_rewards(rewards, torch.zeros_like(values), mask, kl_coef=0.0),
        values.detach(),
        mask,
        gamma=objective.gamma,
    )
    td = sum(td_loss(scatter_tokens(q, batch), targets) for q in read.q)
    assert isinstance(td, Tensor)
    expectile = expectile_loss(values, target_q, tau=objective.tau)
    advantages = (target_q - values).detach()
    weights = likelihood_weights(target_q, values.detach(), beta=objective.advantage_weight)
    total = mean_over(td + expectile, mask, count=tokens)
    if objective.cql_coef:
        total = total + objective.cql_coef * mean_over(surprise, mask, count=tokens)
    if objective.likelihood_coef:
        total = total - objective.likelihood_coef * mean_over(weights * logprobs, mask, count=tokens)

    with torch.no_grad():
        is_last = mask.clone()
        is_last[:, :-1] &= ~mask[:, 1:]
        seen = {"td_loss": td, "v_loss": expectile, "cql": surprise, "nll": -logprobs}
        seen |= {"q": target_q, "v": values, "advantage": advantages}
        for name, numbers in seen.items():
            metrics.add(name, *sum_and_count(numbers, mask))
        metrics.add("gain", *sum_and_count(advantages, is_last))
    return total


def _heldout(learner: PolicyWithHeads, heldout: Rewarded, session: Session) -> dict[str, float]:
    """The same metrics of held-out completions; nothing if there are none."""
    if not heldout.groups:
        return {}
    world, metrics = session.world, Metrics()
    own = heldout.take(world.share(range(len(heldout.groups))))
    with torch.no_grad():
        for part in in_step(micro_batches(own.groups, tokens=session.tokens, device=world.device)):
            loss_of(learner, part, own.rewards[part.rows], 1.0, metrics)
    return {f"heldout_{name}": value for name, value in metrics.reduce(world).items()}
