"""A reward model's micro-batch: scores and labels, the losses by name, and the logged metrics.

`algorithms/reward.py` tells the story.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.reward import RewardConfig
from prefloop.loop.ordinal import Thresholds
from prefloop.losses import bradley_terry, centring, pairwise_accuracy
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
from prefloop.models.packing import Batch, MicroBatch
from prefloop.models.roles import RewardModel
from prefloop.records import Comparison, Label, Ranking, Score
from prefloop.runtime import Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A micro-batch with its scores and what the data says."""

    batch: Batch
    records: Sequence[Any]
    """One a group."""
    scores: Float[Tensor, " B"]
    token_scores: Float[Tensor, "B T"] | None
    """At every token; None if the loss does not need that."""
    scale: Thresholds | None

    @property
    def every_token(self) -> Float[Tensor, "B T"]:
        """`token_scores`, of a loss that needs them."""
        assert self.token_scores is not None
        return self.token_scores

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
        kept = [record.good[: int(n)] for record, n in zip(self.records, ends.sum(1).tolist(), strict=True)]
        good[ends] = torch.tensor([label for row in kept for label in row], device=ends.device)
        return good

    def given(self) -> Tensor:
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


def scored(
    reward_model: RewardModel,
    scale: Thresholds | None,
    part: MicroBatch,
    records: Sequence[Any],
    *,
    every_token: bool,
) -> Scored:
    """A micro-batch of `records`, scored."""
    batch, mine = part.batch, [records[g] for g in part.groups]
    if not every_token:
        return Scored(batch=batch, records=mine, scores=reward_model(batch), token_scores=None, scale=scale)
    token_scores, reading = reward_model.token_scores(batch), reward_model.reading
    rule = TOKEN_READINGS[reading.rule if reading.at == "steps" else reading.at]
    scores = rule(token_scores, batch.completion_mask)
    return Scored(batch=batch, records=mine, scores=scores, token_scores=token_scores, scale=scale)


def _bradley_terry(of: Scored, *, margin: bool = False, label_smoothing: float = 0.0) -> Tensor:
    chosen, rejected = of.scores.view(-1, 2).unbind(1)
    return bradley_terry(
        chosen,
        rejected,
        margin=of.margins() if margin else 0.0,
        label_smoothing=label_smoothing,
        p_soft=of.p_soft(),
    )


def _segments(of: Scored, *, random_share: float = 0.0) -> Tensor:
    scores, mask = of.every_token, of.batch.completion_mask
    return segments(scores[0::2], scores[1::2], mask[0::2], mask[1::2], random_share=random_share)


def _token_level(of: Scored) -> Tensor:
    sides = [
        (of.every_token[side::2], of.batch.completion_mask[side::2], of.batch.completion_ids[side::2])
        for side in range(2)
    ]
    (chosen, chosen_mask, chosen_ids), (rejected, rejected_mask, rejected_ids) = sides
    return token_level(chosen, rejected, chosen_mask, rejected_mask, chosen_ids, rejected_ids)


Loss = Callable[[Scored], Tensor]
"""One number an example."""

LOSSES: Mapping[str, Loss] = {
    "bradley_terry": _bradley_terry,
    "token_level": _token_level,
    "all_pairs": lambda of: ordered_pairs(of.lists()[0], of.pairs()),
    "plackett_luce": lambda of: plackett_luce_top(of.lists()[0], of.lists()[1], of.placed()),
    "best_of": lambda of: best_of(*of.lists()),
    "binary": lambda of: binary(of.scores, of.given()),
    "outcome": lambda of: outcome(of.every_token, of.batch.completion_mask, of.given()),
    "regression": lambda of: regression(of.scores, of.given()),
    "ordinal": lambda of: of.ordinal(),
    "process": lambda of: process(of.every_token, of.batch.completion_mask, of.good_steps()),
    "segments": _segments,
}
"""The plain losses, as they are reported on held-out examples."""


def training_loss(config: RewardConfig) -> Loss:
    """The loss of the settings, with the terms that only training has."""
    of_training = {
        **LOSSES,
        "bradley_terry": partial(
            _bradley_terry, margin=config.margin, label_smoothing=config.label_smoothing
        ),
        "segments": partial(_segments, random_share=config.random_share),
    }
    loss, coef, spec = of_training[config.loss], config.centring, REWARD_LOSSES[config.loss]

    def centred(of: Scored) -> Tensor:
        losses = loss(of)
        scores, present = of.lists()
        mean = scores.sum(dim=1) / present.sum(dim=1)
        return losses + coef * centring(mean, mean)

    return centred if coef and spec.shift_free else loss


USABLE: Mapping[str, Callable[[Ranking], bool]] = {
    "all_pairs": lambda ranking: True,
    "plackett_luce": lambda ranking: not ranking.ranks,
    "best_of": lambda ranking: ranking.ranks[:1] != ranking.ranks[1:2] or not ranking.ranks,
}
"""Loss of rankings -> those it can train on: pairs need no whole order, Plackett-Luce no order of the last, the best of K only its best."""


def _labelled(of: Scored, metrics: Metrics) -> None:
    _count_right(torch.where(of.given(), 1.0, -1.0) * of.scores, metrics)


def _steps(of: Scored, metrics: Metrics) -> None:
    ends = of.batch.completion_mask
    _count_right(torch.where(of.good_steps(), 1.0, -1.0)[ends] * of.every_token[ends], metrics)


def _count_right(side: Tensor, metrics: Metrics) -> None:
    metrics.add("accuracy", pairwise_accuracy(side, torch.zeros_like(side)).sum(), len(side))


def _rated(of: Scored, metrics: Metrics) -> None:
    error, scores = of.scores - of.given(), of.scores
    if scale := of.scale:
        right = level_probabilities(scores, scale()).argmax(dim=1) == scale.level_of(of.values())
        metrics.add("accuracy", right.sum(), len(right))
        error = scale.expected(scores) - of.given()
    metrics.add("error", error.square().sum(), len(scores))


def _ordered(of: Scored, metrics: Metrics) -> None:
    lists, _ = of.lists()
    pairs = of.pairs()
    better = lists[:, :, None].expand(pairs.shape)[pairs]
    worse = lists[:, None, :].expand(pairs.shape)[pairs]
    metrics.add("accuracy", pairwise_accuracy(better, worse).sum(), len(better))
    metrics.add("margin", (better - worse).sum(), len(better))


_METRICS = {
    "comparisons": _ordered,
    "rankings": _ordered,
    "labels": _labelled,
    "steps": _steps,
    "scores": _rated,
}
"""Kind of data -> what is logged of a micro-batch."""


@torch.no_grad()
def add_metrics(of: Scored, metrics: Metrics, *, kind: str) -> None:
    """Sums and counts of what is logged of a micro-batch."""
    metrics.add("score", of.scores.sum(), len(of.scores))
    _METRICS[kind](of, metrics)
