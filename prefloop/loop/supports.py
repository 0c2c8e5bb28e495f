"""What a policy that may choose among some tokens only says of its completions."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prefloop.loop.tensors import put
from prefloop.models.gathering import gathers
from prefloop.models.head import TokenStatistics
from prefloop.models.masked import masked_statistics
from prefloop.models.packing import Batch, micro_batches
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group

Supports = Sequence[UInt8[Tensor, "_ W"]]
"""For each group the bits of the tokens that each of its completion tokens was chosen among."""


@gathers
def statistics_among(
    policy: Policy,
    hidden: Float[Tensor, "N d"],
    batch: Batch,
    supports: Supports,
    *,
    temperature: float,
) -> TokenStatistics:
    """Log-probability and entropy of the masked policy at a batch of groups with these supports."""
    bits = torch.cat(list(supports))
    return masked_statistics(hidden, policy.head(), batch, bits, temperature=temperature)


@torch.no_grad()
def masked_numbers(
    policy: Policy,
    groups: Sequence[Group],
    supports: Supports,
    mask: Bool[Tensor, "B T"],
    *,
    temperature: float,
    tokens: int,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Log-probabilities and entropies of the masked policy over a rollout, in micro-batches of so many tokens."""
    logprobs, entropy = (torch.zeros(mask.shape, device=mask.device) for _ in range(2))
    for part in in_step(micro_batches(groups, tokens=tokens, device=mask.device)):
        batch = part.batch
        found = statistics_among(
            policy, policy.hidden(batch), batch, [supports[g] for g in part.groups], temperature=temperature
        )
        put(logprobs, part, scatter_tokens(found.logprobs, batch))
        put(entropy, part, scatter_tokens(found.entropy, batch))
    return logprobs, entropy


def allowed_tokens(supports: Supports) -> tuple[int, int]:
    """Tokens that could be chosen, summed over completion tokens, and how many of these there are."""
    total = count = 0
    for bits in supports:
        for place in range(8):
            total += int(((bits >> place) & 1).sum())
        count += len(bits)
    return total, count
