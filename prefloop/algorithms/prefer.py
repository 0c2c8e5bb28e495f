"""Training a policy directly on preferences, by any objective of `losses/objectives.py`.

One loop for pairwise, listwise and unary objectives: an objective says by its parameters what it needs, and only that is computed. Without a
reference none is loaded; with one that stands still its log-probabilities are computed once, token by token, and kept on disk; one that moves
(`follow`), or whose whole next-token distribution is needed (TDPO), stays in memory. What an objective needs of the whole step is computed first,
without gradient, so cutting a step differently changes nothing.

Logged: loss; of comparisons accuracy (share with the higher implicit reward for the chosen completion, ties half), margin, reward_chosen,
reward_rejected, logp_chosen, logp_rejected, nll (of chosen, per token); of rankings accuracy and margin (over all pairs), reward_best, logp_best, nll; of
labels reward_good, reward_bad, logp_good, logp_bad; of scores reward, error (root not taken), value; statistics of the step that the objective has;
lr, grad_norm, skipped; and the same of held-out examples as heldout_*.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefloop.configs.prefer import PreferConfig
from prefloop.errors import InputError
from prefloop.loop.inputs import Examples, Inputs, examples, refuse_one_kind, refuse_soft_labels
from prefloop.loop.learn import replayable
from prefloop.loop.objective_examples import Example, prepare_examples
from prefloop.loop.objective_metrics import add_metrics, best_nll
from prefloop.loop.objective_step import Task, Whole, find_objective, value_head_on
from prefloop.loop.provenance import models_read
from prefloop.loop.reading import open_reader
from prefloop.loop.reference import references_of
from prefloop.loop.roles import check_room, open_policy, shard_roles
from prefloop.loop.session import open_training
from prefloop.loop.shown import show_completions
from prefloop.losses import check_start, example_mean, mean_over
from prefloop.losses.objectives import OBJECTIVES, Objective, Setting, settings_of
from prefloop.models.packing import MicroBatch
from prefloop.runtime import Metrics, StateTree, Updater
from prefloop.runtime.pace import in_step

WAY_OUT = (
    "remove the stored reference log-probabilities in {cache}, or set compute.dtype float32 and compute.attention padded; "
    "if it stays, the model's own code is not deterministic (dropout, state kept between calls), or this is a bug in prefloop: "
    "please report it"
)
"""Of a first step whose loss is not the formula's."""
NOISE = {"float32": 1e-3, "bfloat16": 5e-2}
"""`compute.dtype` -> how far the first loss may lie from its formula's value, times that value where it is above 1."""
BESIDE = {"comparisons": "chosen", "rankings": "best", "labels": "labelled", "scores": "scored"}
"""What a group's first completion is called beside the policy's own."""
HEADLINES = {
    "comparisons": ("accuracy", "margin"),
    "rankings": ("loss", "accuracy"),
    "labels": ("reward_good", "reward_bad"),
    "scores": ("loss", "error"),
}


def train(config: PreferConfig) -> Path:
    """Train and return the folder of the finished policy."""
    objective = find_objective(config.loss)
    settings = settings_of(objective, config.settings, loss=config.loss)
    return train_objective(config, objective, settings, stage="prefer", recorded=config)


def train_objective(
    config: PreferConfig,
    objective: Objective,
    settings: Mapping[str, Setting],
    *,
    stage: str,
    recorded: Any,
) -> Path:
    """As `train` with an objective and its settings, as the command `stage` whose own settings are `recorded`."""
    needs, loss, follow = objective.needs, config.loss, config.follow
    _check(config, objective)
    reader = open_reader(config.run, config.compute, config.model)
    world, tokenizer = reader.world, reader.tokenizer
    inputs = examples(objective.data, config.data, reader, from_comparisons=config.from_comparisons)
    _check_labels(loss, objective, inputs)
    models = models_read(
        world,
        model=config.model,
        reference=config.reference if needs.reference else "",
        reference_last=config.reference_last,
    )
    headline = HEADLINES[objective.data]
    with open_training(recorded, reader, inputs, stage=stage, models=models, headline=headline) as (
        session,
        batches,
    ):
        run, every = session.run, config.eval_every
        opened = open_policy(session, config.model, config.lora)
        policy, shown = opened.role, inputs.heldout.groups or inputs.train.groups
        check_room(policy, inputs.train, inputs.heldout)
        session.begin()
        shard_roles(session, policy)
        reference, last = references_of(config, session, policy)
        task = Task(
            loss=loss,
            objective=objective,
            settings=settings,
            policy=policy,
            reference=reference.live() if needs.forward_kl or follow.every else None,
            moves=follow.every > 0,
            value_head=value_head_on(policy, config.model, session) if needs.value else None,
            tokens=session.tokens,
            world=world,
        )
        train_part, heldout = prepare_examples(
            (inputs.train, _usable(inputs.heldout, objective)),
            needs,
            reference,
            last,
            keeps=needs.reference and not task.reference,
            loss=loss,
        )
        updater = session.updater(*task.parameters(config.optim), updates=run.total_steps)
        running = Running(objective.running)

        at_start = models.reference_is_start() and not last
        unchecked = not run.start and needs.reference and at_start
        for step in session.steps(save=opened.save, updater=updater, running=running, task=task):
            batch = [train_part[place] for place in world.share(batches.at(step))]
            whole = Whole(task=task, examples=batch, running=running.values, seed=config.run.seed, step=step)
            metrics = _step(task, updater, whole, sft_coef=config.sft_coef, check=unchecked)
            _check_first(loss, metrics, noise=NOISE[config.compute.dtype], cache=reference.cache)
            # NaN would stay for good, and a step that was skipped has changed nothing.
            if not metrics["skipped"]:
                unchecked = False
                running.values = dict(whole.result().running or running.values)
            if follow.every and step % follow.every == 0:
                task.follow(follow.rate)
            if session.due(step, every):
                metrics |= _heldout_metrics(task, heldout, running.values, seed=config.run.seed)
                show_completions(run, step, policy, tokenizer, shown, beside=BESIDE[objective.data])
            run.log(step, metrics)
        return session.finish()


