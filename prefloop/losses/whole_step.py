"""What some losses need of all examples of a step together, over micro-batches and processes: computed without gradient, before the losses.

Each function takes whole-step tensors by the names of `quantities`, the `running` state that is carried from step to step (and saved), a generator
that depends on seed and step alone, and the loss's settings that it has; it returns a `Prepared`. Nothing in it depends on how a step is cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prefloop.losses.pairwise import PerPair
from prefloop.losses.unary import Each, Flag

SMALLEST_STD = 1e-3
"""Margins that differ by less do so by float noise: they do, before the first update."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """More quantities for the loss, by parameter name."""

    shared: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars of the step; logged under their names."""
    each: Mapping[str, Tensor] = field(default_factory=dict)
    """One number an example of the step, in its order."""
    running: Mapping[str, float] = field(default_factory=dict)
    """The state after this step."""


def kto_step(
    policy_mismatched: Each,
    reference_mismatched: Each,
    *,
    running: Mapping[str, float],
    draw: torch.Generator,
) -> Prepared:
    """KTO's reference point: max(0, mean ρ) over completions of *other* prompts (arXiv:2402.01306)."""
    ratio = policy_mismatched - reference_mismatched
    return Prepared(shared={"reference_point": ratio.mean().clamp(min=0)})


def bco_step(
    policy: Each,
    reference: Each,
    good: Flag,
    *,
    running: Mapping[str, float],
    draw: torch.Generator,
    beta: float = 0.01,
    decay: float = 0.9,
) -> Prepared:
    """BCO's reward shift: a moving mean of ½(mean reward of good + mean reward of bad), this step's included; one side's mean where the other is absent."""
    rewards = beta * (policy - reference)
    sides = [rewards[good], rewards[~good]]
    present = torch.stack([side.mean() for side in sides if len(side)]).mean()
    return _shift(present, running, decay)


def bco_pair_step(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    running: Mapping[str, float],
    draw: torch.Generator,
    beta: float = 0.01,
    decay: float = 0.9,
) -> Prepared:
    """BCO's reward shift on pairs: a moving mean of ½(mean βρ_w + mean βρ_l), this step's included."""
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return _shift(0.5 * beta * (chosen.mean() + rejected.mean()), running, decay)


def _shift(now: Tensor, running: Mapping[str, float], decay: float) -> Prepared:
    shift = decay * running["reward_shift"] + (1 - decay) * now
    return Prepared(shared={"reward_shift": shift}, running={"reward_shift": shift.item()})


def beta_dpo_step(
    reference_margin: PerPair,
    *,
    running: Mapping[str, float],
    draw: torch.Generator,
    beta: float = 0.1,
    sensitivity: float = 0.6,
    kept: float = 0.8,
    decay: float = 0.9,
    smallest_beta: float = 1e-3,
) -> Prepared:
    """β-DPO's β and filter, arXiv:2407.08639.

    Running mean M and deviation σ of raw margins h (`reference_margin`, no β in it) are updated with the step first. A share `kept` of the comparisons is drawn
    without replacement with weights exp(-½((h - M)/σ)²); β = β₀(1 + a (mean h of those kept - M)), at least `smallest_beta`; a is `sensitivity`.
    """
    h = reference_margin.double()
    mean = decay * running["mean"] + (1 - decay) * h.mean()
    std = decay * running["std"] + (1 - decay) * h.std(unbiased=False)
    log_weights = -0.5 * ((h - mean) / std.clamp(min=SMALLEST_STD)).square()
    # The largest of log-weight + Gumbel noise are a draw without replacement, and no weight underflows.
    uniforms = torch.rand(len(h), generator=draw, dtype=torch.float64).clamp(min=1e-300)
    keys = log_weights + -(-uniforms.log()).log().to(h.device)
    count = max(1, round(kept * len(h)))
    chosen = torch.zeros_like(h)
    chosen[keys.topk(count).indices] = 1.0
    level = (h * chosen).sum() / count
    step_beta = (beta * (1 + sensitivity * (level - mean))).clamp(min=smallest_beta)
    dtype = reference_margin.dtype
    return Prepared(
        shared={"step_beta": step_beta.to(dtype)},
        each={"step_weight": (chosen * len(h) / count).to(dtype)},
        running={"mean": mean.item(), "std": std.item()},
    )


def aot_step(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    running: Mapping[str, float],
    draw: torch.Generator,
) -> Prepared:
    """For each log-ratio the one of equal rank on the other side: the optimal transport between two sets of numbers sorts both (arXiv:2406.05882)."""
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    by_chosen, by_rejected = chosen.argsort(stable=True), rejected.argsort(stable=True)
    partner_of_chosen, partner_of_rejected = torch.empty_like(chosen), torch.empty_like(rejected)
    partner_of_chosen[by_chosen] = rejected[by_rejected]
    partner_of_rejected[by_rejected] = chosen[by_chosen]
    return Prepared(each={"partner_of_chosen": partner_of_chosen, "partner_of_rejected": partner_of_rejected})


def aot_paired_step(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    running: Mapping[str, float],
    draw: torch.Generator,
) -> Prepared:
    """For each margin of the policy the reference's of equal rank (arXiv:2406.05882)."""
    margins, theirs = policy_chosen - policy_rejected, reference_chosen - reference_rejected
    partner = torch.empty_like(theirs)
    partner[margins.argsort(stable=True)] = theirs.sort().values
    return Prepared(each={"reference_partner": partner})
