"""Probability ratios from log-probabilities, finite for any finite input."""

from jaxtyping import Float
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""`bounded_exp` is the exponential up to here (4.9e8); a log-ratio this large is a broken policy or a broken forward, not learning."""


def bounded_exp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(x), continued by its tangent above `LOG_RATIO_LIMIT`.

    float32 overflows at 88, and an infinite ratio turns gradients into `0 * inf` even where the clip discards it. Clamping x instead would
    cut the gradient exactly where the policy is furthest off (and turn k3's the wrong way); the tangent keeps its sign and keeps it finite.
    """
    return x.clamp(max=LOG_RATIO_LIMIT).exp() * (1 + (x - LOG_RATIO_LIMIT).relu())


def probability_ratio(
    logprobs: Float[Tensor, "*shape"], old_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """π(a) / π_old(a) from log-probabilities; exactly 1 if they are equal."""
    return bounded_exp(logprobs - old_logprobs)


def clip_range(clip: float | tuple[float, float]) -> tuple[float, float]:
    """Bounds of a clipped ratio, (1 - low, 1 + high); one number is both."""
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    return 1 - low, 1 + high
