"""What the models say of a step's completions before the first update: log-probabilities, entropy, KL and values; all under no_grad."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.common import Compute, Sampling
from prefloop.configs.ppo import KL, OldLogprobs
from prefloop.loop.online import put
from prefloop.losses import ESTIMATORS
from prefloop.models.head import TokenStatistics
from prefloop.models.packing import Batch, MicroBatch
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.rollout import Rollout


class Settings(Protocol):
    """The settings that are read here."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def kl(self) -> KL: ...
    @property
    def old_logprobs(self) -> OldLogprobs: ...
    @property
    def compute(self) -> Compute: ...


Values = Callable[[Batch, Sequence[Tensor]], Tensor]
"""A batch, and the policy's hidden states where there has been a pass of it, to values `[b, t]`."""


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
    config: Settings,
    policy: Policy,
    references: Sequence[Policy],
    parts: Sequence[MicroBatch],
    rollout: Rollout,
    mask: Bool[Tensor, "B T"],
    *,
    needs_pass: bool,
    values: Values | None = None,
) -> Frozen:
    """One pass through each trunk, and none through the policy's where its sampler has given the log-probabilities.

    Args:
        references: None or one.
        parts: `rollout` in micro-batches.
        needs_pass: The sampler's log-probabilities do not do.
    """
    temperature, estimator = config.sampling.temperature, config.kl.estimator
    exact = bool(references) and estimator == "exact"
    sampled = takes_sampler_logprobs(config, mask.device, needs_pass=needs_pass or exact)
    old, entropy, reference, kl, value = (torch.zeros(mask.shape, device=mask.device) for _ in range(5))
    if sampled:
        old = sampler_logprobs(rollout, mask)
        entropy = -old
    for part in parts:
        batch, hidden = part.batch, ()
        if sampled:
            theirs = [each.statistics(batch, temperature=temperature).logprobs for each in references]
        else:
            ours, theirs, hidden = _judged(policy, references, batch, temperature=temperature, exact=exact)
            put(old, part, scatter_tokens(ours.logprobs, batch))
            put(entropy, part, scatter_tokens(ours.entropy, batch))
            if exact:
                put(kl, part, scatter_tokens(ours.kl, batch))
        for logprobs in theirs:
            put(reference, part, scatter_tokens(logprobs, batch))
        if values:
            put(value, part, values(batch, hidden))
    if references and not exact:
        kl = ESTIMATORS[estimator](old, reference)
    return Frozen(old_logprobs=old, entropy=entropy, reference_logprobs=reference, kl=kl, values=value)


def takes_sampler_logprobs(config: Settings, device: torch.device, *, needs_pass: bool) -> bool:
    """Whether the policy makes no pass over its own samples.

    The sampler decodes with the policy's weights as they are, so in float32 it gives the same numbers to rounding; in bfloat16 it does not.
    `needs_pass`: something else is wanted of that pass.
    """
    if config.old_logprobs != "auto":
        return config.old_logprobs == "sampler"
    return config.compute.dtype == "float32" and device.type == "cpu" and not needs_pass


def sampler_logprobs(rollout: Rollout, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """What the sampler's forward pass gave each token."""
    out = torch.zeros(mask.shape, device=mask.device)
    rows = [row for of_prompt in rollout.sampler_logprobs for row in of_prompt]
    for b, row in enumerate(rows):
        out[b, : len(row)] = torch.tensor(row, device=mask.device)
    return out


def _judged(
    policy: Policy, references: Sequence[Policy], batch: Batch, *, temperature: float, exact: bool
) -> tuple[TokenStatistics, list[Tensor], tuple[Tensor, ...]]:
    """What the policy and its references, none or one, say of a batch, with one pass through each trunk.

    Returns the policy's log-probabilities and entropy (`exact`: the exact KL to the reference too), the reference's log-probabilities, and the
    policy's hidden states, none where its head is more than a linear layer.
    """
    if not all(role.linear_head for role in (policy, *references)):
        against = exact and references
        ours = (
            policy.statistics_against(references[0], batch, temperature=temperature)
            if against
            else policy.statistics(batch, temperature=temperature, entropy=True)
        )
        return ours, [each.statistics(batch, temperature=temperature).logprobs for each in references], ()
    hidden = policy.hidden(batch)
    others = [each.hidden(batch) for each in references]
    if exact:
        ours = policy.statistics_between(hidden, references[0], others[0], batch, temperature=temperature)
    else:
        ours = policy.statistics_of(hidden, batch, temperature=temperature, entropy=True)
    theirs = [
        each.statistics_of(states, batch, temperature=temperature).logprobs
        for each, states in zip(references, others, strict=True)
    ]
    return ours, theirs, (hidden,)
