"""A reward model: from comparisons (Bradley-Terry, section 3.2 of arXiv:2009.01325 and arXiv:2203.02155), rankings, labels, scores or steps.

The score is read at the last token of each completion; `token_level` and `outcome` train it at every token and are read at the last, `segments`
is the sum over tokens, `process` is read where steps end. One epoch by default: a second one overfits. After training, mean and standard
deviation of scores on completions are stored with the model, and on request what length explains of them; the saved head itself stays as it is.

Logged: loss; of comparisons and rankings accuracy (ties count half; of rankings over all pairs) and margin (better minus worse score); of labels
accuracy (score above 0 for good; of steps, over all steps); of scores error (mean squared; of ordinal that of the expected rating, and accuracy: the
likeliest level is the right one); score (mean of all); lr, grad_norm, skipped; length_slope (with length_residual, at the end); and on held-out prompts
heldout_loss (without margin, smoothing or centring) and heldout_accuracy or heldout_error. `prefloop.evaluation` gives the accuracy its interval, calibration and more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.reward import RewardConfig
from prefloop.data.load import is_strict
from prefloop.loop.batches import Batches
from prefloop.loop.inputs import (
    Examples,
    Inputs,
    examples,
    refuse_one_kind,
    refuse_soft_labels,
    store_of,
)
from prefloop.loop.learn import update
from prefloop.loop.ordinal import Thresholds
from prefloop.loop.provenance import models_read
from prefloop.loop.roles import check_room, open_reward_model, parameters_of
from prefloop.loop.session import Kept, open_run
from prefloop.loop.shown import show_scores
from prefloop.losses import bradley_terry, centring, example_mean, pairwise_accuracy
from prefloop.losses.listwise import pairs_of, plackett_luce_top
from prefloop.losses.quantities import as_lists
from prefloop.losses.reward_model import (
    REWARD_LOSSES,
    TOKEN_READINGS,
    best_of,
    binary,
    level_probabilities,
    ordered_pairs,
    ordinal,
    outcome,
    process,
    regression,
    segments,
    token_level,
)
from prefloop.losses.rewards import length_slope, residual_scores
from prefloop.models.load import set_reading, set_reward_moments, set_thresholds
from prefloop.models.packing import Batch, MicroBatch, micro_batches
from prefloop.models.roles import Reading, RewardModel
from prefloop.records import Comparison, Label, Ranking, Score
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import Metrics, ParameterGroup, Updater, World, start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group


def train(config: RewardConfig) -> Path:
    """Train and return the folder of the finished reward model."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    kind = REWARD_LOSSES[config.loss].data
    inputs = examples(
        kind,
        config.data,
        tokenizer,
        store_of(config.run.out, config.run.store),
        world,
        swap_contexts=config.swap_contexts,
        step_separator=config.step_separator,
        usable=USABLE.get(config.loss, is_strict),
    )
    refuse_one_kind(inputs, f"loss {config.loss}")
    if config.loss != "bradley_terry":
        refuse_soft_labels(inputs, f"loss {config.loss}", "take bradley_terry")
    models = models_read(world, model=config.model)
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    with open_run(
        config,
        stage="reward",
        world=world,
        tokenizer=tokenizer,
        reads={"data": inputs.read},
        models=models,
        steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
        headline=("loss", "error" if kind == "scores" else "accuracy"),
    ) as session:
        run = session.run
        opened = open_reward_model(
            config.model, tokenizer, config.lora, config.compute, run, keep_head=config.keep_head
        )
        check_room(opened.role, inputs.train, inputs.heldout)
        session.begin()
        reward_model = opened.role
        reading = REWARD_LOSSES[config.loss].read
        set_reading(reward_model, Reading(at=reading, rule=config.step_rule, separator=config.step_separator))
        scale = _scale(config, inputs, world.device)
        kept: dict[str, Kept] = {"thresholds": scale} if scale else {}
        updater = session.updater(
            parameters_of(reward_model, config.optim, name="reward_model"),
            *([ParameterGroup.of(scale, config.optim, name="thresholds")] if scale else []),
            updates=run.total_steps,
        )

        def save(folder: Path) -> None:
            if scale:
                set_thresholds(reward_model, scale.levels, scale().tolist())
            opened.save(folder)

        for step in session.steps(save=save, updater=updater, **kept):
            places = world.share(batches.at(step))
            records = [inputs.train.records[i] for i in places]
            groups = [inputs.train.groups[i] for i in places]
            metrics = _step(config, updater, reward_model, scale, records, groups, world)
            if session.due(step, config.eval_every):
                metrics |= _heldout_metrics(config, reward_model, scale, inputs.heldout, world)
                show_scores(run, step, reward_model, tokenizer, inputs.heldout.groups)
            if step == run.total_steps:
                measured = inputs.heldout.groups or inputs.train.groups
                metrics |= _measure(config, reward_model, measured, world)
            run.log(step, metrics)
        return session.finish(kind="reward_model")


