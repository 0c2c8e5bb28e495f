"""Natural language policy optimisation (arXiv:2210.01241): PPO whose policy may choose among the likely tokens only. `ppo.train` runs it.

The likely tokens are the top-p set of a masking policy, a copy of the policy that is renewed every `mask_every` steps. The policy's distribution is its
own, renormalised over that set, when it draws and when it learns: ratio, clip, entropy and the controlled step are of the masked distribution, while the KL to
the reference is of the unmasked ones, as in the paper's code. What differs from it: the set is taken at the sampling temperature; each token's set is
computed once, when it has been drawn, and kept as bits until the step's last update, so that no float noise moves its border in between.

Logged beside PPO's metrics: allowed (tokens of the vocabulary that could be chosen, mean over completion tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prefloop.configs.ppo import NLPOConfig, PPOConfig
from prefloop.errors import InputError
from prefloop.models.head import TokenStatistics
from prefloop.models.masked import masked_statistics, supports_of
from prefloop.models.packing import Batch, MicroBatch, micro_batches
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.rollout.steered import Drawer, masked_by, nucleus
from prefloop.runtime import StateTree
from prefloop.text.groups import Group

Supports = Sequence[UInt8[Tensor, "_ W"]]
"""For each group the bits of the tokens that each of its completion tokens was chosen among; nothing where all could be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """The masking policy, and how it masks."""

    policy: Policy
    """The policy that is trained."""
    masking: Policy
    config: NLPOConfig

    def refresh(self, step: int) -> None:
        """Before a step: every `mask_every` steps the masking policy becomes the policy as it is."""
        if (step - 1) % self.config.mask_every == 0:
            with torch.no_grad():
                for copy, current in zip(self.masking.parameters(), self.policy.parameters(), strict=True):
                    copy.copy_(current)

    def drawer(self) -> Drawer:
        """What completions are drawn from."""
        config = self.config
        return masked_by(
            self.policy,
            self.masking,
            top_p=config.top_p,
            least=config.mask_least,
            temperature=config.sampling.temperature,
        )

    def supports(self, groups: Sequence[Group]) -> Supports:
        """The bits of each group, from the masking policy's forward pass over what was drawn."""
        config, found = self.config, [torch.zeros(0)] * len(groups)

        def choose(logits: Tensor) -> Tensor:
            scaled = logits / config.sampling.temperature
            return nucleus(scaled, top_p=config.top_p, least=config.mask_least)

        for part in micro_batches(
            groups, tokens=config.compute.micro_batch_tokens, device=self.policy.device
        ):
            counts = [sum(map(sum, groups[place].masks)) for place in part.groups]
            bits = supports_of(self.masking, part.batch, choose).split(counts)
            for place, own in zip(part.groups, bits, strict=True):
                found[place] = own
        return found

    def state(self) -> StateTree:
        """The masking policy's weights."""
        return {name: p.detach() for name, p in self.masking.named_parameters()}

    def load_state(self, state: StateTree) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            for name, parameter in self.masking.named_parameters():
                parameter.copy_(state[name])


def open_masking(config: PPOConfig, policy: Policy) -> tuple[Masking, ...]:
    """None or one: with `top_p` 1 nothing is masked, and nlpo is ppo."""
    if not isinstance(config, NLPOConfig) or config.top_p == 1:
        return ()
    if not policy.linear_head:
        raise InputError(
            f"{config.model} has a head that is more than a linear layer, whose tokens cannot be masked; use ppo, or set top_p to 1"
        )
    return (Masking(policy=policy, masking=policy.frozen_copy(), config=config),)


def statistics_among(
    policy: Policy,
    hidden: Float[Tensor, "N d"],
    batch: Batch,
    supports: Supports,
    groups: Sequence[int],
    *,
    temperature: float,
) -> TokenStatistics:
    """Log-probability and entropy of the masked policy at a micro-batch of these groups."""
    bits = torch.cat([supports[place] for place in groups])
    return masked_statistics(hidden, policy.head(), batch, bits, temperature=temperature)


@torch.no_grad()
def masked_numbers(
    policy: Policy,
    parts: Sequence[MicroBatch],
    supports: Supports,
    like: Float[Tensor, "B T"],
    temperature: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Log-probabilities and entropies of the masked policy over a rollout, in the shape of `like`."""
    logprobs, entropy = torch.zeros_like(like), torch.zeros_like(like)
    for part in parts:
        batch = part.batch
        found = statistics_among(
            policy, policy.hidden(batch), batch, supports, part.groups, temperature=temperature
        )
        for out, values in ((logprobs, found.logprobs), (entropy, found.entropy)):
            wide = scatter_tokens(values, batch)
            out[part.rows, : wide.shape[1]] = wide
    return logprobs, entropy


def allowed_tokens(supports: Supports) -> tuple[int, int]:
    """Tokens that could be chosen, summed over completion tokens, and how many of these there are."""
    total = count = 0
    for bits in supports:
        for place in range(8):
            total += int(((bits >> place) & 1).sum())
        count += len(bits)
    return total, count
