"""Which prompts get good completions and which bad ones: the density ratio that BCO's underlying distribution matching weighs by (arXiv:2404.04656).

A logistic regression on the starting policy's last hidden state of each prompt, fitted to the training examples with both kinds weighing the same, so
that its odds estimate p(prompt | good) / p(prompt | bad). The paper embeds prompts with a second model; here it is the one that is there.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefloop.models.packing import micro_batches
from prefloop.models.roles import Policy
from prefloop.runtime import World
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group

PENALTY = 1.0
"""Weight of ½|w|² beside the sum over examples, on standardised features; the usual default of logistic regressions."""


@torch.no_grad()
def prompt_features(
    policy: Policy, groups: Sequence[Group], *, tokens: int, world: World
) -> Float[Tensor, "N d"]:
    """The last hidden state of each group's prompt, float64, the same on every process."""
    alone = [
        Group(prompt=group.prompt, completions=(group.completions[0][:1],), masks=((True,),))
        for group in groups
    ]
    places = world.share(range(len(alone)))
    own: dict[int, Tensor] = {}
    for micro in in_step(micro_batches([alone[i] for i in places], tokens=tokens, device=world.device)):
        # A completion's first token is predicted from its prompt's last one.
        ends = micro.batch.predictors.shared
        rows = policy.hidden(micro.batch).index_select(0, ends).double().cpu()
        own |= {places[g]: row for g, row in zip(micro.groups, rows, strict=True)}
    found = {place: row for part in world.gather_objects(own) for place, row in part.items()}
    return torch.stack([found[i] for i in range(len(alone))])


def odds_of(
    features: Float[Tensor, "N d"], good: Bool[Tensor, " N"], others: Float[Tensor, "O d"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " O"]]:
    """p(x | good) / p(x | bad) of the rows that it is fitted on, and of others, by penalised logistic regression in float64.

    Both kinds weigh half, whatever their numbers; 1 where features say nothing. Needs one row or more of each kind.
    """
    assert good.any(), "no row is good"
    assert not good.all(), "no row is bad"
    mean, std = features.mean(dim=0), features.std(dim=0, unbiased=False)
    scale = torch.where(std > 0, std, 1.0)
    x = (features - mean) / scale
    sign = torch.where(good, 1.0, -1.0).double()
    weight = torch.where(good, 0.5 * len(good) / good.sum(), 0.5 * len(good) / (~good).sum()).double()
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def penalised() -> Tensor:
        optimizer.zero_grad()
        nll = -(weight * logsigmoid(sign * (x @ w + b))).sum(dim=0)
        loss = nll + 0.5 * PENALTY * w.square().sum(dim=0)
        loss.backward()
        return loss

    optimizer.step(penalised)
    w, b = w.detach(), b.detach()
    return (x @ w + b).exp(), (((others - mean) / scale) @ w + b).exp()
