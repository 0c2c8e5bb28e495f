"""Passes over a step's completions before the first update: log-probabilities, entropy, KL and values; all under no_grad."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.configs.engine import PROCESS, engine_of
from prefloop.configs.ppo import ActorCriticConfig
from prefloop.loop.tensors import put, sampler_logprobs
from prefloop.losses import ESTIMATORS
from prefloop.models.head import TokenStatistics
from prefloop.models.packing import Batch, micro_batches
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.rollout import Rollout
from prefloop.runtime.pace import in_step

Values = Callable[[Batch, Tensor | None], Tensor]
"""A batch, and the policy's hidden states where there has been a pass of it, to values `[b, t]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenPasses:
    """Which passes a run makes over a step's completions before the first update."""

    temperature: float
    estimator: str
    """Of the KL."""
    by_sampler: bool
    """Whether the sampler's log-probabilities are taken and the policy makes no pass over its own samples."""
    tokens: int
    """Of a micro-batch."""

    @classmethod
    def of(
        cls, config: ActorCriticConfig | CriticFreeConfig, device: torch.device, *, needs_pass: bool
    ) -> "FrozenPasses":
        """By a run's settings, on this device.

        The sampler decodes with the policy's weights as they are, so in float32 on a CPU it gives the same numbers to rounding; in bfloat16 it
        does not, nor does an engine or a user's sampler. `needs_pass`: something else is wanted of the policy's pass.
        """
        own = engine_of(config.sampling) == PROCESS
        same = config.compute.dtype == "float32" and device.type == "cpu" and own
        return cls(
            temperature=config.sampling.temperature,
            estimator=config.kl.estimator,
            by_sampler={"auto": same and not needs_pass, "sampler": True, "policy": False}[
                config.old_logprobs
            ],
            tokens=config.compute.micro_batch_tokens,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """Zeros where something is not needed."""

    old_logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    """Of the policy; -log π of the token, whose mean it is, where the log-probabilities are the sampler's."""
    reference_logprobs: Float[Tensor, "B T"]
    kl: Float[Tensor, "B T"]
    """To the reference, by the estimator of the settings."""
    values: Float[Tensor, "B T"]


@torch.no_grad()
def frozen_statistics(
    passes: FrozenPasses,
    policy: Policy,
    reference: Policy | None,
    rollout: Rollout,
    mask: Bool[Tensor, "B T"],
    values: Values | None = None,
) -> Frozen:
    """One pass through each trunk, and none through the policy's where its sampler has given the log-probabilities."""
    exact = reference is not None and passes.estimator == "exact"
    old, entropy, theirs, kl, value = (torch.zeros(mask.shape, device=mask.device) for _ in range(5))
    if passes.by_sampler:
        old = sampler_logprobs(rollout, mask)
        entropy = -old
    for part in in_step(micro_batches(rollout.groups, tokens=passes.tokens, device=mask.device)):
        batch, hidden = part.batch, None
        if not passes.by_sampler:
            ours, of_reference, hidden = _both(
                policy, reference, batch, temperature=passes.temperature, exact=exact
            )
            put(old, part, scatter_tokens(ours.logprobs, batch))
            put(entropy, part, scatter_tokens(ours.entropy, batch))
            if exact:
                put(kl, part, scatter_tokens(ours.kl, batch))
            if of_reference is not None:
                put(theirs, part, scatter_tokens(of_reference, batch))
        elif reference:
            put(theirs, part, reference(batch, temperature=passes.temperature))
        if values:
            put(value, part, values(batch, hidden))
    if reference and not exact:
        kl = ESTIMATORS[passes.estimator](old, theirs)
    return Frozen(old_logprobs=old, entropy=entropy, reference_logprobs=theirs, kl=kl, values=value)


def _both(
    policy: Policy, reference: Policy | None, batch: Batch, *, temperature: float, exact: bool
) -> tuple[TokenStatistics, Tensor | None, Tensor | None]:
    """What the policy and its reference, if there is one, say of a batch, with one pass through each trunk.

    Returns the policy's log-probabilities and entropy (`exact`: the exact KL to the reference too), the reference's log-probabilities, and the
    policy's hidden states, None if its head is more than a linear layer.
    """
    roles = [policy] if reference is None else [policy, reference]
    if not all(role.linear_head for role in roles):
        if exact and reference:
            ours = policy.statistics_against(reference, batch, temperature=temperature)
        else:
            ours = policy.statistics(batch, temperature=temperature, entropy=True)
        if reference is None:
            return ours, None, None
        return ours, reference.statistics(batch, temperature=temperature).logprobs, None
    hidden = policy.hidden(batch)
    if reference is None:
        return policy.statistics_of(hidden, batch, temperature=temperature, entropy=True), None, hidden
    others = reference.hidden(batch)
    if exact:
        ours = policy.statistics_between(hidden, reference, others, batch, temperature=temperature)
    else:
        ours = policy.statistics_of(hidden, batch, temperature=temperature, entropy=True)
    return ours, reference.statistics_of(others, batch, temperature=temperature).logprobs, hidden
