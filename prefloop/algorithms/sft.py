"""Supervised fine-tuning: cross-entropy on completion tokens, the stop token included; prompts are context only.

The mean is over all trained tokens of the batch, not a mean of each conversation's or micro-batch's mean.

Logged: loss (mean negative log-likelihood per trained token, in nats), tokens (trained ones in the step), lr, grad_norm, skipped; with `l1`
changed (share of the weights that are not what they were at the start); and on held-out conversations heldout_loss and heldout_perplexity.
"""

from pathlib import Path

from torch import Tensor

from prefloop.configs.sft import SFTConfig
from prefloop.loop.inputs import demonstrations
from prefloop.loop.likelihood import likelihood_metrics, likelihood_step
from prefloop.loop.provenance import models_read
from prefloop.loop.reading import open_reader
from prefloop.loop.roles import check_room, open_policy, parameters_of, shard_roles
from prefloop.loop.session import Session, open_training
from prefloop.loop.shown import show_completions
from prefloop.models.load import load_policy
from prefloop.runtime import ParameterGroup
from prefloop.runtime.optim import named


def train(config: SFTConfig) -> Path:
    """Fine-tune and return the folder of the finished model."""
    reader = open_reader(config.run, config.compute, config.model)
    tokenizer, world = reader.tokenizer, reader.world
    inputs = demonstrations(config.data, tokenizer, reader.store, world)
    models, headline = models_read(world, model=config.model), ("loss", "heldout_loss", "grad_norm")
    with open_training(config, reader, inputs, stage="sft", models=models, headline=headline) as (
        session,
        batches,
    ):
        run, tokens = session.run, session.tokens
        opened = open_policy(session, config.model, config.lora)
        check_room(opened.role, inputs.train, inputs.heldout)
        session.begin()
        policy = opened.role
        shard_roles(session, policy)
        trained = parameters_of(policy, config.optim, name="policy")
        l1, every = config.l1, config.eval_every
        start = _start(session, config.model, trained) if l1 else {}
        updater = session.updater(trained, updates=run.total_steps)

        for step in session.steps(save=opened.save, updater=updater):
            groups = world.share(batches.pick(inputs.train.groups, step))
            metrics = likelihood_step(updater, policy, groups, tokens=tokens, world=world)
            if l1 and not metrics["skipped"]:
                metrics["changed"] = updater.pull_back(start, by=l1 * metrics["lr"])
            if session.due(step, every):
                metrics |= likelihood_metrics(policy, inputs.heldout.groups, tokens=tokens, world=world)
                shown = inputs.heldout.groups or inputs.train.groups
                show_completions(run, step, policy, tokenizer, shown, beside="demonstration")
            run.log(step, metrics)
        return session.finish()


def _start(session: Session, model: str, trained: ParameterGroup) -> dict[str, Tensor]:
    """The weights that `l1` pulls back to, by the updater's names."""
    origin = (
        parameters_of(load_policy(model, session.compute), trained.optim, name=trained.name)
        if session.run.start
        else trained
    )
    return {name: parameter.detach().clone() for name, parameter in named([origin])}
