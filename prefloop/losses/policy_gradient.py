"""PPO's losses per completion token (arXiv:1707.06347). Minimised; `reduce` makes them a number.

The entropy bonus needs no function: the models give each token's entropy, and the loss subtracts its mean times a coefficient.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.losses.ratio import clip_range, probability_ratio


def clipped_surrogate(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip: float | tuple[float, float],
    dual_clip: float = 0.0,
) -> Float[Tensor, "B T"]:
    """PPO's clipped objective per token, eq. 7 of arXiv:1707.06347, negated: max(-Aρ, -A clip(ρ, 1 - low, 1 + high)).

    ρ is the probability ratio to the policy that sampled; `clip` one number for both sides or (low, high) (arXiv:2503.14476). The
    gradient is zero only where the ratio has already left the range the way the advantage wanted. The other way it is kept, and
    for A < 0 it grows with ρ without bound; `dual_clip` c > 1 caps that at -cA (arXiv:1912.09729), 0 leaves it.
    """
    assert dual_clip == 0 or dual_clip > 1, f"dual_clip is {dual_clip}"
    ratio = probability_ratio(logprobs, old_logprobs)
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(*clip_range(clip)))
    if dual_clip:
        losses = torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)
    return losses


def is_clipped(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip: float | tuple[float, float],
) -> Float[Tensor, "B T"]:
    """1 if the clip has cut the token's gradient, else 0; its mean is the clip fraction.

    Counts A > 0 above the range and A < 0 below it, not every ratio outside the range: those still learn.
    """
    ratio = probability_ratio(logprobs, old_logprobs)
    low, high = clip_range(clip)
    cut = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    return cut.to(logprobs.dtype)


def clipped_value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    *,
    clip: float,
) -> Float[Tensor, "B T"]:
    """½ max((V - R)^2, (V_old + clamp(V - V_old, ±clip) - R)^2) per token; 0 does not clip.

    `returns` are fixed before the first epoch. As in the policy's loss the maximum is pessimistic: the gradient is zero where the value
    has moved past the clip towards its return, and kept where it has moved away.
    """
    assert clip >= 0, f"value clip is {clip}"
    errors = (values - returns).square()
    if clip:
        near = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (near - returns).square())
    return 0.5 * errors
