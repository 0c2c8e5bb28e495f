"""Implicit language Q-learning (arXiv:2206.11871), per completion token. Minimised; `reduce` makes them numbers.

With s_t the prompt and the tokens before token a_t, and V = 0 once the completion is over:

    Q(s_t, a_t)  regresses to   r_t + γ V(s_{t+1})
    V(s_t)       regresses to   an upper expectile τ of min over both target heads of Q(s_t, a_t), over the actions in the data

so V approaches the value of the best actions that the data supports, and no action outside the data is ever evaluated.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.losses.advantages import assert_right_padded
from prefloop.losses.reduce import keep

WEIGHT_CAP = 20.0
"""Largest weight of a token in the weighted likelihood, as in the code of arXiv:2110.06169: an exponential without a bound follows one token."""


@torch.no_grad()
def td_targets(
    rewards: Float[Tensor, "B T"], values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float
) -> Float[Tensor, "B T"]:
    """r_t + γ V(s_{t+1}), with V = 0 after a completion's last token; zeros outside the mask. `values[b, t]` is V before token t."""
    assert_right_padded(mask)
    following = torch.zeros_like(values)
    following[:, :-1] = keep(values, mask)[:, 1:]
    return keep(rewards + gamma * following, mask)


def td_loss(q: Float[Tensor, "B T"], targets: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """½ (Q(s_t, a_t) - target)² of one Q head."""
    return 0.5 * (q - targets).square()


def expectile_loss(
    values: Float[Tensor, "B T"], q: Float[Tensor, "B T"], *, tau: float
) -> Float[Tensor, "B T"]:
    """|τ - 1(Q < V)| (Q - V)², eq. 5 of arXiv:2110.06169; the gradient goes to V alone. τ = ½ is half the squared error: V is then the mean."""
    error = q.detach() - values
    weight = torch.where(error < 0, 1 - tau, tau)
    return weight * error.square()


@torch.no_grad()
def likelihood_weights(
    q: Float[Tensor, "B T"], values: Float[Tensor, "B T"], *, beta: float
) -> Float[Tensor, "B T"]:
    """min(exp(β (Q - V)), 20): how much a token's likelihood counts (advantage-weighted, arXiv:2006.09359). β = 0 is plain likelihood."""
    return (beta * (q - values)).exp().clamp(max=WEIGHT_CAP)
