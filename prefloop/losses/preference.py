"""Losses on comparisons, from log-probabilities summed over each completion's tokens.

The signature that every pairwise loss here has: four `[B]` tensors, `policy_chosen, policy_rejected, reference_chosen,
reference_rejected` (`reduce.sequence_sum` of per-token log-probabilities), then its own settings by keyword; `[B]` out. A loss that
needs more (token counts for a mean, a full-vocabulary KL) asks for it as a keyword tensor. A literal dict by name can then hold them all,
and adding one is a function and an entry.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """Direct preference optimisation, eq. 7 of arXiv:2305.18290, with label smoothing as in conservative DPO.

    -(1 - ε) log σ(βh) - ε log σ(-βh), where h is the chosen completion's log-ratio to the reference less the rejected one's and ε the
    assumed share of flipped labels. ln 2 at policy = reference, where its gradient is ∓β(1 - 2ε)/2 on the two log-probabilities. With
    ε = 0 there is no finite optimum; with ε > 0 it is βh = log((1 - ε)/ε).
    """
    logits = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def implicit_reward(
    policy: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"], *, beta: float
) -> Float[Tensor, "*shape"]:
    """The reward a DPO policy is optimal for, β(log π - log π_ref), up to a constant per prompt (section 4 of arXiv:2305.18290).

    Summed log-probabilities give it per completion, per-token ones give each token's share (arXiv:2404.12358).
    """
    return beta * (policy - reference)
