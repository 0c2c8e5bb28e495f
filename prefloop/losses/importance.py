"""Weights for completions that were drawn by other numbers than the trainer's: an inference engine's, a bfloat16 cache's, older weights'.

The trainer learns from E_π[f] but has samples of μ, the sampler. With the ratio w = π_old / μ the mean of w f over the samples is right, and
its variance has no bound, so w is bounded. What is published are entries of two dictionaries, `RATIOS` for the level (a token's own ratio, the
completion's, or its geometric mean per token) and `IMPORTANCE_RULES` for the bound:

    name                rule        level           low, high   source
    TIS                 truncate    token           0, 2        Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"
    sequence TIS        truncate    sequence_sum    0, 2        Liu et al. 2025, "When speed kills stability"
    MIS                 mask        sequence_sum    0, 2        the same; `token` and `sequence_mean` (geometric) are its other forms
    IcePop              mask        token           0.5, 5      arXiv:2510.18855
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.losses.critic_free import RATIOS
from prefloop.losses.ratio import probability_ratio
from prefloop.losses.reduce import keep


def truncate(ratio: Float[Tensor, "B T"], low: float, high: float) -> Float[Tensor, "B T"]:
    """min(max(w, low), high): biased towards the sampler where the two differ much, and everything is learned from."""
    return ratio.clamp(low, high)


def mask_outside(ratio: Float[Tensor, "B T"], low: float, high: float) -> Float[Tensor, "B T"]:
    """w inside [low, high], 0 outside: what the two differ about is not learned from."""
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


Rule = Callable[[Float[Tensor, "B T"], float, float], Float[Tensor, "B T"]]

IMPORTANCE_RULES: Mapping[str, Rule] = {"truncate": truncate, "mask": mask_outside}
"""By their name in the configuration."""


def importance_ratios(
    old_logprobs: Float[Tensor, "B T"],
    sampler_logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    level: str,
) -> Float[Tensor, "B T"]:
    """w = π_old / μ without gradient, by a level of `RATIOS`; a completion's tokens share one that is not their own. 0 outside the mask."""
    log_ratio = keep(old_logprobs.detach() - sampler_logprobs, mask)
    shared = RATIOS[level](log_ratio, mask)
    return keep(probability_ratio(shared, torch.zeros_like(shared)), mask)


def importance_weights(
    ratio: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, rule: str, low: float, high: float
) -> Float[Tensor, "B T"]:
    """What each token's loss is multiplied by: `importance_ratios`, bounded. 0 outside the mask.

    Needs 0 <= low <= 1 <= high, so that where trainer and sampler agree the weight is 1 by every rule.
    """
    assert 0 <= low <= 1 <= high, f"importance weights are bounded to {low} to {high}"
    return keep(IMPORTANCE_RULES[rule](ratio, low, high), mask)
