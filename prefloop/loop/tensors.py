"""A rollout's numbers as tensors: rows are completions, prompt after prompt, columns their tokens."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.losses import Moments, shape_rewards, whiten
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import World
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group


def mask_of(groups: Sequence[Group], device: torch.device) -> Bool[Tensor, "B T"]:
    """True on completion tokens that the policy chose, groups after one another."""
    rows = [row for group in groups for row in group.masks]
    mask = np.zeros((len(rows), max(map(len, rows), default=1)), bool)
    for b, row in enumerate(rows):
        mask[b, : len(row)] = row
    return torch.from_numpy(mask).to(device)


def ended_of(rollout: Rollout, device: torch.device) -> Bool[Tensor, " B"]:
    """Whether each completion stopped by itself."""
    return torch.tensor([end for ends in rollout.ended for end in ends], dtype=torch.bool, device=device)


def sampler_logprobs(rollout: Rollout, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """What the sampler's forward pass gave each token."""
    out = torch.zeros(mask.shape, device=mask.device)
    rows = [row for of_prompt in rollout.sampler_logprobs for row in of_prompt]
    for b, row in enumerate(rows):
        out[b, : len(row)] = torch.tensor(row, device=mask.device)
    return out


def paid(
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    kl: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    kl_coef: float,
) -> Float[Tensor, "B T"]:
    """`shape_rewards`, with what an environment gave before a completion's end at the tokens it was given for. They sum to the same."""
    early = torch.zeros_like(kl)
    for row, place, reward in rollout.early_rewards():
        early[row, place] = reward
    return shape_rewards(scores - early.sum(dim=1), kl, mask, kl_coef=kl_coef) + early


def put(out: Float[Tensor, "B T"], part: MicroBatch, values: Float[Tensor, "b t"]) -> None:
    """Write a micro-batch's numbers where its completions stand in the whole."""
    out[part.rows, : values.shape[1]] = values


def rows_of(groups: Sequence[int], k: int) -> Tensor:
    """Rows of the completions of these groups of k."""
    return torch.tensor([group * k + j for group in groups for j in range(k)], dtype=torch.long)


@torch.no_grad()
def logprobs_of(
    policies: Sequence[Policy],
    groups: Sequence[Group],
    mask: Bool[Tensor, "B T"],
    *,
    temperature: float,
    tokens: int,
) -> list[Float[Tensor, "B T"]]:
    """Each policy's log-probabilities of the groups' completions, in micro-batches of so many tokens."""
    found = [torch.zeros(mask.shape, device=mask.device) for _ in policies]
    for part in in_step(micro_batches(groups, tokens=tokens, device=mask.device)):
        for policy, out in zip(policies, found, strict=True):
            put(out, part, policy(part.batch, temperature=temperature))
    return found


Whitening = Callable[[Float[Tensor, "B T"], Bool[Tensor, "B T"]], Float[Tensor, "B T"]]
"""Numbers and their mask to numbers of variance 1 over all processes, or the numbers as they are."""


def whitening(on: bool, world: World, *, keep_mean: bool = False) -> Whitening:
    """Whitening, or with `on` False what leaves numbers as they are."""

    def whitened(values: Tensor, mask: Tensor) -> Tensor:
        return whiten(values, mask, Moments.of(values, mask).summed(world.sum), keep_mean=keep_mean)

    return whitened if on else lambda values, mask: values
