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

from prefloop.algorithms.sft import trained_tokens
from prefloop.configs.ilql import ILQLConfig
from prefloop.errors import InputError
from prefloop.loop.batches import Batches
from prefloop.loop.inputs import Examples, examples, store_of
from prefloop.loop.learn import update
from prefloop.loop.provenance import models_read
from prefloop.loop.roles import check_room, open_policy, parameters_of
from prefloop.loop.session import open_run
from prefloop.loop.shown import show_completions
from prefloop.losses import check_start, mean_over, shape_rewards, sum_and_count
from prefloop.losses.ilql import expectile_loss, likelihood_weights, td_loss, td_targets
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.q_heads import FOLDER, QHeads, load_q_heads
from prefloop.models.roles import Policy, scatter_tokens, vocabulary_size
from prefloop.records import Score
from prefloop.runtime import Metrics, ParameterGroup, Run, Updater, World, start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Completions as tokens, each with its reward, and where each stands in the list."""

    groups: list[Group]
    rewards: Float[Tensor, " B"]

    def take(self, places: Sequence[int]) -> "Scored":
        """Some of them."""
        return Scored(groups=[self.groups[i] for i in places], rewards=self.rewards[list(places)])


def train(config: ILQLConfig) -> Path:
    """Train and return the folder of the finished policy, its heads in `ilql` beside it."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    store = store_of(config.run.out, config.run.store)
    inputs = examples("scores", config.data, tokenizer, store, world)
    models = models_read(world, model=config.model)
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    with open_run(
        config,
        stage=config.STAGE,
        world=world,
        tokenizer=tokenizer,
        reads={"data": inputs.read},
        models=models,
        steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
        headline=("td_loss", "v_loss", "nll"),
    ) as session:
        run = session.run
        opened = open_policy(config.model, tokenizer, config.lora, config.compute, run)
        policy = opened.role
        check_room(policy, inputs.train, inputs.heldout)
        session.begin()
        heads = _open_heads(config, policy, run)
        scored, heldout = scored_parts(config, inputs.train, inputs.heldout, world)
        updater = session.updater(
            parameters_of(policy, config.optim, name="policy"),
            ParameterGroup.of(heads, config.heads_optim, name="heads"),
            updates=run.total_steps,
        )

        def save(folder: Path) -> None:
            opened.save(folder)
            heads.save(folder / FOLDER)

        for step in session.steps(save=save, updater=updater):
            own = scored.take(world.share(batches.at(step)))
            metrics = _learn(config, policy, heads, updater, own, world, first=step == 1)
            if session.due(step, config.eval_every):
                metrics |= _heldout(config, policy, heads, heldout, world)
                shown = heldout.groups or scored.groups
                show_completions(run, step, policy, tokenizer, shown, beside="scored")
            run.log(step, metrics)
        return session.finish()


def _open_heads(config: ILQLConfig, policy: Policy, run: Run) -> QHeads:
    """Fresh heads, or those of the checkpoint the run goes on from."""
    if not policy.linear_head:
        raise InputError(
            f"{config.model} has a head that is more than a linear layer, which decoding with Q heads does not know; take another model"
        )
    if run.start:
        return load_q_heads(Path(run.source("")), policy.device)
    width = policy.head().weight.shape[1]
    return QHeads(width, vocabulary_size(policy), seed=config.run.seed).to(policy.device)


def scored_parts(
    config: ILQLConfig, train: Examples[Score], heldout: Examples[Score], world: World
) -> tuple[Scored, Scored]:
    """Both parts with their rewards: the scores, or with `whiten_scores` those by the training part's moments."""
    scores = torch.tensor([record.value for record in train.records], dtype=torch.float64)
    mean, std = (
        (scores.mean().item(), scores.std(unbiased=False).item()) if config.whiten_scores else (0.0, 1.0)
    )
    if std < 1e-8:
        raise InputError(
            f"{config.data.source}: all {len(scores)} scores are {mean:g}, so no token is better than another; give completions of different scores"
        )

    def part(some: Examples[Score]) -> Scored:
        raw = torch.tensor([record.value for record in some.records], dtype=torch.float64)
        return Scored(groups=some.groups, rewards=((raw - mean) / std).float().to(world.device))

    return part(train), part(heldout)


