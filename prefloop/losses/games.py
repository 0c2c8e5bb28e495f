"""Losses of preference games: what is sought is a policy that none is preferred to, not one with a high score.

`payoff` and `win_rate` are probabilities of being preferred, in [0, 1]; a half says nothing. Minimised; per completion.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def nash_md_loss(
    logprobs: Float[Tensor, " B"], payoff: Float[Tensor, " B"], kl: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """Nash-MD's policy gradient, section 7 of arXiv:2312.00886, negated: -sg(P(y ≻ y') - ½ - β log(π(y)/π_ref(y))) log π(y).

    `logprobs` and `kl` (the log-ratio) are summed over a completion's tokens: what a token does to the log-ratio of the others belongs to the
    gradient of the KL, so it is the whole completion's log-ratio that weighs each token, not its own. y' is the opponent's completion.
    """
    return -(payoff - 0.5 - beta * kl).detach() * logprobs


def sppo_loss(
    logprobs: Float[Tensor, " B"],
    round_logprobs: Float[Tensor, " B"],
    win_rate: Float[Tensor, " B"],
    *,
    eta: float,
) -> Float[Tensor, " B"]:
    """Self-play preference optimisation, eq. 4.4 of arXiv:2405.00675: (log(π(y)/π_t(y)) - η (P(y ≻ π_t) - ½))².

    `round_logprobs` are those of the policy that sampled, π_t, and `win_rate` is P(y ≻ π_t). Its minimum is the multiplicative-weights step
    π_{t+1} ∝ π_t exp(η P(y ≻ π_t)) where log of the normaliser is η / 2.
    """
    return (logprobs - round_logprobs - eta * (win_rate - 0.5)).square()


@torch.no_grad()
def bradley_terry_table(scores: Float[Tensor, "P K"]) -> Float[Tensor, "P K K"]:
    """P(y_i ≻ y_j) of each prompt's K completions where a score decides: σ(s_i - s_j)."""
    return (scores.unsqueeze(2) - scores.unsqueeze(1)).sigmoid()


@torch.no_grad()
def win_rates(table: Float[Tensor, "P K K"]) -> Float[Tensor, "P K"]:
    """Mean probability that a completion is preferred to one of its prompt's others.

    The completion itself is left out: it would pull each mean to a half, by 1 / K of its distance.
    """
    k = table.shape[-1]
    assert k >= 2, "a completion needs another one to be compared with"
    return (table.sum(dim=2) - table.diagonal(dim1=1, dim2=2)) / (k - 1)
