"""What is logged of an objective, by the kind of data it trains on."""

import torch
from torch import Tensor

from prefloop.losses import pairwise_accuracy, sequence_sum
from prefloop.losses.listwise import pairs_of
from prefloop.losses.objectives import Objective
from prefloop.losses.quantities import TokenNumbers, as_lists
from prefloop.runtime import Metrics


def best_nll(numbers: TokenNumbers) -> tuple[Tensor, Tensor]:
    """Negative log-probabilities of the first (chosen, best) completion of each prompt, and their mask."""
    group = numbers.group
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    return -numbers.logprobs[first], numbers.mask[first]


def add_metrics(objective: Objective, beta: float, numbers: TokenNumbers, metrics: Metrics) -> None:
    """Sums and counts of what is logged of a micro-batch; `beta` is the scale of implicit rewards."""
    with torch.no_grad():
        sums = sequence_sum(numbers.logprobs, numbers.mask)
        tokens = numbers.mask.sum(dim=1)
        reference = numbers.reference
        ratio = sums if reference is None else sums - sequence_sum(reference, numbers.mask)
        rewards = beta * (ratio / tokens.clamp(min=1) if objective.reward == "mean" else ratio)
        _METRICS[objective.data](numbers, rewards, sums, metrics)


def _comparison_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    n = len(chosen)
    metrics.add("accuracy", pairwise_accuracy(chosen, rejected).sum(), n)
    metrics.add("margin", (chosen - rejected).sum(), n)
    metrics.add("reward_chosen", chosen.sum(), n)
    metrics.add("reward_rejected", rejected.sum(), n)
    metrics.add("logp_chosen", sums[0::2].sum(), n)
    metrics.add("logp_rejected", sums[1::2].sum(), n)
    metrics.add("nll", -sums[0::2].sum(), numbers.mask[0::2].sum())


def _ranking_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    lists = as_lists(rewards, numbers.group)
    pairs = pairs_of(as_lists(torch.ones_like(numbers.group, dtype=torch.bool), numbers.group))
    better = lists[:, :, None].expand(pairs.shape)[pairs]
    worse = lists[:, None, :].expand(pairs.shape)[pairs]
    metrics.add("accuracy", pairwise_accuracy(better, worse).sum(), len(better))
    metrics.add("margin", (better - worse).sum(), len(better))
    metrics.add("reward_best", lists[:, 0].sum(), len(lists))
    metrics.add("logp_best", as_lists(sums, numbers.group)[:, 0].sum(), len(lists))
    nll, mask = best_nll(numbers)
    metrics.add("nll", torch.where(mask, nll, 0.0).sum(), mask.sum())


def _label_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    good = numbers.labels > 0
    for name, side in (("good", good), ("bad", ~good)):
        metrics.add(f"reward_{name}", rewards[side].sum(), side.sum())
        metrics.add(f"logp_{name}", sums[side].sum(), side.sum())


def _score_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    n = len(rewards)
    value = torch.zeros_like(rewards) if numbers.value is None else numbers.value
    metrics.add("reward", rewards.sum(), n)
    metrics.add("logp", sums.sum(), n)
    metrics.add("value", value.sum(), n)
    metrics.add("error", (numbers.labels - value - rewards).square().sum(), n)


_METRICS = {
    "comparisons": _comparison_metrics,
    "rankings": _ranking_metrics,
    "labels": _label_metrics,
    "scores": _score_metrics,
}
