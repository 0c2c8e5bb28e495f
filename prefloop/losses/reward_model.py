"""Losses and measures of reward models: functions of one score per completion, or one per token where that is said."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefloop.losses.listwise import pairs_of
from prefloop.losses.quantities import Data
from prefloop.losses.reduce import keep, sequence_mean

_ABSENT = -1e30
"""Stands for a score of minus infinity: finite, so that its gradient is 0 and not NaN."""


def bradley_terry(
    chosen_scores: Float[Tensor, " B"],
    rejected_scores: Float[Tensor, " B"],
    *,
    margin: Float[Tensor, " B"] | float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """Negative log-likelihood of a comparison under Bradley and Terry's model; eq. 1 of arXiv:2203.02155 with K = 2.

    -(1 - ε) log σ(Δ - m) - ε log σ(-Δ - m), Δ = chosen score - rejected score. `margin` m asks for a distance, inside the sigmoid
    (arXiv:2307.09288); `label_smoothing` ε is the assumed share of flipped labels, and a flipped comparison asks for the same
    margin the other way. ln 2 at equal scores without a margin. Adding a constant to all scores changes nothing: see `centring`.
    """
    difference = chosen_scores - rejected_scores
    return -(1 - label_smoothing) * logsigmoid(difference - margin) - label_smoothing * logsigmoid(
        -difference - margin
    )


def centring(chosen_scores: Float[Tensor, " B"], rejected_scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """(chosen + rejected)^2: added with a small weight, it fixes the constant that comparisons leave free (arXiv:2312.09244)."""
    return (chosen_scores + rejected_scores).square()


def pairwise_accuracy(chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 where the chosen completion scores higher, 0 where lower, 1/2 for a tie, so that a constant scorer is at chance.

    For scores and for implicit rewards alike; the DPO authors' code counts a tie as wrong. NaN stays NaN.
    """
    difference = chosen - rejected
    return torch.where(difference.isnan(), difference, (1 + difference.sign()) / 2)


# Of rankings: G prompts with up to K completions, best first, `present` False where there are fewer. Plackett-Luce is in `listwise`.


def all_pairs(scores: Float[Tensor, "G K"], present: Bool[Tensor, "G K"]) -> Float[Tensor, " G"]:
    """Mean over a ranking's K(K-1)/2 pairs of -log σ(r_i - r_j), i better: eq. 1 of arXiv:2203.02155. Bradley-Terry at K = 2.

    All pairs of a prompt are one example: as separate ones, in different batches, they overfit.
    """
    pairs = pairs_of(present)
    clean = torch.where(present, scores, 0.0)
    losses = -logsigmoid(clean[:, :, None] - clean[:, None, :])
    return torch.where(pairs, losses, 0.0).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)


def best_of(scores: Float[Tensor, "G K"], present: Bool[Tensor, "G K"]) -> Float[Tensor, " G"]:
    """-log softmax of the best one's score among the candidates (arXiv:1909.08593, with K = 4): the order of the others does not count.

    log K where all scores are equal.
    """
    return torch.where(present, scores, _ABSENT).logsumexp(dim=1) - scores[:, 0]


# Of completions judged by themselves.


def binary(scores: Float[Tensor, " B"], good: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Cross-entropy of good or bad: -log σ(r) or -log σ(-r). The score is the log-odds of being good; not free in a constant."""
    return -logsigmoid(torch.where(good, scores, -scores))


def regression(scores: Float[Tensor, " B"], value: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """(r - value)²: the score is the mean of the numbers given."""
    return (scores - value).square()


# Of every token: `token_scores[b, t]` is the head at completion token t, having read it.


def outcome(
    token_scores: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], good: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """`binary` at every token of a completion with the whole one's label, averaged over its tokens (arXiv:2110.14168).

    At the last token it is what `binary` trains; before it, how likely the completion is to end well.
    """
    clean = keep(token_scores, mask)
    return sequence_mean(-logsigmoid(torch.where(good[:, None], clean, -clean)), mask)


def token_level(
    chosen_scores: Float[Tensor, "B T"],
    rejected_scores: Float[Tensor, "B T"],
    chosen_mask: Bool[Tensor, "B T"],
    rejected_mask: Bool[Tensor, "B T"],
    chosen_ids: Int[Tensor, "B T"],
    rejected_ids: Int[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """Mean of -log σ(r_w,t - r_l,t) over tokens, from the first in which the two differ to the end of the longer one (arXiv:2308.01320).

    Where one has ended, its last score stands in: that code scores its padding there, which is not computed here. The scores before the first
    difference are of the same text and say nothing. Masks must be True from the first token to the last.
    """
    either = chosen_mask | rejected_mask
    differ = ((chosen_ids != rejected_ids) & either) | (chosen_mask != rejected_mask)
    counted = (differ.cumsum(dim=1) > 0) & either
    chosen, rejected = _held(chosen_scores, chosen_mask), _held(rejected_scores, rejected_mask)
    return sequence_mean(-logsigmoid(chosen - rejected), counted)


def _held(scores: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The last score under the mask in place of those behind it."""
    places = torch.arange(scores.shape[1], device=scores.device)
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    return keep(scores, mask).gather(1, torch.minimum(places.expand_as(last.expand_as(scores)), last))


# Of M models: `scores[m, b]`.


def ensemble_mean(scores: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
    """Mean over models (arXiv:2310.02743)."""
    return scores.mean(dim=0)


def ensemble_worst(scores: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
    """The lowest model's score, worst-case optimisation of arXiv:2310.02743: to score high, a completion must please all."""
    return scores.min(dim=0).values


def ensemble_penalised(scores: Float[Tensor, "M B"], *, penalty: float = 0.5) -> Float[Tensor, " B"]:
    """mean - λ var, uncertainty-weighted optimisation of arXiv:2310.02743; the variance is the biased one."""
    return scores.mean(dim=0) - penalty * scores.var(dim=0, unbiased=False)


ENSEMBLES: Mapping[str, Callable[..., Tensor]] = {
    "mean": ensemble_mean,
    "worst": ensemble_worst,
    "penalised": ensemble_penalised,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardLoss:
    """What a reward model can be trained by."""

    data: Data
    source: str
    shift_free: bool
    """Whether adding a constant to all scores changes nothing, so that `centring` has something to fix."""
    every_token: bool = False
    """Whether it needs the score at every token, not at the last alone."""


REWARD_LOSSES: Mapping[str, RewardLoss] = {
    "bradley_terry": RewardLoss(data="comparisons", source="arXiv:2009.01325", shift_free=True),
    "token_level": RewardLoss(
        data="comparisons", source="arXiv:2308.01320", shift_free=True, every_token=True
    ),
    "all_pairs": RewardLoss(data="rankings", source="arXiv:2203.02155", shift_free=True),
    "plackett_luce": RewardLoss(data="rankings", source="Plackett 1975, Luce 1959", shift_free=True),
    "best_of": RewardLoss(data="rankings", source="arXiv:1909.08593", shift_free=True),
    "binary": RewardLoss(data="labels", source="cross-entropy", shift_free=False),
    "outcome": RewardLoss(data="labels", source="arXiv:2110.14168", shift_free=False, every_token=True),
    "regression": RewardLoss(data="scores", source="least squares", shift_free=False),
}
"""Name -> reward model objective; `algorithms/reward.py` calls the function of that name."""
