"""A reward model: from comparisons (Bradley-Terry, section 3.2 of arXiv:2009.01325 and arXiv:2203.02155), rankings, labels, scores or steps.

The score is read at the last token of each completion; `token_level` and `outcome` train it at every token and are read at the last, `segments`
is the sum over tokens, `process` is read where steps end. One epoch by default: a second one overfits. After training, mean and standard
deviation of scores on completions are stored with the model, and on request what length explains of them; the saved head itself stays as it is.

Logged: loss; of comparisons and rankings accuracy (ties count half; of rankings over all pairs) and margin (better minus worse score); of labels
accuracy (score above 0 for good; of steps, over all steps); of scores error (mean squared; of ordinal that of the expected rating, and accuracy: the
likeliest level is the right one); score (mean of all); lr, grad_norm, skipped; length_slope (with length_residual, at the end); and on held-out prompts
heldout_loss (without margin, smoothing or centring) and heldout_accuracy or heldout_error. `prefloop.evaluation` gives the accuracy its interval, calibration and more.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefloop.configs.reward import RewardConfig
from prefloop.data.load import is_strict
from prefloop.loop.inputs import Examples, examples, refuse_no_margins, refuse_one_kind, refuse_soft_labels
from prefloop.loop.learn import update
from prefloop.loop.ordinal import Thresholds
from prefloop.loop.provenance import models_read
from prefloop.loop.reading import open_reader
from prefloop.loop.reward_step import LOSSES, USABLE, Loss, Scored, add_metrics, scored, training_loss
from prefloop.loop.roles import check_room, open_reward_model, parameters_of, shard_roles
from prefloop.loop.session import Kept, Session, open_training
from prefloop.loop.shown import show_scores
from prefloop.losses import example_mean
from prefloop.losses.reward_model import REWARD_LOSSES
from prefloop.losses.rewards import length_slope, residual_scores
from prefloop.models.load import set_reading, set_reward_moments, set_thresholds
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Reading, RewardModel
from prefloop.records import Score
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import Metrics, ParameterGroup, Updater
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group

SMALLEST_STD = 1e-6
"""Scores that do not vary are not divided by zero."""


def train(config: RewardConfig) -> Path:
    """Train and return the folder of the finished reward model."""
    name, spec = config.loss, REWARD_LOSSES[config.loss]
    reader = open_reader(config.run, config.compute, config.model)
    inputs = examples(
        spec.data,
        config.data,
        reader,
        swap_contexts=config.swap_contexts,
        step_separator=config.step_separator,
        usable=USABLE.get(name, is_strict),
    )
    refuse_one_kind(inputs, f"loss {name}")
    if name != "bradley_terry":
        refuse_soft_labels(inputs, f"loss {name}", "use bradley_terry")
    if config.margin:
        refuse_no_margins(inputs)
    models = models_read(reader.world, model=config.model)
    headline = ("loss", "error" if spec.data == "scores" else "accuracy")
    with open_training(config, reader, inputs, stage="reward", models=models, headline=headline) as (
        session,
        batches,
    ):
        run, world, every = session.run, session.world, config.eval_every
        opened = open_reward_model(session, config.model, config.lora, keep_head=config.keep_head)
        check_room(opened.role, inputs.train, inputs.heldout)
        session.begin()
        reward_model = opened.role
        reading = Reading(at=spec.read, rule=config.step_rule, separator=config.step_separator)
        set_reading(reward_model, reading)
        shard_roles(session, reward_model)
        scale = None
        kept: dict[str, Kept] = {}
        trained = [parameters_of(reward_model, config.optim, name="reward_model")]
        if name == "ordinal":
            scale = kept["thresholds"] = thresholds_of(inputs.train, inputs.heldout).to(world.device)
            trained.append(ParameterGroup.of(scale, config.optim, name="thresholds"))
        updater = session.updater(*trained, updates=run.total_steps)
        score = partial(scored, reward_model, scale, every_token=spec.every_token)
        losses = training_loss(config)

        def save(folder: Path) -> None:
            if scale:
                set_thresholds(reward_model, scale.levels, scale().tolist())
            opened.save(folder)

        for step in session.steps(save=save, updater=updater, **kept):
            batch = inputs.train.take(world.share(batches.at(step)))
            metrics = _step(score, losses, updater, batch, session, kind=spec.data)
            if session.due(step, every):
                metrics |= _heldout_metrics(score, LOSSES[name], inputs.heldout, session, kind=spec.data)
                show_scores(run, step, reward_model, reader.tokenizer, inputs.heldout.groups)
            if step == run.total_steps:
                measured = inputs.heldout.groups or inputs.train.groups
                metrics |= _measure(
                    session,
                    reward_model,
                    measured,
                    normalise=config.normalise,
                    length_residual=config.length_residual,
                )
            run.log(step, metrics)
        return session.finish(kind="reward_model")


def thresholds_of(train: Examples[Score], heldout: Examples[Score]) -> Thresholds:
    """The thresholds of an ordinal scale."""
    scale = Thresholds([record.value for record in train.records])
    scale.level_of([record.value for record in heldout.records])  # refused before any compute is spent
    return scale


def _step(
    score: partial[Scored],
    losses: Loss,
    updater: Updater,
    batch: Examples[Any],
    session: Session,
    *,
    kind: str,
) -> dict[str, float]:
    """One update from this process's share of a batch; its metrics."""
    metrics, world = Metrics(), session.world
    counted = world.sum_float(len(batch))

    def loss(part: MicroBatch) -> Tensor:
        of = score(part, batch.records)
        add_metrics(of, metrics, kind=kind)
        return example_mean(losses(of), examples=counted)

    result = update(updater, batch.groups, loss, tokens=session.tokens, world=world)
    return {**result.metrics(), **metrics.reduce(world)}


@torch.no_grad()
def _heldout_metrics(
    score: partial[Scored], losses: Loss, heldout: Examples[Any], session: Session, *, kind: str
) -> dict[str, float]:
    """The plain loss and the accuracy (or error) on held-out examples; nothing if nothing is held out."""
    if not heldout.groups:
        return {}
    world, metrics = session.world, Metrics()
    own = heldout.take(world.share(range(len(heldout))))
    for part in in_step(micro_batches(own.groups, tokens=session.tokens, device=world.device)):
        of = score(part, own.records)
        values = losses(of)
        metrics.add("loss", values.sum(), len(values))
        add_metrics(of, metrics, kind=kind)
    return {
        f"heldout_{name}": value
        for name, value in metrics.reduce(world).items()
        if name in ("loss", "accuracy", "error")
    }


def _measure(
    session: Session,
    reward_model: RewardModel,
    groups: Sequence[Group],
    *,
    normalise: bool,
    length_residual: bool,
) -> dict[str, float]:
    """Store what the finished model's scores on completions are like: what length explains of them, then mean and deviation."""
    if not (normalise or length_residual):
        return {}
    metrics: dict[str, float] = {}
    scores = score_groups(reward_model, groups, tokens=session.tokens, world=session.world)
    if length_residual:
        lengths = torch.tensor([len(ids) for group in groups for ids in group.completions]).float()
        slope, mean_length = length_slope(scores, lengths, lambda sums: sums)
        set_reading(reward_model, replace(reward_model.reading, length_slope=slope, mean_length=mean_length))
        scores = residual_scores(scores, lengths, slope=slope, mean_length=mean_length)
        metrics["length_slope"] = slope
    if normalise:
        set_reward_moments(reward_model, scores.mean().item(), max(scores.std().item(), SMALLEST_STD))
    return metrics