SMALLEST_STD = 1e-6
"""Scores that do not vary are not divided by zero."""


def _scale(config: RewardConfig, inputs: Inputs[Any], device: torch.device) -> Thresholds | None:
    """Of `ordinal` the thresholds of its scale."""
    if config.loss != "ordinal":
        return None
    scale = Thresholds([record.value for record in inputs.train.records]).to(device)
    scale.level_of([record.value for record in inputs.heldout.records])  # refused before any compute is spent
    return scale


def _measure(
    config: RewardConfig, reward_model: RewardModel, groups: Sequence[Group], world: World
) -> dict[str, float]:
    """Store what the finished model's scores on completions are like: what length explains of them, then mean and deviation."""
    if not (config.normalise or config.length_residual):
        return {}
    metrics: dict[str, float] = {}
    scores = score_groups(reward_model, groups, tokens=config.compute.micro_batch_tokens, world=world)
    if config.length_residual:
        lengths = torch.tensor([len(each) for group in groups for each in group.completions]).float()
        slope, mean_length = length_slope(scores, lengths, lambda sums: sums)
        set_reading(reward_model, replace(reward_model.reading, length_slope=slope, mean_length=mean_length))
        scores = residual_scores(scores, lengths, slope=slope, mean_length=mean_length)
        metrics["length_slope"] = slope
    if config.normalise:
        set_reward_moments(reward_model, scores.mean().item(), max(scores.std().item(), SMALLEST_STD))
    return metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A micro-batch with its scores and what the data says."""

    batch: Batch
    records: Sequence[Any]
    """One a group."""
    scores: Float[Tensor, " B"]
    token_scores: Float[Tensor, "_ _"]
    """At every token where the loss needs that; else without elements."""
    scale: Thresholds | None

    def values(self) -> list[float]:
        """The numbers given."""
        return [record.value for record in self.records if isinstance(record, Score)]

    def ordinal(self) -> Tensor:
        """The loss of each rating."""
        assert self.scale
        return ordinal(self.scores, self.scale.level_of(self.values()), self.scale())

    def good_steps(self) -> Tensor:
        """Each step's label where the step ends, [B, T]; False elsewhere."""
        ends = self.batch.completion_mask
        good = torch.zeros_like(ends)
        # A completion that was cut has fewer step ends than labels.
        said = [record.good[: int(n)] for record, n in zip(self.records, ends.sum(1).tolist(), strict=True)]
        good[ends] = torch.tensor([each for row in said for each in row], device=ends.device)
        return good

    def said(self) -> Tensor:
        """Labels as True or False, scores as numbers."""
        values = [
            record.good if isinstance(record, Label) else record.value
            for record in self.records
            if isinstance(record, Label | Score)
        ]
        return torch.tensor(values, device=self.scores.device)

    def margins(self) -> Tensor:
        """The comparisons' margins."""
        values = [record.margin for record in self.records if isinstance(record, Comparison)]
        return torch.tensor(values, device=self.scores.device)

    def p_soft(self) -> Tensor:
        """How likely the comparisons' labels are right."""
        values = [record.p_soft for record in self.records if isinstance(record, Comparison)]
        return torch.tensor(values, device=self.scores.device)

    def pairs(self) -> Tensor:
        """[G, K, K] True at [g, i, j] where ranking g puts i before j: not where they are tied, or both in a best of K's rest."""
        _, present = self.lists()
        pairs = pairs_of(present)
        for at, record in enumerate(record for record in self.records if isinstance(record, Ranking)):
            if record.top:
                pairs[at, record.top :] = False
            if record.ranks:
                ranks = torch.tensor(record.ranks, device=pairs.device)
                pairs[at, : len(ranks), : len(ranks)] &= ranks[:, None] < ranks[None, :]
        return pairs

    def placed(self) -> Tensor:
        """[G, K] True at the places whose completions are in order."""
        placed = self.lists()[1].clone()
        for at, record in enumerate(record for record in self.records if isinstance(record, Ranking)):
            if record.top:
                placed[at, record.top :] = False
        return placed

    def lists(self) -> tuple[Tensor, Tensor]:
        """Scores as [G, K], and which of them are there."""
        there = torch.ones_like(self.batch.group, dtype=torch.bool)
        return as_lists(self.scores, self.batch.group), as_lists(there, self.batch.group)


