"""Supervised fine-tuning: cross-entropy on completion tokens, the stop token included; prompts are context only.

The mean is over all trained tokens of the batch, not a mean of each conversation's or micro-batch's mean.

Logged: loss (mean negative log-likelihood per trained token, in nats), tokens (trained ones in the step), lr, grad_norm, skipped; with `l1`
changed (share of the weights that are not what they were at the start); and on held-out conversations heldout_loss and heldout_perplexity.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prefloop.configs.sft import SFTConfig
from prefloop.loop.batches import Batches
from prefloop.loop.inputs import demonstrations, store_of
from prefloop.loop.learn import Loss, update
from prefloop.loop.provenance import models_read
from prefloop.loop.roles import check_room, open_policy, parameters_of
from prefloop.loop.session import open_run
from prefloop.loop.shown import show_completions
from prefloop.losses import mean_over, sum_and_count
from prefloop.models.load import load_policy
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.runtime import Metrics, ParameterGroup, Updater, World, start_world
from prefloop.runtime.optim import named
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group


def train(config: SFTConfig) -> Path:
    """Fine-tune and return the folder of the finished model."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    inputs = demonstrations(config.data, tokenizer, store_of(config.run.out, config.run.store), world)
    models = models_read(world, model=config.model)
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    with open_run(
        config,
        stage="sft",
        world=world,
        tokenizer=tokenizer,
        reads={"data": inputs.read},
        models=models,
        steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
        headline=("loss", "heldout_loss", "grad_norm"),
    ) as session:
        run, tokens = session.run, config.compute.micro_batch_tokens
        opened = open_policy(config.model, tokenizer, config.lora, config.compute, run)
        check_room(opened.role, inputs.train, inputs.heldout)
        session.begin()
        policy = opened.role
        trained = parameters_of(policy, config.optim, name="policy")
        start = _start(config, trained, resumed=bool(run.start))
        updater = session.updater(trained, updates=run.total_steps)

        for step in session.steps(save=opened.save, updater=updater):
            groups = world.share(batches.pick(inputs.train.groups, step))
            metrics = likelihood_step(updater, policy, groups, tokens=tokens, world=world)
            if config.l1 and not metrics["skipped"]:
                metrics["changed"] = updater.pull_back(start, by=config.l1 * metrics["lr"])
            if session.due(step, config.eval_every):
                metrics |= likelihood_metrics(policy, inputs.heldout.groups, tokens=tokens, world=world)
                shown = inputs.heldout.groups or inputs.train.groups
                show_completions(run, step, policy, tokenizer, shown, beside="demonstration")
            run.log(step, metrics)
        return session.finish()


def _start(config: SFTConfig, trained: ParameterGroup, *, resumed: bool) -> dict[str, Tensor]:
    """The weights that `l1` pulls back to, by the updater's names; none where it is off."""
    if not config.l1:
        return {}
    origin = (
        parameters_of(load_policy(config.model, config.compute), config.optim, name=trained.name)
        if resumed
        else trained
    )
    return {name: parameter.detach().clone() for name, parameter in named([origin])}


def likelihood_step(
    updater: Updater, policy: Policy, groups: Sequence[Group], *, tokens: int, world: World
) -> dict[str, float]:
    """One update that raises the likelihood of this process's share of a batch; its metrics."""
    loss, count = likelihood_loss(policy, groups, world)
    result = update(updater, groups, loss, tokens=tokens, world=world)
    return {**result.metrics(), "tokens": count}


def likelihood_loss(policy: Policy, groups: Sequence[Group], world: World) -> tuple[Loss, float]:
    """Negative log-likelihood per trained token of all processes' groups, as a loss of their micro-batches; and how many tokens those are."""
    count = world.sum_float(trained_tokens(groups))

    def loss(part: MicroBatch) -> Tensor:
        return mean_over(-policy(part.batch), part.batch.completion_mask, count=count)

    return loss, count


def trained_tokens(groups: Sequence[Group]) -> int:
    """Tokens under the masks."""
    return sum(sum(mask) for group in groups for mask in group.masks)


def likelihood_metrics(
    policy: Policy, groups: Sequence[Group], *, tokens: int, world: World
) -> dict[str, float]:
    """Mean negative log-likelihood per trained token of held-out groups, and its exponential; nothing where nothing is held out."""
    if not groups:
        return {}
    metrics = Metrics()
    with torch.no_grad():
        for part in micro_batches(world.share(groups), tokens=tokens, device=world.device):
            metrics.add("heldout_loss", *sum_and_count(-policy(part.batch), part.batch.completion_mask))
    loss = metrics.reduce(world)["heldout_loss"]
    return {"heldout_loss": loss, "heldout_perplexity": math.exp(min(loss, 700.0))}