def _learn(
    config: ILQLConfig,
    policy: Policy,
    heads: QHeads,
    updater: Updater,
    own: Scored,
    world: World,
    *,
    first: bool,
) -> dict[str, float]:
    """One update of policy and heads on this process's share of a batch, then of the target heads; its metrics."""
    metrics = Metrics()
    tokens = world.sum_float(trained_tokens(own.groups))

    def loss(part: MicroBatch) -> Tensor:
        return loss_of(config, policy, heads, part, own.rewards[part.rows], tokens, metrics)

    result = update(updater, own.groups, loss, tokens=config.compute.micro_batch_tokens, world=world)
    if updater.steps % config.target_every == 0 and not result.skipped:
        heads.follow(config.target_rate)
    learned = metrics.reduce(world)
    if first:
        uniform = 2 * torch.log(torch.tensor(float(heads.vocabulary))).item()
        check_start(
            "cql", learned["cql"], uniform, 1e-3, way_out="the Q heads do not begin at zero: please report it"
        )
    return {**result.metrics(), **learned}


def loss_of(
    config: ILQLConfig,
    policy: Policy,
    heads: QHeads,
    part: MicroBatch,
    rewards: Float[Tensor, " b"],
    tokens: float,
    metrics: Metrics,
) -> Tensor:
    """This micro-batch's part of the loss, `tokens` being those of the whole step."""
    batch, mask = part.batch, part.batch.completion_mask
    hidden = policy.hidden(batch)
    logprobs = scatter_tokens(policy.statistics_of(hidden, batch).logprobs, batch)
    values = scatter_tokens(heads.values(hidden), batch)
    (q_one, surprise_one), (q_two, surprise_two) = heads.chosen(hidden, batch.targets)
    target_q = scatter_tokens(heads.target_chosen(hidden, batch.targets), batch)
    targets = td_targets(
        shape_rewards(rewards, torch.zeros_like(values), mask, kl_coef=0.0),
        values.detach(),
        mask,
        gamma=config.gamma,
    )
    td = sum(td_loss(scatter_tokens(q, batch), targets) for q in (q_one, q_two))
    assert isinstance(td, Tensor)
    expectile = expectile_loss(values, target_q, tau=config.tau)
    surprise = scatter_tokens(surprise_one + surprise_two, batch)
    advantages = (target_q - values).detach()
    weights = likelihood_weights(target_q, values.detach(), beta=config.advantage_weight)
    total = mean_over(td + expectile, mask, count=tokens)
    if config.cql_coef:
        total = total + config.cql_coef * mean_over(surprise, mask, count=tokens)
    if config.likelihood_coef:
        total = total - config.likelihood_coef * mean_over(weights * logprobs, mask, count=tokens)

    with torch.no_grad():
        is_last = mask.clone()
        is_last[:, :-1] &= ~mask[:, 1:]
        seen = {"td_loss": td, "v_loss": expectile, "cql": surprise, "nll": -logprobs}
        seen |= {"q": target_q, "v": values, "advantage": advantages}
        for name, numbers in seen.items():
            metrics.add(name, *sum_and_count(numbers, mask))
        metrics.add("gain", *sum_and_count(advantages, is_last))
    return total


def _heldout(
    config: ILQLConfig, policy: Policy, heads: QHeads, heldout: Scored, world: World
) -> dict[str, float]:
    """The same metrics of held-out completions; nothing where there are none."""
    if not heldout.groups:
        return {}
    own, metrics = heldout.take(world.share(range(len(heldout.groups)))), Metrics()
    with torch.no_grad():
        for part in micro_batches(own.groups, tokens=config.compute.micro_batch_tokens, device=world.device):
            loss_of(config, policy, heads, part, own.rewards[part.rows], 1.0, metrics)
    return {f"heldout_{name}": value for name, value in metrics.reduce(world).items()}