def _bradley_terry(of: Scored) -> Tensor:
    return bradley_terry(*of.scores.view(-1, 2).unbind(1), p_soft=of.p_soft())


def _segments(of: Scored, random_share: float = 0.0) -> Tensor:
    scores, mask = of.token_scores, of.batch.completion_mask
    return segments(scores[0::2], scores[1::2], mask[0::2], mask[1::2], random_share=random_share)


def _token_level(of: Scored) -> Tensor:
    sides = [
        (of.token_scores[side::2], of.batch.completion_mask[side::2], of.batch.completion_ids[side::2])
        for side in range(2)
    ]
    (chosen, chosen_mask, chosen_ids), (rejected, rejected_mask, rejected_ids) = sides
    return token_level(chosen, rejected, chosen_mask, rejected_mask, chosen_ids, rejected_ids)


LOSSES = {
    "bradley_terry": _bradley_terry,
    "token_level": _token_level,
    "all_pairs": lambda of: ordered_pairs(of.lists()[0], of.pairs()),
    "plackett_luce": lambda of: plackett_luce_top(of.lists()[0], of.lists()[1], of.placed()),
    "best_of": lambda of: best_of(*of.lists()),
    "binary": lambda of: binary(of.scores, of.said()),
    "outcome": lambda of: outcome(of.token_scores, of.batch.completion_mask, of.said()),
    "regression": lambda of: regression(of.scores, of.said()),
    "ordinal": lambda of: of.ordinal(),
    "process": lambda of: process(of.token_scores, of.batch.completion_mask, of.good_steps()),
    "segments": _segments,
}
"""How each loss is called: one number an example."""
USABLE: Mapping[str, Callable[[Ranking], bool]] = {
    "all_pairs": lambda ranking: True,
    "plackett_luce": lambda ranking: not ranking.ranks,
    "best_of": lambda ranking: ranking.ranks[:1] != ranking.ranks[1:2] or not ranking.ranks,
}
"""Loss of rankings -> those it can train on: pairs need no whole order, Plackett-Luce no order of the last, the best of K only its best."""


def _scored(
    config: RewardConfig,
    reward_model: RewardModel,
    scale: Thresholds | None,
    part: MicroBatch,
    records: Sequence[Any],
) -> Scored:
    batch, mine = part.batch, [records[g] for g in part.groups]
    if not REWARD_LOSSES[config.loss].every_token:
        scores = reward_model(batch)
        nothing = scores.new_empty((0, 0))
        return Scored(batch=batch, records=mine, scores=scores, token_scores=nothing, scale=scale)
    token_scores = reward_model.token_scores(batch)
    reading = reward_model.reading
    rule = TOKEN_READINGS[reading.rule if reading.at == "steps" else reading.at]
    scores = rule(token_scores, batch.completion_mask)
    return Scored(batch=batch, records=mine, scores=scores, token_scores=token_scores, scale=scale)


