"""Learning by likelihood: cross-entropy on completion tokens, a mean over all trained tokens of the step, whatever the micro-batches and processes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prefloop.loop.learn import Loss, update
from prefloop.losses import mean_over, sum_and_count
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.runtime import Metrics, Updater, World
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group


def likelihood_step(
    updater: Updater, policy: Policy, groups: Sequence[Group], *, tokens: int, world: World
) -> dict[str, float]:
    """One update that raises the likelihood of this process's share of a batch; its metrics."""
    loss, count = likelihood_loss(policy, groups, world)
    result = update(updater, groups, loss, tokens=tokens, world=world)
    return {**result.metrics(), "tokens": count}


def likelihood_loss(policy: Policy, groups: Sequence[Group], world: World) -> tuple[Loss, float]:
    """Negative log-likelihood per trained token of all processes' groups, as a loss of their micro-batches; and how many tokens those are."""
    count = world.sum_float(trained_tokens(groups))

    def loss(part: MicroBatch) -> Tensor:
        return mean_over(-policy(part.batch), part.batch.completion_mask, count=count)

    return loss, count


def trained_tokens(groups: Sequence[Group]) -> int:
    """Tokens under the masks."""
    return sum(sum(mask) for group in groups for mask in group.masks)


def likelihood_metrics(
    policy: Policy, groups: Sequence[Group], *, tokens: int, world: World
) -> dict[str, float]:
    """Mean negative log-likelihood per trained token of held-out groups, and its exponential; nothing if nothing is held out."""
    if not groups:
        return {}
    metrics = Metrics()
    with torch.no_grad():
        for part in in_step(micro_batches(world.share(groups), tokens=tokens, device=world.device)):
            metrics.add("heldout_loss", *sum_and_count(-policy(part.batch), part.batch.completion_mask))
    loss = metrics.reduce(world)["heldout_loss"]
    return {"heldout_loss": loss, "heldout_perplexity": math.exp(min(loss, 700.0))}
