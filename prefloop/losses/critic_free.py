"""Policy gradients without a critic: the parts that REINFORCE, RLOO, REINFORCE++, ReMax, GRPO, Dr. GRPO, DAPO, GSPO and CISPO differ in.

A method is one entry of each dictionary here: how rewards become advantages (`ADVANTAGES`), over what the probability ratio is taken
(`RATIOS`), what the ratio does to the loss (`SURROGATES`) and how the tokens' losses become one number (`REDUCTIONS`).

    method          advantage       baseline    ratio           surrogate   reduction       source
    reinforce       return          running     token           score       sequence_sum    Williams 1992; baseline of arXiv:2402.14740
    rloo            leave_one_out   -           token           score       sequence_sum    arXiv:2402.14740
    reinforce++     return          none        token           clipped     token_mean      arXiv:2501.03262 (advantages whitened)
    remax           return          greedy      token           score       sequence_sum    arXiv:2310.10505
    grpo            group_std       -           token           clipped     sequence_mean   arXiv:2402.03300
    dr_grpo         group_mean      -           token           clipped     fixed_length    arXiv:2503.20783
    dapo            group_std       -           token           clipped     token_mean      arXiv:2503.14476 (clip (0.2, 0.28))
    gspo            group_std       -           sequence_mean   clipped     sequence_mean   arXiv:2507.18071
    cispo           group_std       -           token           weighted    token_mean      arXiv:2506.13585
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.errors import InputError
from prefloop.losses.advantages import returns_to_go
from prefloop.losses.policy_gradient import clipped_surrogate, is_clipped
from prefloop.losses.ratio import clip_range, probability_ratio
from prefloop.losses.reduce import (
    fixed_length,
    keep,
    sequence_mean,
    sequence_mean_of_token_mean,
    sequence_sum,
    token_mean,
)

STD_EPS = 1e-4
"""Added to a group's standard deviation, as in TRL: groups whose rewards hardly differ are not blown up."""


# Advantages: no gradient, zeros outside the mask. `rewards` are per token and hold the score on the last one; `group` says which prompt.


@torch.no_grad()
def return_advantages(
    rewards: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, " B"],
    baseline: Float[Tensor, " B"],
) -> Float[Tensor, "B T"]:
    """Return from each token on, less a baseline: A_t = Σ_{k>=t} r_k - b. Unbiased for any b that does not depend on the completion."""
    return keep(returns_to_go(rewards, mask, gamma=1.0) - baseline.unsqueeze(1), mask)


@torch.no_grad()
def leave_one_out_advantages(
    rewards: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, " B"],
    baseline: Float[Tensor, " B"],
) -> Float[Tensor, "B T"]:
    """RLOO, eq. 9 of arXiv:2402.14740: a completion's whole reward less the mean of its prompt's other ones; the same for every token.

    K / (K - 1) times `group_mean_advantages` in a group of K. Unbiased: the others do not depend on this completion.
    """
    size, centred, _ = _within_groups(rewards, mask, group)
    return _on_tokens(centred * size / (size - 1), mask)


@torch.no_grad()
def group_mean_advantages(
    rewards: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, " B"],
    baseline: Float[Tensor, " B"],
) -> Float[Tensor, "B T"]:
    """Dr. GRPO (arXiv:2503.20783): whole reward less the mean of its group; the same for every token."""
    _, centred, _ = _within_groups(rewards, mask, group)
    return _on_tokens(centred, mask)


@torch.no_grad()
def group_std_advantages(
    rewards: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, " B"],
    baseline: Float[Tensor, " B"],
) -> Float[Tensor, "B T"]:
    """GRPO (section 4.1.2 of arXiv:2402.03300): (reward - mean) / (std + 1e-4) within its group; the same for every token.

    The standard deviation is the unbiased one, as in the public implementations. A group of equal rewards gives zeros.
    """
    _, centred, std = _within_groups(rewards, mask, group)
    return _on_tokens(centred / (std + STD_EPS), mask)