def _step(
    config: RewardConfig,
    updater: Updater,
    reward_model: RewardModel,
    scale: Thresholds | None,
    records: Sequence[Any],
    groups: Sequence[Group],
    world: World,
) -> dict[str, float]:
    """One update from this process's share of a batch; its metrics."""
    counted = world.sum_float(len(groups))
    metrics = Metrics()

    def loss(part: MicroBatch) -> Tensor:
        scored = _scored(config, reward_model, scale, part, records)
        losses = _training_losses(config, scored)
        _add_metrics(config, scored, metrics)
        return example_mean(losses, examples=counted)

    result = update(updater, groups, loss, tokens=config.compute.micro_batch_tokens, world=world)
    return {**result.metrics(), **metrics.reduce(world)}


def _training_losses(config: RewardConfig, scored: Scored) -> Float[Tensor, " G"]:
    """The loss with the terms that only training has."""
    if config.loss == "bradley_terry":
        chosen, rejected = scored.scores.view(-1, 2).unbind(1)
        margin = scored.margins() if config.margin else 0.0
        losses = bradley_terry(
            chosen,
            rejected,
            margin=margin,
            label_smoothing=config.label_smoothing,
            p_soft=scored.p_soft(),
        )
    elif config.loss == "segments":
        losses = _segments(scored, config.random_share)
    else:
        losses = LOSSES[config.loss](scored)
    if not (config.centring and REWARD_LOSSES[config.loss].shift_free):
        return losses
    scores, present = scored.lists()
    mean = scores.sum(dim=1) / present.sum(dim=1)
    return losses + config.centring * centring(mean, mean)


def _add_metrics(config: RewardConfig, scored: Scored, metrics: Metrics) -> None:
    """Sums and counts of what is logged of a micro-batch."""
    with torch.no_grad():
        scores = scored.scores.detach()
        metrics.add("score", scores.sum(), len(scores))
        kind = REWARD_LOSSES[config.loss].data
        if kind == "labels":
            side = torch.where(scored.said(), 1.0, -1.0) * scores
            metrics.add("accuracy", pairwise_accuracy(side, torch.zeros_like(side)).sum(), len(side))
        elif kind == "steps":
            ends = scored.batch.completion_mask
            side = torch.where(scored.good_steps(), 1.0, -1.0)[ends] * scored.token_scores.detach()[ends]
            metrics.add("accuracy", pairwise_accuracy(side, torch.zeros_like(side)).sum(), len(side))
        elif scale := scored.scale:
            right = level_probabilities(scores, scale()).argmax(dim=1) == scale.level_of(scored.values())
            metrics.add("accuracy", right.sum(), len(right))
            metrics.add("error", (scale.expected(scores) - scored.said()).square().sum(), len(right))
        elif kind == "scores":
            metrics.add("error", (scores - scored.said()).square().sum(), len(scores))
        else:
            lists, _ = scored.lists()
            pairs = scored.pairs()
            better = lists[:, :, None].expand(pairs.shape)[pairs]
            worse = lists[:, None, :].expand(pairs.shape)[pairs]
            metrics.add("accuracy", pairwise_accuracy(better, worse).sum(), len(better))
            metrics.add("margin", (better - worse).sum(), len(better))


def _heldout_metrics(
    config: RewardConfig,
    reward_model: RewardModel,
    scale: Thresholds | None,
    heldout: Examples[Any],
    world: World,
) -> dict[str, float]:
    """The plain loss and the accuracy (or error) on held-out examples; nothing where nothing is held out."""
    if not heldout.groups:
        return {}
    places = world.share(range(len(heldout.groups)))
    groups, records = [heldout.groups[i] for i in places], [heldout.records[i] for i in places]
    metrics, shown = Metrics(), Metrics()
    with torch.no_grad():
        for part in micro_batches(groups, tokens=config.compute.micro_batch_tokens, device=world.device):
            scored = _scored(config, reward_model, scale, part, records)
            losses = LOSSES[config.loss](scored)
            shown.add("heldout_loss", losses.sum(), len(losses))
            _add_metrics(config, scored, metrics)
    kept = {name: value for name, value in metrics.reduce(world).items() if name in ("accuracy", "error")}
    return {**shown.reduce(world), **{f"heldout_{name}": value for name, value in kept.items()}}
