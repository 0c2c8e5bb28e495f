"""Log-probabilities and entropy under a policy that may choose among some tokens only, from supports kept as bits.

A support is `[tokens, ceil(vocabulary / 8)]` bytes: an eighth of a byte a token of the vocabulary, where the logits it came from had four. It is made
once and kept, because two forward passes of the same weights do not give the same one: where the cumulated probability is about top-p, float noise decides.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prefloop.models.gathering import gathers
from prefloop.models.head import CHUNK_ELEMENTS, Head, TokenStatistics
from prefloop.models.packing import Batch
from prefloop.models.roles import Policy


def pack_bits(support: Bool[Tensor, "n V"]) -> UInt8[Tensor, "n W"]:
    """Eight tokens of the vocabulary a byte, the lowest id in the lowest bit."""
    n, vocabulary = support.shape
    padded = torch.nn.functional.pad(support, (0, -vocabulary % 8)).view(n, -1, 8)
    return (padded.to(torch.uint8) << _shifts(support)).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: UInt8[Tensor, "n W"], vocabulary: int) -> Bool[Tensor, "n V"]:
    """The inverse of `pack_bits`."""
    return ((bits.unsqueeze(-1) >> _shifts(bits)) & 1).bool().flatten(1)[:, :vocabulary]


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


@torch.no_grad()
@gathers
def supports_of(
    masking: Policy,
    batch: Batch,
    choose: Callable[[Float[Tensor, "n V"]], Bool[Tensor, "n V"]],
) -> UInt8[Tensor, "M W"]:
    """Which tokens `choose` allows at each predicted token, from the masking policy's logits; the token that was drawn is always one of them.

    Float noise between the sampler's forward pass and this one may have put that one just outside.
    """
    rows, head = masking.hidden(batch), masking.head()
    size = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    result = []
    for hidden, targets in zip(rows.split(size), batch.targets.split(size), strict=True):
        allowed = choose(_logits(hidden, head, 1.0)).scatter(1, targets[:, None], True)
        result.append(pack_bits(allowed))
    return torch.cat(result)


def masked_statistics(
    hidden: Float[Tensor, "M d"],
    head: Head,
    batch: Batch,
    bits: UInt8[Tensor, "M W"],
    *,
    temperature: float,
) -> TokenStatistics:
    """Log-probability of each target under softmax(logits / temperature) among the tokens of its support, and the entropy of that distribution.

    A chunk of `[rows, vocabulary]` at a time, computed again in the backward pass.
    """
    size = max(1, CHUNK_ELEMENTS // head.weight.shape[0])
    parts = [
        checkpoint(_masked, some, head, targets, allowed, temperature, use_reentrant=False)
        for some, targets, allowed in zip(
            hidden.split(size), batch.targets.split(size), bits.split(size), strict=True
        )
    ]
    logprobs, entropy = torch.cat(parts, dim=1).unbind(0)  # pyright: ignore[reportArgumentType]
    nothing = logprobs.new_empty(0)
    return TokenStatistics(
        logprobs=logprobs, entropy=entropy, kl=nothing, forward_kl=nothing, log_collision=nothing
    )


def _masked(
    hidden: Tensor, head: Head, targets: Int[Tensor, " m"], bits: Tensor, temperature: float
) -> Float[Tensor, "2 m"]:
    allowed = unpack_bits(bits, head.weight.shape[0])
    logp = _logits(hidden, head, temperature).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    # 0 log 0 is 0: outside the support nothing is added, and no infinity reaches the gradient.
    inside = torch.where(allowed, logp, 0.0)
    entropy = -(inside.exp() * inside).masked_fill(~allowed, 0.0).sum(-1)
    return torch.stack([logp.gather(1, targets[:, None]).squeeze(1), entropy])


def _logits(hidden: Tensor, head: Head, temperature: float) -> Float[Tensor, "m V"]:
    logits = (hidden @ head.weight.T).float() * (head.scale / temperature)
    return logits + head.bias.float() / temperature if head.bias.numel() else logits
