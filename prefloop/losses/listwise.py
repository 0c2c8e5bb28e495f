"""Losses on rankings: G prompts with up to K completions each, best first, `present` False if a prompt has fewer.

Log-probabilities are summed over tokens; ρ, p̄, parameters and settings as in `pairwise`. Each gives one number a ranking. What stands where
`present` is False never counts, in value or gradient.
"""

from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, relu, softplus

PerItem: TypeAlias = Float[Tensor, "G K"]
Present: TypeAlias = Bool[Tensor, "G K"]
Lengths: TypeAlias = Int[Tensor, "G K"]
PerList: TypeAlias = Float[Tensor, " G"]

_ABSENT = -1e30
"""Stands for a score of minus infinity: finite, so that its gradient is 0 and not NaN."""


def plackett_luce(scores: PerItem, present: Present) -> PerList:
    """-log of Plackett and Luce's probability of the order: Σ_k [logsumexp_{j≥k} s_j - s_k]; the last item's term is 0. Bradley-Terry at K = 2."""
    return plackett_luce_top(scores, present, present)


def plackett_luce_top(scores: PerItem, present: Present, placed: Present) -> PerList:
    """`plackett_luce` of the first places alone, those where `placed` is True: -log of the probability that these come first, in this order,
    before all that are present. Of one place it is the choice of the best of K."""
    k = torch.arange(scores.shape[1], device=scores.device)
    left = (k[None, None, :] >= k[None, :, None]) & present[:, None, :]
    clean = torch.where(present, scores, 0.0)
    rest = torch.where(left, clean[:, None, :], _ABSENT).logsumexp(dim=2)
    return torch.where(placed, rest - clean, 0.0).sum(dim=1)


def pairs_of(present: Present) -> Bool[Tensor, "G K K"]:
    """True at [g, i, j] where both are there and i is better than j."""
    k = torch.arange(present.shape[1], device=present.device)
    return (k[:, None] < k[None, :]) & present[:, :, None] & present[:, None, :]


def pl_dpo_loss(policy: PerItem, reference: PerItem, present: Present, *, beta: float = 0.1) -> PerList:
    """DPO of a whole ranking, arXiv:2305.18290: Plackett-Luce on the implicit rewards βρ."""
    return plackett_luce(beta * (policy - reference), present)


def rrhf_loss(policy: PerItem, tokens: Lengths, present: Present, *, sft: float = 1.0) -> PerList:
    """RRHF, arXiv:2304.05302: Σ_{i better than j} max(0, p̄_j - p̄_i) + NLL of the best, summed over its tokens."""
    mean = torch.where(present, policy, 0.0) / tokens.clamp(min=1)
    worse_above = relu(mean[:, None, :] - mean[:, :, None])
    return torch.where(pairs_of(present), worse_above, 0.0).sum(dim=(1, 2)) - sft * policy[:, 0]


def pro_loss(policy: PerItem, tokens: Lengths, present: Present, *, sft: float = 0.05) -> PerList:
    """Preference ranking optimisation, arXiv:2306.17492: Plackett-Luce on p̄, plus β NLL of the best per token.

    β = 0.05 (K - 1)² as published, `sft` times (K - 1)²; every temperature is 1, as where no scores are given.
    """
    mean = torch.where(present, policy, 0.0) / tokens.clamp(min=1)
    weight = sft * (present.sum(dim=1) - 1).to(policy.dtype).square()
    return plackett_luce(mean, present) - weight * mean[:, 0]


def lambda_weights(
    relevance: PerItem, ranks: Float[Tensor, "G K"], present: Present
) -> Float[Tensor, "G K K"]:
    """|2^ψ_i - 2^ψ_j| · |1/log(1 + τ_i) - 1/log(1 + τ_j)| for i better than j, 0 elsewhere: what swapping them would change of the DCG."""
    gain = torch.exp2(relevance)
    discount = 1 / torch.log1p(ranks)
    change = (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, :, None] - discount[:, None, :]).abs()
    return torch.where(pairs_of(present), change, 0.0)


def lipo_lambda_loss(
    policy: PerItem, reference: PerItem, relevance: PerItem, present: Present, *, beta: float = 0.05
) -> PerList:
    """LiPO-λ, arXiv:2402.01878: Σ_{ψ_i>ψ_j} Δ_ij log(1 + e^-(s_i - s_j)), s = βρ; Δ as in `lambda_weights` with τ the rank by s.

    Δ is taken without gradient. Ties of s are ranked in the order given.
    """
    scores = torch.where(present, beta * (policy - reference), 0.0)
    sortable = torch.where(present, scores.detach(), _ABSENT)
    ranks = sortable.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    change = lambda_weights(relevance, ranks.to(scores.dtype), present)
    return (change * softplus(scores[:, None, :] - scores[:, :, None])).sum(dim=(1, 2))


def rank_dpo_loss(
    policy: PerItem, reference: PerItem, relevance: PerItem, present: Present, *, beta: float = 0.1
) -> PerList:
    """RankDPO, arXiv:2410.18013: DPO's loss of all pairs, each weighted by what swapping it changes of the DCG of the *given* ranking."""
    scores = torch.where(present, beta * (policy - reference), 0.0)
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype).expand_as(scores)
    change = lambda_weights(relevance, ranks, present)
    return (change * softplus(scores[:, None, :] - scores[:, :, None])).sum(dim=(1, 2))


def d2o_loss(
    policy: PerItem, reference: PerItem, present: Present, *, beta: float = 0.1, alpha: float = 0.1
) -> PerList:
    """Distributional dispreference optimisation, arXiv:2403.03419: -log σ((β/K) Σ_i ρ(y_i) - α ρ(y_l)).

    The last completion of a ranking is the dispreferred one, those before it are the policy's own samples, better in no particular order. The
    paper allows one reference for each of the two sides: `reference_last` of `prefloop prefer` gives the dispreferred one its own.
    """
    ratio = torch.where(present, policy - reference, 0.0)
    last = (present.sum(dim=1) - 1).clamp(min=0)
    bad = ratio.gather(1, last[:, None]).squeeze(1)
    return -logsigmoid(beta * (ratio.sum(dim=1) - bad) / last.clamp(min=1) - alpha * bad)
