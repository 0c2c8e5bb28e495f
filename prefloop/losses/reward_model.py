"""Losses and measures of reward models: functions of one score per completion."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


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
