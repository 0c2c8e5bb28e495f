"""Losses on comparisons from the policy alone. No parameter begins with `reference`, so no reference is loaded or run.

p̄ is a completion's mean log-probability per token; parameters and settings as in `pairwise`.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from prefloop.losses.pairwise import Count, PerPair

LARGEST_MEAN_LOGPROB = -1e-6
"""A completion of probability 1 has infinite odds; it is held just below."""


def sft_loss(policy_chosen: PerPair, chosen_tokens: Count) -> PerPair:
    """Negative log-likelihood of the chosen completion, per token of it: what any preference method must beat."""
    return -policy_chosen / chosen_tokens.clamp(min=1)


def slic_hf_loss(
    policy_chosen: PerPair, policy_rejected: PerPair, *, delta: float = 1.0, sft: float = 0.1
) -> PerPair:
    """SLiC-HF, arXiv:2305.10425: max(0, δ - lp_w + lp_l) - λ lp_sft, where the target of the second term is the chosen completion.

    Summed log-probabilities; λ is `sft`.
    """
    return relu(delta - policy_chosen + policy_rejected) - sft * policy_chosen


def simpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    chosen_tokens: Count,
    rejected_tokens: Count,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> PerPair:
    """SimPO, arXiv:2405.14734: -log σ(β(p̄_w - p̄_l) - γ). γ is the margin itself: the paper's tables print γ/β."""
    chosen = policy_chosen / chosen_tokens.clamp(min=1)
    return -logsigmoid(beta * (chosen - policy_rejected / rejected_tokens.clamp(min=1)) - gamma)


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log(p/(1 - p)) of p = e^p̄, in the form that loses no digits at either end."""
    p = mean_logprob.clamp(max=LARGEST_MEAN_LOGPROB)
    return p - torch.where(p > -0.6931472, torch.log(-torch.expm1(p)), torch.log1p(-torch.exp(p)))


def orpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    chosen_tokens: Count,
    rejected_tokens: Count,
    *,
    weight: float = 0.1,
) -> PerPair:
    """ORPO, arXiv:2403.07691: NLL(y_w) + λ (-log σ(lo_w - lo_l)), lo the log-odds of the mean probability per token.

    The NLL is per token of the chosen completion, prompt excluded. With summed log-probabilities log(1 - p) would vanish. λ is `weight`.
    """
    chosen = policy_chosen / chosen_tokens.clamp(min=1)
    rejected = policy_rejected / rejected_tokens.clamp(min=1)
    return -chosen - weight * logsigmoid(log_odds(chosen) - log_odds(rejected))


def cpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    chosen_tokens: Count,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
) -> PerPair:
    """Contrastive preference optimisation, arXiv:2401.08417: -log σ(β(lp_w - lp_l)) + α NLL(y_w). DPO against a uniform reference;
    log-probabilities summed in the first term, NLL per token."""
    nll = -policy_chosen / chosen_tokens.clamp(min=1)
    return -logsigmoid(beta * (policy_chosen - policy_rejected)) + alpha * nll


def cringe_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    chosen_tokens: Count,
    rejected_contrast: PerPair,
    *,
    alpha: float = 0.02,
    gap: float = 0.0,
    tau: float = 10.0,
) -> PerPair:
    """Pairwise CRINGE, arXiv:2312.16682: σ((b - (lp_w - lp_l))/τ) · [NLL(y_w) + α C(y_l)], all per token but the gate's margin.

    C is `rejected_contrast`: how much likelier each token of the rejected completion is than another of the five likeliest,
    -log(e^{s_k} / (e^{s_k} + e^{s_y})) with k drawn from those by their probabilities. Here it is the mean over that draw, so the step has no noise
    of its own. The gate σ closes once the chosen completion leads by more than b, `gap`; its gradient widens the lead too.
    """
    gate = torch.sigmoid((gap - (policy_chosen - policy_rejected)) / tau)
    return gate * (alpha * rejected_contrast - policy_chosen / chosen_tokens.clamp(min=1))


def unlikelihood_loss(policy_chosen: PerPair, policy_rejected: PerPair, *, alpha: float = 0.05) -> PerPair:
    """-lp_w + α lp_l: gradient ascent on the rejected side. Diverges; a control, not a method."""
    return -policy_chosen + alpha * policy_rejected
