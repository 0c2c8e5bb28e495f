"""Frozen roles over many groups: scores and summed log-probabilities, one packed pass, shared over processes."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.losses import sequence_sum
from prefloop.models.packing import Batch, micro_batches
from prefloop.models.roles import Policy, RewardModel
from prefloop.runtime import World
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group


def over_groups(
    groups: Sequence[Group], compute: Callable[[Batch], Float[Tensor, " b"]], *, tokens: int, world: World
) -> Float[Tensor, " B"]:
    """A number for every completion, groups after one another. Each process computes its share; all get everything, on the CPU."""
    counts = [len(group.completions) for group in groups]
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    result = torch.zeros(starts[-1], dtype=torch.float32, device=world.device)
    places = world.share(range(len(groups)))
    with torch.no_grad():
        for part in in_step(micro_batches([groups[i] for i in places], tokens=tokens, device=world.device)):
            rows = [row for g in part.groups for row in range(starts[places[g]], starts[places[g] + 1])]
            result[torch.tensor(rows, device=world.device)] = compute(part.batch).float()
    return world.sum(result).cpu()


def token_logprobs(
    policy: Policy, groups: Sequence[Group], *, tokens: int, world: World
) -> Float[Tensor, " M"]:
    """Log-probability of every token under a mask, in order: groups, completions, tokens. Each process computes its share; all get
    everything, on the CPU."""
    counts = [sum(map(sum, group.masks)) for group in groups]
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    result = torch.zeros(starts[-1], dtype=torch.float32, device=world.device)
    places = world.share(range(len(groups)))
    with torch.no_grad():
        for part in in_step(micro_batches([groups[i] for i in places], tokens=tokens, device=world.device)):
            spans = [torch.arange(starts[places[g]], starts[places[g] + 1]) for g in part.groups]
            result[torch.cat(spans).to(world.device)] = policy.statistics(part.batch).logprobs
    return world.sum(result).cpu()


def score_groups(
    reward_model: RewardModel, groups: Sequence[Group], *, tokens: int, world: World
) -> Float[Tensor, " B"]:
    """The reward model's score of every completion."""
    return over_groups(groups, reward_model, tokens=tokens, world=world)


def summed_logprobs(
    policy: Policy, groups: Sequence[Group], *, tokens: int, world: World
) -> Float[Tensor, " B"]:
    """Log-probability of every completion at temperature 1, summed over the tokens under its mask."""

    def compute(batch: Batch) -> Tensor:
        return sequence_sum(policy(batch), batch.completion_mask)

    return over_groups(groups, compute, tokens=tokens, world=world)


def summed_kl(
    policy: Policy,
    reference: Policy,
    groups: Sequence[Group],
    *,
    tokens: int,
    world: World,
    temperature: float = 1.0,
) -> Float[Tensor, " B"]:
    """Exact KL of the next-token distributions, policy to reference, summed over each completion's tokens.

    Over completions drawn from the policy its mean is the KL of whole completions, with less variance than the log-ratio, and never below 0.
    """

    def compute(batch: Batch) -> Tensor:
        kl = policy.statistics_against(reference, batch, temperature=temperature).kl
        flat = kl.new_zeros(batch.completion_mask.numel()).scatter(0, batch.slots, kl)
        return flat.view(batch.completion_mask.shape).sum(1)

    return over_groups(groups, compute, tokens=tokens, world=world)
