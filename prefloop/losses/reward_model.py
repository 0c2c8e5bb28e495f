"""Losses and measures of reward models: functions of one score per completion, or one per token where that is said."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from prefloop.losses.listwise import pairs_of
from prefloop.losses.quantities import Data
from prefloop.losses.reduce import keep, sequence_mean, sequence_sum

_ABSENT = -1e30
"""Stands for a score of minus infinity: finite, so that its gradient is 0 and not NaN."""


def bradley_terry(
    chosen_scores: Float[Tensor, " B"],
    rejected_scores: Float[Tensor, " B"],
    *,
    margin: Float[Tensor, " B"] | float = 0.0,
    label_smoothing: float = 0.0,
    p_soft: Float[Tensor, " B"] | float = 1.0,
) -> Float[Tensor, " B"]:
    """Negative log-likelihood of a comparison under Bradley and Terry's model; eq. 1 of arXiv:2203.02155 with K = 2.

    -(1 - ε) log σ(Δ - m) - ε log σ(-Δ - m), Δ = chosen score - rejected score. `margin` m asks for a distance, inside the sigmoid
    (arXiv:2307.09288); `label_smoothing` ε is the assumed share of flipped labels, and a flipped comparison asks for the same
    margin the other way. ln 2 at equal scores without a margin. Adding a constant to all scores changes nothing: see `centring`.

    `p_soft` p is how likely the label is right (a soft label): the mean of the loss over the label, with 1 - ε above replaced by
    p(1 - ε) + (1 - p)ε. Without margin and smoothing it is lowest at Δ = log(p/(1 - p)), which is 0 for p = ½.
    """
    difference = chosen_scores - rejected_scores
    flipped = (1 - p_soft) + (2 * p_soft - 1) * label_smoothing
    return -(1 - flipped) * logsigmoid(difference - margin) - flipped * logsigmoid(-difference - margin)


def centring(chosen_scores: Float[Tensor, " B"], rejected_scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """(chosen + rejected)^2: added with a small weight, it fixes the constant that comparisons leave free (arXiv:2312.09244)."""
    return (chosen_scores + rejected_scores).square()


def pairwise_accuracy(chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 if the chosen completion scores higher, 0 where lower, 1/2 for a tie, so that a constant scorer is at chance.

    For scores and for implicit rewards alike; the DPO authors' code counts a tie as wrong. NaN stays NaN.
    """
    difference = chosen - rejected
    return torch.where(difference.isnan(), difference, (1 + difference.sign()) / 2)


# Of rankings: G prompts with up to K completions, best first, `present` False if there are fewer. Plackett-Luce is in `listwise`.


def all_pairs(scores: Float[Tensor, "G K"], present: Bool[Tensor, "G K"]) -> Float[Tensor, " G"]:
    """Mean over a ranking's K(K-1)/2 pairs of -log σ(r_i - r_j), i better: eq. 1 of arXiv:2203.02155. Bradley-Terry at K = 2.

    All pairs of a prompt are one example: as separate ones, in different batches, they overfit.
    """
    return ordered_pairs(scores, pairs_of(present))


def ordered_pairs(scores: Float[Tensor, "G K"], pairs: Bool[Tensor, "G K K"]) -> Float[Tensor, " G"]:
    """`all_pairs` of the pairs that a ranking orders, True at [g, i, j] where i is better than j: those of one with ties, or a best of K."""
    clean = torch.where(pairs.any(dim=1) | pairs.any(dim=2), scores, 0.0)
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


def ordinal(
    scores: Float[Tensor, " B"], level: Int[Tensor, " B"], thresholds: Float[Tensor, " L"]
) -> Float[Tensor, " B"]:
    """Negative log-likelihood of a level, 0 the lowest of L + 1, under cumulative logits (McCullagh 1980): P(level > k) = σ(r - θ_k).

    -log [σ(θ_y - r) - σ(θ_(y-1) - r)] with θ rising, σ(θ_(-1)) = 0 and σ(θ_L) = 1; computed as log σ(θ_y - r) + log σ(r - θ_(y-1)) +
    log(1 - exp(θ_(y-1) - θ_y)), which does not cancel. With one threshold at 0 it is `binary`. Scores and thresholds may move together.
    """
    top = len(thresholds)
    upper = thresholds[level.clamp(max=top - 1)]
    lower = thresholds[(level - 1).clamp(min=0)]
    below = torch.where(level < top, logsigmoid(upper - scores), 0.0)
    above = torch.where(level > 0, logsigmoid(scores - lower), 0.0)
    between = (level > 0) & (level < top)
    gap = torch.where(between, upper - lower, 1.0)
    return -(below + above + torch.where(between, torch.log(-torch.expm1(-gap)), 0.0))


def level_probabilities(
    scores: Float[Tensor, " B"], thresholds: Float[Tensor, " L"]
) -> Float[Tensor, "B levels"]:
    """P(level) of each level under `ordinal`'s model, lowest first."""
    above = torch.sigmoid(scores[:, None] - thresholds[None, :])
    ones, zeros = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
    return torch.cat([ones, above], dim=1) - torch.cat([above, zeros], dim=1)


