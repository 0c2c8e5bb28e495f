"""Losses on completions judged by themselves: `good` or not, or given a `score`. One number a completion.

Log-probabilities are summed over tokens; ρ, parameters and settings as in `pairwise`.
"""

from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

Each: TypeAlias = Float[Tensor, " B"]
Flag: TypeAlias = Bool[Tensor, " B"]
Scalar: TypeAlias = Float[Tensor, ""]


def kto_loss(
    policy: Each,
    reference: Each,
    good: Flag,
    reference_point: Scalar,
    *,
    beta: float = 0.1,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
) -> Each:
    """Kahneman-Tversky optimisation, arXiv:2402.01306: λ_D (1 - σ(βρ - βz)) if good, λ_U (1 - σ(βz - βρ)) if not.

    z, `reference_point`, is the KL to the reference as seen on mismatched completions (`whole_step.kto_step`), without gradient. The paper keeps
    λ_D n_D / (λ_U n_U) between 1 and 4/3.
    """
    gap = beta * (policy - reference - reference_point)
    return torch.where(good, good_weight * torch.sigmoid(-gap), bad_weight * torch.sigmoid(gap))


def bco_loss(policy: Each, reference: Each, good: Flag, reward_shift: Scalar, *, beta: float = 0.01) -> Each:
    """Binary classifier optimisation, arXiv:2404.04656: -log σ(±(βρ - δ)), plus for good completions and minus for bad ones.

    δ, `reward_shift`, is a moving mean of implicit rewards (`whole_step.bco_step`). Not reweighted by where good and bad prompts come from: that is
    `bco_matched_loss`.
    """
    gap = beta * (policy - reference) - reward_shift
    return -logsigmoid(torch.where(good, gap, -gap))


def bco_matched_loss(
    policy: Each,
    reference: Each,
    good: Flag,
    reward_shift: Scalar,
    prompt_odds: Each,
    *,
    beta: float = 0.01,
    least: float = 0.5,
    most: float = 10.0,
) -> Each:
    """BCO with underlying distribution matching, arXiv:2404.04656: bad completions weigh p(x | good) / p(x | bad), held in [least, most].

    Where good and bad completions answer different prompts, the classifier would learn the prompts apart. `prompt_odds` is that ratio as a
    logistic regression on the prompts estimates it (`density_ratio.odds_of`); at 1 everywhere this is `bco_loss`.
    """
    loss = bco_loss(policy, reference, good, reward_shift, beta=beta)
    return torch.where(good, 1.0, prompt_odds.clamp(least, most)) * loss


def npo_loss(
    policy: Each,
    reference: Each,
    good: Flag,
    tokens: Int[Tensor, " B"],
    *,
    beta: float = 0.1,
    retain: float = 1.0,
) -> Each:
    """Negative preference optimisation, arXiv:2404.05868: -(2/β) log σ(-βρ) of a bad completion; gradient ascent on it as β → 0.

    A good completion is what must not be forgotten: `retain` times its negative log-likelihood per token.
    """
    forget = -(2 / beta) * logsigmoid(-beta * (policy - reference))
    return torch.where(good, -retain * policy / tokens.clamp(min=1), forget)


def dro_loss(policy: Each, reference: Each, score: Each, value: Each, *, tau: float = 1.0) -> Each:
    """Direct reward optimisation, arXiv:2405.19107: ½ (r - V(x) - τρ)², minimised in the policy and in V, the value of the prompt, at once."""
    return 0.5 * (score - value - tau * (policy - reference)).square()
