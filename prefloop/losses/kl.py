"""How far the policy is from the reference, per completion token, and the controller that steers it.

With y_t drawn from π at a prefix and r = log π(y_t) - log π_ref(y_t), Schulman's estimators (http://joschu.net/blog/kl-approx.html) are

    name    value             estimates    expected gradient as a loss    expected policy gradient as a reward
    k1      r                 unbiased     zero                           ∇KL
    k2      r^2 / 2           biased       ∇KL                            not ∇KL
    k3      exp(-r) - 1 + r   unbiased     ∇KL(π_ref || π)                ∇KL - ∇KL(π_ref || π)
    exact   Σ_v π(v) r(v)     itself       ∇KL                            zero

where "as a loss" differentiates through π, with the samples' own policy as π, and "as a reward" does not. So k1 belongs in the reward, k2 or
`exact` in the loss. `exact` in the reward is a function of the prefix alone and tells a token nothing about its own probability. `exact`
needs the whole vocabulary: the models compute it in their pass and hand it over as a tensor like the others'.

The gradients above hold the prefix fixed. What a token does to the KL of the tokens after it is seen by the KL in the reward (through the
returns), and by no KL in the loss. Sum over a completion's tokens for the KL of the sequence; the mean per token is smaller by the length.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from prefloop.errors import InputError
from prefloop.losses.ratio import bounded_exp

CONTROLLER_CLIP = 0.2
"""The relative error is clipped to plus or minus this before it moves the coefficient."""


def k1(logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The log-ratio r: unbiased, often negative, the one to subtract from rewards."""
    return logprobs - reference_logprobs


def k2(logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """r^2 / 2: biased in value, and on-policy its gradient r∇log π is the KL's in expectation."""
    return (logprobs - reference_logprobs).square() / 2


def k3(logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """exp(-r) - 1 + r: unbiased and never negative. The exponential is bounded, see `ratio.bounded_exp`."""
    log_ratio = logprobs - reference_logprobs
    return bounded_exp(-log_ratio) - 1 + log_ratio


Estimator = Callable[[Float[Tensor, "B T"], Float[Tensor, "B T"]], Float[Tensor, "B T"]]

ESTIMATORS: Mapping[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3}
"""Estimators that need only the chosen tokens' log-probabilities, by their name in the configuration."""


def next_coef(coef: float, observed_kl: float, *, target: float, horizon: int, n: int) -> float:
    """The KL coefficient after `n` more completions, section 2.2 of arXiv:1909.08593.

    coef (1 + e n / horizon), e = clip(observed_kl / target - 1, ±0.2). `observed_kl` is the mean KL per completion (nats, summed over
    its tokens and nothing else) that the policy was penalised for. Raises InputError where a step is so large against the
    horizon that the coefficient could reach zero or change its sign.
    """
    if CONTROLLER_CLIP * n >= horizon:
        raise InputError(
            f"kl.horizon is {horizon} with {n} completions a step; it must be above {CONTROLLER_CLIP * n:g}, "
            "or one step could turn kl.coef negative"
        )
    error = min(max(observed_kl / target - 1, -CONTROLLER_CLIP), CONTROLLER_CLIP)
    return coef * (1 + error * n / horizon)
