"""Natural language policy optimisation (arXiv:2210.01241): PPO whose policy may choose among the likely tokens only.

The likely tokens are the top-p set of a masking policy, a copy of the policy that is renewed every `mask_every` steps. The policy's distribution is its
own, renormalised over that set, when it draws and when it learns: ratio, clip, entropy and the controlled step are of the masked distribution, while the KL to
the reference is of the unmasked ones, as in the paper's code. What differs from it: the set is taken at the sampling temperature; each token's set is
computed once, when it has been drawn, and kept as bits until the step's last update, so that no float noise moves its border in between.

Logged beside PPO's metrics: allowed (tokens of the vocabulary that could be chosen, mean over completion tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prefloop.algorithms.ppo import train_masked
from prefloop.configs.ppo import NLPOConfig
from prefloop.errors import InputError
from prefloop.loop.roles import frozen_twin
from prefloop.loop.session import Session
from prefloop.loop.supports import Supports
from prefloop.models.masked import supports_of
from prefloop.models.packing import micro_batches
from prefloop.models.roles import Policy
from prefloop.rollout.steered import Drawer, masked_by, nucleus
from prefloop.runtime import StateTree
from prefloop.runtime.dealt import copy_parts, restore
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRule:
    """Which tokens are allowed: the likeliest that have `top_p` of the probability together, and the `least` likeliest."""

    top_p: float
    least: int
    every: int
    """Steps after which the masking policy becomes the policy as it is."""
    temperature: float
    tokens: int
    """Of a micro-batch."""


def train(config: NLPOConfig) -> Path:
    """Train and return the folder of the finished policy: PPO with a masking policy, or plain PPO with `top_p` 1."""
    rule = MaskRule(
        top_p=config.top_p,
        least=config.mask_least,
        every=config.mask_every,
        temperature=config.sampling.temperature,
        tokens=config.compute.micro_batch_tokens,
    )
    return train_masked(config, lambda policy, session: open_masking(rule, policy, config.model, session))


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """The masking policy, and how it masks."""

    policy: Policy
    """The policy that is trained."""
    masking: Policy
    rule: MaskRule
    device: torch.device

    def drawer(self, step: int) -> Drawer:
        """What completions are drawn from. Before every so many steps the masking policy becomes the policy as it is."""
        rule = self.rule
        if (step - 1) % rule.every == 0:
            copy_parts(self.policy.parameters(), self.masking.parameters())
        return masked_by(
            self.policy, self.masking, top_p=rule.top_p, least=rule.least, temperature=rule.temperature
        )

    def supports(self, groups: Sequence[Group]) -> Supports:
        """The bits of each group, from the masking policy's forward pass over what was drawn."""
        rule, found = self.rule, [torch.zeros(0)] * len(groups)

        def choose(logits: Tensor) -> Tensor:
            return nucleus(logits / rule.temperature, top_p=rule.top_p, least=rule.least)

        for part in in_step(micro_batches(groups, tokens=rule.tokens, device=self.device)):
            counts = [sum(map(sum, groups[place].masks)) for place in part.groups]
            bits = supports_of(self.masking, part.batch, choose).split(counts)
            for place, own in zip(part.groups, bits, strict=True):
                found[place] = own
        return found

    def state(self) -> StateTree:
        """The masking policy's weights."""
        return {name: p.detach() for name, p in self.masking.named_parameters()}

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        restore(state, dict(self.masking.named_parameters()))


def open_masking(rule: MaskRule, policy: Policy, model: str, session: Session) -> Masking | None:
    """A masking policy that becomes the policy at the first step, None if all tokens are allowed. Raises `InputError` if the model's tokens cannot be masked."""
    if rule.top_p == 1:
        return None
    if not policy.linear_head:
        raise InputError(
            f"{model} has a head that is more than a linear layer, whose tokens cannot be masked; use ppo, or set top_p to 1"
        )
    return Masking(
        policy=policy, masking=frozen_twin(session, policy, model), rule=rule, device=session.world.device
    )