def _within_groups(
    rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], group: Int[Tensor, " B"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Of every completion: the size of its group, its reward less the group's mean, and the group's standard deviation.

    Raises `InputError` for a group of one: its advantage would be zero whatever it did, and nothing would be learned.
    """
    totals = sequence_sum(rewards, mask)
    groups = int(group.max()) + 1 if len(group) else 0

    def of_group(values: Tensor) -> Tensor:
        return values.new_zeros(groups).index_add(0, group, values)[group]

    size = of_group(torch.ones_like(totals))
    if bool((size < 2).any()):
        raise InputError(
            "a group has one completion, and its advantage within the group is always 0; set completions_per_prompt to 2 or more"
        )
    # Twice: rounding in the mean of large equal rewards would otherwise look like a difference to divide by.
    centred = totals - of_group(totals) / size
    centred = centred - of_group(centred) / size
    centred = torch.where(centred.abs() <= _ROUNDING * totals.abs(), 0.0, centred)
    return size, centred, (of_group(centred.square()) / (size - 1)).sqrt()


_ROUNDING = 1e-6
"""Rewards that differ by less than this share of themselves are equal as far as float32 can tell."""


def _on_tokens(values: Float[Tensor, " B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    return keep(values.unsqueeze(1).expand(mask.shape), mask)


Advantages = Callable[
    [Float[Tensor, "B T"], Bool[Tensor, "B T"], Int[Tensor, " B"], Float[Tensor, " B"]], Float[Tensor, "B T"]
]

ADVANTAGES: Mapping[str, Advantages] = {
    "return": return_advantages,
    "leave_one_out": leave_one_out_advantages,
    "group_mean": group_mean_advantages,
    "group_std": group_std_advantages,
}
"""By their name in the configuration."""


# Over what the ratio is taken: what a surrogate reads instead of a token's log-probability.


def token_logprobs(logprobs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Every token its own ratio."""
    return logprobs


def sequence_mean_logprobs(logprobs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """GSPO (eq. 7 of arXiv:2507.18071): all tokens of a completion share exp(mean_t(log π - log π_old)), the length-normalised ratio."""
    return keep(sequence_mean(logprobs, mask).unsqueeze(1).expand(mask.shape), mask)


def sequence_sum_logprobs(logprobs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The completion's own probability ratio, exp(Σ_t(log π - log π_old)), shared by its tokens; use it with `sequence_mean`."""
    return keep(sequence_sum(logprobs, mask).unsqueeze(1).expand(mask.shape), mask)


Ratio = Callable[[Float[Tensor, "B T"], Bool[Tensor, "B T"]], Float[Tensor, "B T"]]

RATIOS: Mapping[str, Ratio] = {
    "token": token_logprobs,
    "sequence_mean": sequence_mean_logprobs,
    "sequence_sum": sequence_sum_logprobs,
}
"""By their name in the configuration."""


# Surrogates: losses per token whose gradient is the policy gradient. `clip` is (low, high).


def score_surrogate(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip: tuple[float, float],
) -> Float[Tensor, "B T"]:
    """REINFORCE: -A log π. No ratio and no clip, so it is right only for samples of the very policy that is updated."""
    return -advantages * logprobs


def clipped(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip: tuple[float, float],
) -> Float[Tensor, "B T"]:
    """PPO's clipped objective, see `clipped_surrogate`."""
    return clipped_surrogate(logprobs, old_logprobs, advantages, clip=clip)


def weighted_surrogate(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip: tuple[float, float],
) -> Float[Tensor, "B T"]:
    """CISPO (eq. 4 of arXiv:2506.13585): -sg(clip(ρ, 1 - low, 1 + high)) A log π. The weight is clipped and no token's gradient is cut."""
    low, high = clip_range(clip)
    weight = probability_ratio(logprobs, old_logprobs).detach().clamp(low, high)
    return -weight * advantages * logprobs


def weight_is_clipped(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip: tuple[float, float],
) -> Float[Tensor, "B T"]:
    """1 where CISPO's weight is clipped, else 0; such tokens still learn."""
    low, high = clip_range(clip)
    ratio = probability_ratio(logprobs, old_logprobs)
    return ((ratio < low) | (ratio > high)).to(logprobs.dtype)


Surrogate = Callable[..., Float[Tensor, "B T"]]

CLIPPED: Mapping[str, Surrogate] = {
    "clipped": is_clipped,
    "weighted": weight_is_clipped,
}
"""1 if the surrogate of that name has clipped, else 0; those that are not here clip nothing."""

SURROGATES: Mapping[str, Surrogate] = {
    "score": score_surrogate,
    "clipped": clipped,
    "weighted": weighted_surrogate,
}
"""By their name in the configuration."""


# Reductions: this micro-batch's part of the step's loss, given the counts of the whole step.


def _token_mean(losses: Tensor, mask: Tensor, *, tokens: float, sequences: float, length: int) -> Tensor:
    return token_mean(losses, mask, tokens=tokens)


def _sequence_mean(losses: Tensor, mask: Tensor, *, tokens: float, sequences: float, length: int) -> Tensor:
    return sequence_mean_of_token_mean(losses, mask, sequences=sequences)


def _sequence_sum(losses: Tensor, mask: Tensor, *, tokens: float, sequences: float, length: int) -> Tensor:
    return fixed_length(losses, mask, length=1, sequences=sequences)


def _fixed_length(losses: Tensor, mask: Tensor, *, tokens: float, sequences: float, length: int) -> Tensor:
    return fixed_length(losses, mask, length=length, sequences=sequences)


Reduction = Callable[..., Float[Tensor, ""]]

REDUCTIONS: Mapping[str, Reduction] = {
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "sequence_sum": _sequence_sum,
    "fixed_length": _fixed_length,
}
"""By their name in the configuration: mean over all tokens; over completions of their token means; of their token sums; of those sums / `length`."""
