"""A reward model from comparisons (Bradley-Terry), as in section 3.2 of arXiv:2009.01325 and arXiv:2203.02155.

The score is read at the last token of each completion. One epoch by default: a second one overfits. After training, mean and standard deviation
of scores on completions are stored with the model; the saved scores themselves stay as they are.

Logged: loss, accuracy (ties count half), margin (chosen minus rejected score), score (mean of both), lr, grad_norm, skipped; and on
comparisons of held-out prompts heldout_loss and heldout_accuracy. `prefloop.evaluation` gives the accuracy its interval, calibration and more.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.algorithms.batches import Batches
from prefloop.algorithms.inputs import comparisons, store_of
from prefloop.algorithms.opening import check_room, open_reward_model, parameters_of, replayable
from prefloop.algorithms.provenance import RunRecord, models_read
from prefloop.algorithms.shown import show_scores
from prefloop.configs.reward import RewardConfig
from prefloop.losses import bradley_terry, centring, example_mean, pairwise_accuracy
from prefloop.models.load import set_reward_moments
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import RewardModel
from prefloop.records import Comparison
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import Metrics, Run, Updater, World, start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group


def train(config: RewardConfig) -> Path:
    """Train and return the folder of the finished reward model."""
    world = start_world(config.compute.device)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    inputs = comparisons(config.data, tokenizer, store_of(config.run.out, config.run.store), world)
    models = models_read(world, model=config.model)
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    tokens = config.compute.micro_batch_tokens
    with (
        Run.open(
            config.run,
            stage="reward",
            config=config,
            total_steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
            world=world,
            headline=("loss", "accuracy"),
            reads={"data": inputs.read.content, **models.contents},
        ) as run,
        RunRecord(stage="reward", config=config, settings=config.run, world=world) as record,
    ):
        run.say(inputs.read.summary)
        opened = open_reward_model(config.model, tokenizer, config.lora, config.compute, run)
        check_room(opened.role, inputs.train, inputs.heldout)
        record.begin(models=models, reads=[inputs.read])
        reward_model = opened.role
        updater = Updater(
            [parameters_of(reward_model, config.optim, name="reward_model")],
            total_steps=run.total_steps,
            world=world,
            dump_folder=run.nonfinite,
            max_nonfinite=config.run.max_nonfinite,
        )
        if run.resumed:
            updater.load_state(run.resumed["updater"])

        for step in run.steps(save=opened.save, state=lambda: {"updater": updater.state()}):
            places = world.share(batches.at(step))
            records = [inputs.train.records[i] for i in places]
            groups = [inputs.train.groups[i] for i in places]
            metrics = _step(config, updater, reward_model, records, groups, world)
            last = step == run.total_steps
            if (config.eval_every and step % config.eval_every == 0) or last:
                scores = score_groups(reward_model, inputs.heldout.groups, tokens=tokens, world=world)
                metrics |= _heldout_metrics(scores)
                show_scores(run, step, tokenizer, inputs.heldout.groups, scores)
            if last and config.normalise:
                scores = score_groups(
                    reward_model, inputs.heldout.groups or inputs.train.groups, tokens=tokens, world=world
                )
                set_reward_moments(reward_model, scores.mean().item(), max(scores.std().item(), SMALLEST_STD))
            run.log(step, metrics)
        record.finish(run.final, kind="reward_model", step=run.total_steps, metrics=run.last_metrics)
        return run.final


SMALLEST_STD = 1e-6
"""Scores that do not vary are not divided by zero."""


def _step(
    config: RewardConfig,
    updater: Updater,
    reward_model: RewardModel,
    records: Sequence[Comparison],
    groups: Sequence[Group],
    world: World,
) -> dict[str, float]:
    """One update from this process's share of a batch; its metrics."""
    pairs = world.sum_float(len(groups))
    metrics = Metrics()

    def loss(part: MicroBatch) -> Tensor:
        chosen, rejected = reward_model(part.batch).view(-1, 2).unbind(1)
        margins = [records[g].margin if config.margin else 0.0 for g in part.groups]
        losses = bradley_terry(
            chosen,
            rejected,
            margin=torch.tensor(margins, device=chosen.device),
            label_smoothing=config.label_smoothing,
        ) + config.centring * centring(chosen, rejected)
        count = len(part.groups)
        metrics.add("accuracy", pairwise_accuracy(chosen, rejected).detach().sum(), count)
        metrics.add("margin", (chosen - rejected).detach().sum(), count)
        metrics.add("score", (chosen + rejected).detach().sum(), 2 * count)
        return example_mean(losses, examples=pairs)

    parts = micro_batches(groups, tokens=config.compute.micro_batch_tokens, device=world.device)
    result = updater.step(parts, loss, replay=lambda: replayable(groups))
    return {**result.metrics(), **metrics.reduce(world)}


def _heldout_metrics(scores: Float[Tensor, " B"]) -> dict[str, float]:
    """Loss and accuracy on held-out comparisons, from scores of chosen, rejected, chosen, ...; nothing where nothing is held out."""
    if not len(scores):
        return {}
    chosen, rejected = scores.view(-1, 2).unbind(1)
    return {
        "heldout_loss": bradley_terry(chosen, rejected).mean().item(),
        "heldout_accuracy": pairwise_accuracy(chosen, rejected).mean().item(),
    }
