"""Policies in the world of letters by any objective of `prefer`: what an annotator says of the reference's completions, and training on it.

An annotator gives each completion its true reward plus noise. A comparison or a ranking shows the order of these numbers, a label which of two is higher,
a score the number itself. So all kinds of data can be about the same completions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.losses import example_mean
from prefloop.losses.objectives import OBJECTIVES, Objective, call
from prefloop.losses.quantities import MISMATCHED, TokenNumbers, quantities
from prefloop.models.contrast import contrast_of_logits
from prefloop.studies.letters import RATE, Comparisons, Letters, adam

BATCH = 512
"""Completions of a step, at most."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedGroups:
    """M groups of K completions of a prompt, best first."""

    prompt: Int[Tensor, " M"]
    completions: Int[Tensor, "M K"]
    labels: Float[Tensor, "M K"]
    """As `TokenNumbers.labels`: 1 or 0 for good or bad, a score, or how likely the first is the better one."""

    def take(self, places: Int[Tensor, " B"]) -> "JudgedGroups":
        """Some of them."""
        return replace(
            self,
            prompt=self.prompt[places],
            completions=self.completions[places],
            labels=self.labels[places],
        )


def judge_groups(
    world: Letters, groups: int, k: int, *, temperature: float, draw: torch.Generator
) -> JudgedGroups:
    """Groups of the reference's completions, ordered by true reward + temperature times Gumbel noise, which is the label.

    Of two completions the first is then the better one with probability σ(gap / temperature), and orders of K follow Plackett and Luce's model.
    """
    p = world.probabilities
    prompt = torch.randint(len(p), (groups,), generator=draw)
    drawn = torch.multinomial(p[prompt], k, replacement=True, generator=draw)
    uniforms = torch.rand(drawn.shape, generator=draw).clamp(min=1e-20, max=1 - 1e-7)
    noise = -(-uniforms.log()).log()
    seen = world.gold[prompt[:, None], drawn] + temperature * noise
    order = seen.argsort(dim=1, descending=True)
    return JudgedGroups(prompt=prompt, completions=drawn.gather(1, order), labels=seen.gather(1, order))


def as_pairs(data: JudgedGroups) -> Comparisons:
    """Groups of two as comparisons."""
    chosen, rejected = data.completions.unbind(1)
    return Comparisons(prompt=data.prompt, chosen=chosen, rejected=rejected)


def paired(data: Comparisons) -> JudgedGroups:
    """Comparisons as groups, the chosen completion labelled 1 and the rejected one 0."""
    completions = torch.stack([data.chosen, data.rejected], dim=1)
    labels = torch.tensor([1.0, 0.0]).expand(len(completions), 2)
    return JudgedGroups(prompt=data.prompt, completions=completions, labels=labels)


def train_by_objective(
    world: Letters,
    data: JudgedGroups,
    loss: str,
    *,
    steps: int,
    seed: int,
    settings: Mapping[str, Any],
    rate: float = RATE,
) -> Float[Tensor, "P N V"]:
    """A policy by one of the objectives of `prefer`: Adam from the reference on minibatches, at a rate that falls to zero."""
    objective = OBJECTIVES[loss]
    settings = {**objective.settings, **settings}
    draw = torch.Generator().manual_seed(seed)
    table = world.reference.clone().requires_grad_()
    value = torch.zeros(len(table), requires_grad=True)
    reference = world.reference.log_softmax(-1)
    odds = _prompt_odds(data, prompts=len(table))
    running = dict(objective.running)
    optimizer, schedule = adam([table, value], rate, steps)
    count = len(data.prompt)
    for _ in range(steps):
        size = min(BATCH // data.completions.shape[1], count)
        some = data.take(torch.randint(count, (size,), generator=draw))
        numbers = _numbers(world, table, reference, value, odds, some, objective)
        extra: dict[str, Tensor] = {}
        if objective.prepare:
            known = _whole_step(world, table, reference, some, numbers, objective)
            result = call(objective.prepare, {**known, **settings, "running": running, "draw": draw})
            running = dict(result.running) or running
            extra = {**result.shared, **result.each}
        known = quantities(objective.data, [name for name in objective.names if name not in extra], numbers)
        losses = call(objective.loss, {**known, **extra, **settings})
        optimizer.zero_grad()
        example_mean(losses, examples=len(losses)).backward()
        optimizer.step()
        schedule.step()
    return table.detach()


def _at(
    world: Letters, logp: Float[Tensor, "P N V"], prompt: Int[Tensor, " B"], at: Int[Tensor, " B"]
) -> Float[Tensor, "B L"]:
    """log π of the tokens of some completions, from that of all tokens."""
    tree = world.tree
    return logp[prompt[:, None], tree.states[at], tree.tokens[at]]


def _numbers(
    world: Letters,
    table: Tensor,
    reference: Tensor,
    value: Tensor,
    odds: Tensor,
    some: JudgedGroups,
    objective: Objective,
) -> TokenNumbers:
    """What the objective may name, of a step's completions."""
    tree, k = world.tree, some.completions.shape[1]
    at, prompt = some.completions.flatten(), some.prompt.repeat_interleave(k)
    states, needs = tree.states[at], objective.needs
    logp = table.log_softmax(-1)
    single = objective.data in ("labels", "scores")
    forward_kl = log_collision = contrast = None
    if needs.forward_kl:
        forward_kl = (reference.exp() * (reference - logp)).sum(-1)[prompt[:, None], states]
    if needs.log_collision:
        log_collision = (2 * logp.detach()).logsumexp(-1)[prompt[:, None], states]
    if needs.contrast:
        flat = logp[prompt[:, None], states].flatten(0, 1)
        contrast = contrast_of_logits(flat, tree.tokens[at].flatten()).view(states.shape)
    return TokenNumbers(
        logprobs=_at(world, logp, prompt, at),
        mask=tree.mask[at],
        group=torch.arange(len(at)) // (1 if single else k),
        labels=some.labels.flatten(),
        reference=_at(world, reference, prompt, at),
        forward_kl=forward_kl,
        log_collision=log_collision,
        contrast=contrast,
        value=value[prompt],
        prompt_odds=odds[prompt],
    )


def _whole_step(
    world: Letters,
    table: Tensor,
    reference: Tensor,
    some: JudgedGroups,
    numbers: TokenNumbers,
    objective: Objective,
) -> dict[str, Tensor]:
    """What the objective's `prepare` may name: without gradient. Mismatched is each prompt with the completion of another example."""
    at, mask = some.completions.flatten().roll(1), world.tree.mask
    prompt = some.prompt.repeat_interleave(some.completions.shape[1])
    own = [name for name in objective.prepare_names if name not in MISMATCHED]
    known = quantities(objective.data, own, numbers)
    if set(objective.prepare_names) & set(MISMATCHED):
        for name, logp in (("policy", table.log_softmax(-1)), ("reference", reference)):
            known[f"{name}_mismatched"] = (_at(world, logp, prompt, at) * mask[at]).sum(1)
    return {name: tensor.detach() for name, tensor in known.items()}


def _prompt_odds(data: JudgedGroups, *, prompts: int) -> Float[Tensor, " P"]:
    """p(prompt | good) / p(prompt | bad), by counting."""
    good = data.labels > 0
    asked = data.prompt[:, None].expand_as(good)
    up, down = (torch.bincount(asked[side], minlength=prompts) + 1.0 for side in (good, ~good))
    return (up / up.sum()) / (down / down.sum())