def rising(raw: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    """Rising thresholds from free numbers: the first as it is, then steps of softplus."""
    return torch.cat([raw[:1], softplus(raw[1:])]).cumsum(0)


def free(thresholds: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    """The numbers that `rising` makes these thresholds of."""
    steps = thresholds.diff()
    return torch.cat([thresholds[:1], steps + torch.log(-torch.expm1(-steps))])


# Of every token: `token_scores[b, t]` is the head at completion token t, having read it.


def outcome(
    token_scores: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], good: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """`binary` at every token of a completion with the whole one's label, averaged over its tokens (arXiv:2110.14168).

    At the last token it is what `binary` trains; before it, how likely the completion is to end well.
    """
    clean = keep(token_scores, mask)
    return sequence_mean(-logsigmoid(torch.where(good[:, None], clean, -clean)), mask)


def process(
    token_scores: Float[Tensor, "B T"], step_ends: Bool[Tensor, "B T"], good: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """`binary` where each step ends, with that step's own label, averaged over a completion's steps (arXiv:2305.20050).

    `step_ends` is True at a step's last token; other tokens' scores are not trained. One step a completion is `binary`.
    """
    clean = keep(token_scores, step_ends)
    return sequence_mean(-logsigmoid(torch.where(good, clean, -clean)), step_ends)


def segments(
    chosen_scores: Float[Tensor, "B T"],
    rejected_scores: Float[Tensor, "B T"],
    chosen_mask: Bool[Tensor, "B T"],
    rejected_mask: Bool[Tensor, "B T"],
    *,
    random_share: float = 0.0,
) -> Float[Tensor, " B"]:
    """Preference between trajectories whose returns are the sums of their tokens' rewards (arXiv:1706.03741, section 2.2.3).

    -log[(1 - ε) σ(Σ_t r_w,t - Σ_t r_l,t) + ε/2]: `random_share` ε is how often a person answers by chance, 0.1 in the paper. A sum and
    not a mean: length counts. The score of a completion is then its sum of rewards.
    """
    difference = sequence_sum(chosen_scores, chosen_mask) - sequence_sum(rejected_scores, rejected_mask)
    if not random_share:
        return -logsigmoid(difference)
    by_chance = difference.new_tensor(math.log(random_share / 2))
    return -torch.logaddexp(math.log1p(-random_share) + logsigmoid(difference), by_chance)


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
    """The last score under the mask instead of those behind it."""
    places = torch.arange(scores.shape[1], device=scores.device)
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    return keep(scores, mask).gather(1, torch.minimum(places.expand_as(last.expand_as(scores)), last))


# From scores at some tokens to one of the completion; the mask is True on those that count.


def steps_minimum(token_scores: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """The lowest step's score: a solution is as good as its worst step (arXiv:2305.20050). 0 if there is no step."""
    lowest = torch.where(mask, token_scores, -_ABSENT).min(dim=1).values
    return torch.where(mask.any(dim=1), lowest, 0.0)


def steps_product(token_scores: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Log-probability that every step is good, Σ log σ(r_t) (arXiv:2305.20050). Never above 0, and lower with more steps."""
    return sequence_sum(logsigmoid(keep(token_scores, mask)), mask)


def steps_last(token_scores: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """The last step's score (arXiv:2211.14275). 0 if there is no step."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, 0).max(dim=1, keepdim=True).values
    return keep(token_scores, mask).gather(1, last).squeeze(1)


TOKEN_READINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": sequence_sum,
    "minimum": steps_minimum,
    "product": steps_product,
    "last": steps_last,
}


# Of M models: `scores[m, b]`.


def ensemble_mean(scores: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
    """Mean over models (arXiv:2310.02743)."""
    return scores.mean(dim=0)


def ensemble_worst(scores: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
    """The lowest model's score, worst-case optimisation of arXiv:2310.02743: to score high, a completion must please all."""
    return scores.min(dim=0).values


def ensemble_penalised(scores: Float[Tensor, "M B"], *, penalty: float = 0.5) -> Float[Tensor, " B"]:
    """mean - λ var, uncertainty-weighted optimisation of arXiv:2310.02743; the variance is the biased one."""
    mean = scores.mean(dim=0)
    return mean - penalty * (scores - mean).square().mean(dim=0)  # `var` warns where there is no completion


ENSEMBLES: Mapping[str, Callable[..., Tensor]] = {
    "mean": ensemble_mean,
    "worst": ensemble_worst,
    "penalised": ensemble_penalised,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardLoss:
    """What a reward model can be trained by."""

    data: Data | Literal["steps"]
    source: str
    shift_free: bool
    """Whether adding a constant to all scores changes nothing, so that `centring` has something to fix."""
    every_token: bool = False
    """Whether it needs the score at every token, not at the last alone."""
    read: Literal["last", "sum", "steps"] = "last"
    """Where the score of a model that it has trained is read."""


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
    "ordinal": RewardLoss(data="scores", source="McCullagh 1980", shift_free=False),
    "process": RewardLoss(
        data="steps", source="arXiv:2305.20050", shift_free=False, every_token=True, read="steps"
    ),
    "segments": RewardLoss(
        data="comparisons", source="arXiv:1706.03741", shift_free=False, every_token=True, read="sum"
    ),
}
"""Name -> reward model objective; `loop/reward_step.py` calls the function of that name."""
