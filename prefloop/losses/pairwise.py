"""Losses on comparisons that hold the policy to a reference.

The four `[B]` tensors that each begins with are log-probabilities summed over a completion's tokens (`reduce.sequence_sum`), of policy and
reference, of the chosen and the rejected completion. Below ρ is a completion's log-ratio, log π - log π_ref, and h = ρ_chosen - ρ_rejected.
A parameter without a default is a quantity that the trainer provides by that name (`prefloop.losses.quantities` lists them); a keyword
with a default is a setting. Each gives one number a comparison.

Losses without a reference are in `reference_free`; those that need the whole step at once say so and have their other half in `whole_step`.
"""

import math
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from prefloop.losses.preference import dpo_loss

PerPair: TypeAlias = Float[Tensor, " B"]
Count: TypeAlias = Int[Tensor, " B"]
Scalar: TypeAlias = Float[Tensor, ""]

SMALLEST_LOG_RATIO = -80.0
"""exp(80) still fits into float32; a completion that has become e^80 times less likely is held there."""


def margin_of(
    policy_chosen: PerPair, policy_rejected: PerPair, reference_chosen: PerPair, reference_rejected: PerPair
) -> PerPair:
    """h, the chosen completion's log-ratio to the reference less the rejected one's."""
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


def robust_dpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> PerPair:
    """Robust DPO, arXiv:2403.00409: [-(1 - ε) log σ(βh) + ε log σ(-βh)] / (1 - 2ε).

    Its mean over labels flipped with probability ε is DPO's loss on the true ones. It can be negative; ε must be below 1/2.
    """
    z = beta * margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (-(1 - label_smoothing) * logsigmoid(z) + label_smoothing * logsigmoid(-z)) / (
        1 - 2 * label_smoothing
    )


def ipo_sum_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """Identity preference optimisation, arXiv:2310.12036: (h - 1/(2β))², log-probabilities summed as in the paper.

    The optimum is h = 1/(2β), whatever the label rate: it does not drift off on deterministic labels as DPO does.
    """
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (h - 1 / (2 * beta)).square()


def ipo_mean_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    chosen_tokens: Count,
    rejected_tokens: Count,
    *,
    beta: float = 0.1,
) -> PerPair:
    """IPO with log-probabilities averaged over tokens, as some libraries compute it: the margin is per token, so β means something else."""
    chosen = (policy_chosen - reference_chosen) / chosen_tokens.clamp(min=1)
    rejected = (policy_rejected - reference_rejected) / rejected_tokens.clamp(min=1)
    return (chosen - rejected - 1 / (2 * beta)).square()


def hinge_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.05,
) -> PerPair:
    """max(0, 1 - βh): SLiC's hinge on log-ratios, the "hinge-norm" of arXiv:2309.06657. No gradient beyond h = 1/β."""
    return relu(1 - beta * margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected))


def dpo_norm_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    chosen_tokens: Count,
    rejected_tokens: Count,
    *,
    beta: float = 5.0,
) -> PerPair:
    """Length-normalised DPO, arXiv:2411.15124: -log σ(β(ρ_w/n_w - ρ_l/n_l)). Per token, so β is larger than DPO's."""
    chosen = (policy_chosen - reference_chosen) / chosen_tokens.clamp(min=1)
    rejected = (policy_rejected - reference_rejected) / rejected_tokens.clamp(min=1)
    return -logsigmoid(beta * (chosen - rejected))


def rpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    chosen_tokens: Count,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
) -> PerPair:
    """DPO + α NLL of the chosen completion per token: iterative RPO, arXiv:2404.19733."""
    nll = -policy_chosen / chosen_tokens.clamp(min=1)
    return (
        dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=beta)
        + alpha * nll
    )


def dpop_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.3,
    penalty: float = 5.0,
) -> PerPair:
    """DPO-positive, arXiv:2402.13228: -log σ(β(h - λ max(0, -ρ_w))). The penalty λ on a chosen completion that falls is inside σ."""
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * (h - penalty * relu(reference_chosen - policy_chosen)))


def tdpo1_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    chosen_kl: PerPair,
    rejected_kl: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """Token-level DPO, arXiv:2404.11999: -log σ(βh - β(K_l - K_w)).

    K is the sequential forward KL, Σ_t KL(π_ref ‖ π) of the next-token distributions along a completion, over the whole vocabulary.
    """
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * (h - (rejected_kl - chosen_kl)))


def tdpo2_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    chosen_kl: PerPair,
    rejected_kl: PerPair,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> PerPair:
    """TDPO2, arXiv:2404.11999: -log σ(βh - αβ(K_l - sg K_w)); no gradient through the chosen completion's KL."""
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * (h - alpha * (rejected_kl - chosen_kl.detach())))