class Running:
    """Statistics that an objective carries from step to step, by name."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)

    def state(self) -> StateTree:
        """For a checkpoint."""
        return self.values

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        self.values = dict(state)


def _check(config: PreferConfig, objective: Objective) -> None:
    """Raise `InputError` for a setting that the objective has no use for."""
    loss, kind, follow = config.loss, objective.data, config.follow.every
    one_reference = f"{loss}{' with follow.every' if follow else ''} has one reference; leave it out, or use loss d2o without follow.every"
    no_reference = f"{loss} has no reference; leave it out, or choose another loss"
    useful = objective.needs.reference
    checks = (
        (
            ("sft_coef", config.sft_coef, kind in ("comparisons", "rankings")),
            f"{loss} trains on {kind}, which name no best completion; leave it at 0",
        ),
        (
            ("from_comparisons", config.from_comparisons and "on", kind == "labels"),
            f"{loss} trains on {kind}, not labels; leave it off",
        ),
        (("reference_last", config.reference_last, loss == "d2o" and not follow), one_reference),
        (("reference", config.reference, useful), no_reference),
        (("follow.every", follow, useful), no_reference),
    )
    for (name, given, used), why in checks:
        if given and not used:
            raise InputError(f"{name} is {given}, but {why}")


def _check_labels(loss: str, objective: Objective, inputs: Inputs[Any]) -> None:
    """Refuse labels that say nothing, and soft ones where the objective has no meaning for them: to train as if they were certain is not what was asked."""
    if loss != "npo" and ":" not in loss:  # npo unlearns bad completions, and needs no good ones
        refuse_one_kind(inputs, f"loss {loss}")
    if not objective.takes_soft_labels:
        losses = [name for name, other in OBJECTIVES.items() if other.takes_soft_labels]
        refuse_soft_labels(inputs, f"loss {loss}", f"use one of {', '.join(losses)}")


def _usable(heldout: Examples[Any], objective: Objective) -> Examples[Any]:
    """Held-out examples; none if the objective needs two prompts and there is one."""
    if objective.needs.mismatched and len({tuple(group.prompt) for group in heldout.groups}) < 2:
        return Examples(records=(), groups=[])
    return heldout


def _step(task: Task, updater: Updater, whole: Whole, *, sft_coef: float, check: bool) -> dict[str, float]:
    """One update from this process's share of a batch; its metrics. With `check` also the loss as the formula gives it at policy = reference."""
    groups, world = whole.groups, task.world
    counted = world.sum_float(len(groups))
    best_tokens = world.sum_float(sum(sum(group.masks[0]) for group in groups))
    metrics = Metrics()

    def loss(micro: MicroBatch) -> Tensor:
        numbers, losses = whole.losses(micro)
        add_metrics(task.objective, task.beta, numbers, metrics)
        expected = task.at_reference(numbers) if check else None
        if expected is not None:
            metrics.add("expected", expected.expand(len(losses)).sum(), len(losses))
            metrics.add("unregularised", losses.detach().sum(), len(losses))
        total = example_mean(losses, examples=counted)
        if sft_coef:
            nll, mask = best_nll(numbers)
            total = total + sft_coef * mean_over(nll, mask, count=best_tokens)
        return total

    result = updater.step(in_step(whole.parts), loss, replay=lambda: replayable(groups))
    shared = {name: value.item() for name, value in whole.result().shared.items()}
    return {**result.metrics(), **metrics.reduce(world), **shared}


def _check_first(loss: str, metrics: dict[str, float], *, noise: float, cache: Path) -> None:
    """Take the numbers of the check out of a first step's metrics, and raise where the loss is not what the formula gives there."""
    if "expected" not in metrics:
        return
    expected, observed = metrics.pop("expected"), metrics.pop("unregularised")
    if not metrics["skipped"]:
        check_start(
            f"{loss} loss",
            observed,
            expected,
            noise * max(1.0, abs(expected)),
            way_out=WAY_OUT.format(cache=cache),
        )


def _heldout_metrics(
    task: Task, heldout: Sequence[Example], running: Mapping[str, float], *, seed: int
) -> dict[str, float]:
    """The same numbers of held-out examples, all of them as one step; nothing if nothing is held out."""
    if not heldout:
        return {}
    own = task.world.share(heldout)
    whole = Whole(task=task, examples=own, running=running, seed=seed, step=0)
    metrics = Metrics()
    with torch.no_grad():
        for micro in in_step(whole.parts):
            numbers, losses = whole.losses(micro)
            metrics.add("loss", losses.sum(), len(losses))
            add_metrics(task.objective, task.beta, numbers, metrics)
    return {f"heldout_{name}": value for name, value in metrics.reduce(task.world).items() if name != "nll"}
