"""Each predicted token against the likeliest others: what contrastive losses on tokens (CRINGE) need of the head."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from prefloop.models import head as head_module
from prefloop.models.head import Head

CANDIDATES = 5
"""How many of the likeliest other tokens stand against a token; five, as published."""


def token_contrast(
    hidden: Float[Tensor, "M d"], head: Head, targets: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Σ_k p_k log(1 + e^{s_y - s_k}), float32: s logits, y the target, k the `CANDIDATES` likeliest other tokens, p their probabilities among themselves.

    arXiv:2211.05826 draws one k from p; this is the mean over the draw. As there, no gradient goes through p. Logits of the whole vocabulary are
    looked at a chunk of rows at a time, without gradient; kept for the backward pass are the candidates' rows of the head, [M, k, d].
    """
    others = likeliest_others(hidden.detach(), head, targets)
    with_target = torch.cat([targets[:, None], others], dim=1)
    logits = torch.einsum("md,mkd->mk", hidden, head.weight[with_target]).float() * head.scale
    if head.bias.numel():
        logits = logits + head.bias[with_target].float()
    return _contrast(logits[:, :1], logits[:, 1:])


def contrast_of_logits(logits: Float[Tensor, "M V"], targets: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
    """The same from logits (or log-probabilities) that are already there, for heads that are more than a linear layer."""
    others = _top(logits.detach().clone(), targets)
    return _contrast(logits.gather(1, targets[:, None]), logits.gather(1, others))


def _contrast(own: Float[Tensor, "M 1"], others: Float[Tensor, "M k"]) -> Float[Tensor, " M"]:
    weights = others.detach().softmax(dim=1)
    return (weights * softplus(own - others)).sum(dim=1)


@torch.no_grad()
def likeliest_others(
    hidden: Float[Tensor, "M d"], head: Head, targets: Int[Tensor, " M"]
) -> Int[Tensor, "M k"]:
    """Ids of the `CANDIDATES` likeliest tokens (all there are, in a smaller vocabulary) that are not the target."""
    vocabulary = head.weight.shape[0]
    size = max(1, head_module.CHUNK_ELEMENTS // vocabulary)
    found = [targets.new_empty(0, min(CANDIDATES, vocabulary - 1))]
    for start in range(0, len(hidden), size):
        logits = (hidden[start : start + size] @ head.weight.T).float() * head.scale
        if head.bias.numel():
            logits += head.bias.float()
        found.append(_top(logits, targets[start : start + size]))
    return torch.cat(found)


def _top(logits: Float[Tensor, "n V"], targets: Int[Tensor, " n"]) -> Int[Tensor, "n k"]:
    """Writes over its logits."""
    logits.scatter_(1, targets[:, None], -torch.inf)
    return logits.topk(min(CANDIDATES, logits.shape[1] - 1), dim=1).indices