def f_dpo_forward_kl_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """f-DPO under the forward KL, arXiv:2309.16240: -log σ(β(g(ρ_w) - g(ρ_l))) with g(ρ) = f'(e^ρ) = -e^-ρ. g' = 1 at the reference, as in DPO."""
    chosen = (policy_chosen - reference_chosen).clamp(min=SMALLEST_LOG_RATIO)
    rejected = (policy_rejected - reference_rejected).clamp(min=SMALLEST_LOG_RATIO)
    return -logsigmoid(beta * ((-rejected).exp() - (-chosen).exp()))


def f_dpo_jensen_shannon_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """f-DPO under the Jensen-Shannon divergence, arXiv:2309.16240: g(ρ) = ρ - log(1 + e^ρ) + log 2 = log σ(ρ) + log 2; the constant cancels.

    g' = 1/2 at the reference: half of DPO's pull for the same β.
    """
    chosen = logsigmoid(policy_chosen - reference_chosen)
    return -logsigmoid(beta * (chosen - logsigmoid(policy_rejected - reference_rejected)))


def f_dpo_alpha_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> PerPair:
    """f-DPO under the α-divergence, arXiv:2309.16240: g(ρ) = (1 - e^-αρ)/α. DPO as α → 0, the forward KL at α = 1."""
    chosen = (policy_chosen - reference_chosen).clamp(min=SMALLEST_LOG_RATIO)
    rejected = (policy_rejected - reference_rejected).clamp(min=SMALLEST_LOG_RATIO)
    return -logsigmoid(beta * ((-alpha * rejected).exp() - (-alpha * chosen).exp()) / alpha)


def beta_dpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    step_beta: Scalar,
    step_weight: PerPair,
) -> PerPair:
    """β-DPO, arXiv:2407.08639: DPO at the step's own β, on the comparisons that its filter kept; see `whole_step.beta_dpo_step`.

    `step_weight` is 0 on those left out and (comparisons of the step / kept ones) on the others, so the step's mean is the mean over those kept.
    """
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(step_beta * h) * step_weight


def r_dpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    chosen_tokens: Count,
    rejected_tokens: Count,
    *,
    beta: float = 0.1,
    alpha: float = 0.01,
) -> PerPair:
    """DPO regularised for length, arXiv:2403.19159: -log σ(βh + α(n_w - n_l)). A longer winner counts as partly explained and pulls less."""
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * h + alpha * (chosen_tokens - rejected_tokens))


def ld_dpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    reference_margin_shared: PerPair,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> PerPair:
    """Length-desensitised DPO, arXiv:2409.06411: tokens beyond the shorter completion's length count α times, in policy and reference.

    `reference_margin_shared` is h over each completion's first min(n_w, n_l) tokens. α = 1 is DPO; α = 0 looks at equally many tokens of both.
    """
    whole = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * (alpha * whole + (1 - alpha) * reference_margin_shared))


def gpo_exponential_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """GPO with the exponential function, arXiv:2402.05749: e^-βh. (Logistic is DPO, square is IPO at 2β up to 4β², hinge is `hinge`.)"""
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (-beta * h).clamp(max=-SMALLEST_LOG_RATIO).exp()


def gpo_truncated_square_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """GPO with the truncated square, arXiv:2402.05749: max(0, 1 - βh)². IPO that does not pull a margin back that is large already."""
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return relu(1 - beta * h).square()


def gpo_savage_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """GPO with Savage's function, arXiv:2402.05749: 1/(1 + e^βh)². Not convex: comparisons that are far wrong pull little, like flipped labels should."""
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return torch.sigmoid(-beta * h).square()


def exo_pair_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
    label_smoothing: float = 1e-3,
) -> PerPair:
    """EXO on pairs, arXiv:2402.00856: KL(q ‖ p), q = (σ(βh), σ(-βh)), p = (1 - ε, ε). cDPO is the same KL with the arguments swapped, plus
    the entropy of p. ε must be above 0."""
    z = beta * margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    right = z.sigmoid() * (logsigmoid(z) - math.log1p(-label_smoothing))
    return right + (-z).sigmoid() * (logsigmoid(-z) - math.log(label_smoothing))


def nca_pair_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.01,
) -> PerPair:
    """Noise contrastive alignment on pairs, arXiv:2402.05369: -log σ(βρ_w) - ½ log σ(-βρ_w) - ½ log σ(-βρ_l).

    On absolute log-ratios, so the chosen completion's probability does not fall: the optimum in ρ_w alone is finite, βρ_w = log 2.
    """
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def apo_zero_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """Anchored preference optimisation, zero, arXiv:2408.06266: (1 - σ(βρ_w)) + σ(βρ_l). Chosen up, rejected down; for chosen better than the policy."""
    chosen = beta * (policy_chosen - reference_chosen)
    return torch.sigmoid(-chosen) + torch.sigmoid(beta * (policy_rejected - reference_rejected))


def apo_down_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """Anchored preference optimisation, down, arXiv:2408.06266: σ(βρ_w) + (1 - σ(βh)). Both down, rejected more; for chosen worse than the policy."""
    h = margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return torch.sigmoid(beta * (policy_chosen - reference_chosen)) + torch.sigmoid(-beta * h)


def bco_pair_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    reward_shift: Scalar,
    *,
    beta: float = 0.01,
) -> PerPair:
    """Binary classifier optimisation on pairs, arXiv:2404.04656: -log σ(βρ_w - δ) - log σ(-(βρ_l - δ)).

    δ, `reward_shift`, is a moving mean of implicit rewards over both kinds; see `whole_step.bco_pair_step`.
    """
    chosen = beta * (policy_chosen - reference_chosen) - reward_shift
    rejected = beta * (policy_rejected - reference_rejected) - reward_shift
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def sppo_hard_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 1e-3,
) -> PerPair:
    """Self-play preference optimisation with hard labels, arXiv:2405.00675: (ρ_w - 1/(2β))² + (ρ_l + 1/(2β))². The sum; the authors' code halves it."""
    target = 0.5 / beta
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return (chosen - target).square() + (rejected + target).square()


def sppo_soft_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    p_soft: PerPair,
    *,
    beta: float = 1e-3,
) -> PerPair:
    """SPPO with estimated win rates, eq. 4.7 of arXiv:2405.00675: (ρ_w - (p - ½)/β)² + (ρ_l - (½ - p)/β)².

    p, `p_soft`, is how often the chosen completion beats the other, as a judge or a preference model estimates it; 1 is `sppo_hard_loss`, and at ½
    both are pulled to the reference.
    """
    target = (p_soft - 0.5) / beta
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return (chosen - target).square() + (rejected + target).square()


def wpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    chosen_weight: PerPair,
    rejected_weight: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """Weighted preference optimisation, arXiv:2406.11827: DPO's loss times sg min(1, w_w w_l).

    w = exp(mean_t [log π(y_t) - log Σ_v π(v)²]) is how likely the policy itself would be to write the completion; no gradient goes through it.
    """
    weight = (chosen_weight * rejected_weight).clamp(max=1.0).detach()
    return weight * dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=beta)


def aot_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    partner_of_chosen: PerPair,
    partner_of_rejected: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """Alignment via optimal transport, unpaired, arXiv:2406.05882: DPO's loss between chosen and rejected log-ratios of equal rank in the step.

    The `partner_` tensors are the log-ratio of equal rank on the other side (`whole_step.aot_step`), without gradient. Each comparison gives
    half the loss of its chosen completion's couple and half that of its rejected one's; the gradient is doubled to count each couple's two sides
    in full, so the step's mean and gradient are those of the sorted batch.
    """
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    one = -logsigmoid(beta * (chosen - partner_of_chosen.detach()))
    other = -logsigmoid(beta * (partner_of_rejected.detach() - rejected))
    both = one + other
    return both - 0.5 * both.detach()


def aot_paired_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    reference_partner: PerPair,
    *,
    beta: float = 0.1,
) -> PerPair:
    """Alignment via optimal transport, paired, arXiv:2406.05882: DPO's loss between the policy's and the reference's margins of equal rank in the step.

    `reference_partner` is log π_ref(y_w) - log π_ref(y_l) of the comparison whose rank among the reference's margins is this one's among the
    policy's (`whole_step.aot_paired_step`). The reference's own margin of this comparison does not enter.
    """
    return -logsigmoid(beta * (policy_chosen - policy_rejected - reference_partner))


def discopop_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float = 0.1,
    tau: float = 0.05,
) -> PerPair:
    """Log-ratio modulated loss, found by search, arXiv:2406.08414: (1 - s)(-log σ(z)) + s e^-z with z = βh, s = σ(z/τ).

    Not convex: at the reference its slope in z is (1 - ln 2)/(4τ) - 3/4, which is *positive* below τ = 0.102, so the first steps push the margin
    down until s is small; only what crosses z > 0 by itself is then pulled up.
    """
    z = beta * margin_of(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    share = torch.sigmoid(z / tau)
    return -(1 - share) * logsigmoid(z) + share * (-z).clamp(max=-SMALLEST_LOG_RATIO).exp()
