"""On the space of `test_tabular_optimum`: critic-free gradients are those of E[r] - β KL(π || π_ref), and end at its one optimum."""

import pytest
import torch
from torch import Tensor

from prefloop.losses import (
    ADVANTAGES,
    REDUCTIONS,
    SURROGATES,
    Moments,
    RunningMoments,
    k1,
    shape_rewards,
    whiten,
)

from .cases import normal
from .test_tabular_optimum import (
    BETA,
    MASK,
    OPTIMUM,
    REFERENCE,
    REWARDS,
    SEQUENCES,
    distance_to_optimum,
    distribution,
    token_logprobs,
)

NUMBER = len(SEQUENCES)
CLIP = (0.2, 0.2)


def optimal_table() -> Tensor:
    """Logits of the optimum: what is left of each prefix's probability, token by token."""
    table = torch.full_like(REFERENCE, -torch.inf)
    prefixes = sorted({sequence[:t] for sequence in SEQUENCES for t in range(len(sequence))})
    for row, prefix in enumerate(prefixes):
        for token in range(3):
            grown = (*prefix, token)
            mass = sum(OPTIMUM[i].item() for i, s in enumerate(SEQUENCES) if s[: len(grown)] == grown)
            table[row, token] = torch.tensor(mass, dtype=torch.float64).log()
    return table


def rewards_of(table: Tensor, drawn: Tensor) -> Tensor:
    """Token rewards of some of the sequences, the KL to the reference in them."""
    kl = k1(token_logprobs(table)[drawn], token_logprobs(REFERENCE)[drawn])
    return shape_rewards(REWARDS[drawn], kl, MASK[drawn], kl_coef=BETA)


@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_std"])
def test_at_the_optimum_no_completion_is_better_than_another(name: str):
    """There score - β log-ratio is β log Z for every completion, so every group advantage is 0, however large the group's samples differ."""
    table = optimal_table()
    assert distance_to_optimum(table) < 1e-12
    rewards = rewards_of(table, torch.arange(NUMBER))
    group = torch.arange(NUMBER) % 5
    advantages = ADVANTAGES[name](rewards, MASK, group, torch.zeros(NUMBER).double())
    assert advantages.abs().max() < 1e-9


def objective_gradient(table: Tensor) -> Tensor:
    """Gradient of E[r] - β KL by autograd through the distribution itself."""
    variable = table.clone().requires_grad_()
    logprobs = (token_logprobs(variable) * MASK).sum(1)
    reference = (token_logprobs(REFERENCE) * MASK).sum(1)
    (logprobs.exp() * (REWARDS - BETA * (logprobs - reference))).sum().backward()
    assert variable.grad is not None
    return variable.grad


@pytest.mark.parametrize(("name", "factor"), [("leave_one_out", 1.0), ("group_mean", 0.5), ("return", 1.0)])
def test_the_expected_gradient_is_that_of_the_objective(name: str, factor: float):
    """All pairs of completions with their probabilities: exact. The mean of a pair knows the completion itself, so it keeps half (K = 2)."""
    table = REFERENCE + normal(*REFERENCE.shape, seed=9, scale=0.5)
    first, second = torch.cartesian_prod(torch.arange(NUMBER), torch.arange(NUMBER)).unbind(1)
    weight = distribution(table)[first] * distribution(table)[second]
    drawn = torch.stack([first, second], 1).flatten()
    group = torch.arange(len(first)).repeat_interleave(2)
    baseline = torch.full((len(drawn),), 0.7, dtype=torch.float64)
    advantages = ADVANTAGES[name](rewards_of(table, drawn), MASK[drawn], group, baseline)
    variable = table.clone().requires_grad_()
    logprobs = token_logprobs(variable)[drawn]
    losses = SURROGATES["score"](logprobs, logprobs.detach(), advantages, clip=CLIP)
    per_pair = torch.where(MASK[drawn], losses, 0.0).sum(1).view(-1, 2).mean(1)
    (weight * per_pair).sum().backward()
    assert variable.grad is not None
    torch.testing.assert_close(-variable.grad, factor * objective_gradient(table), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "surrogate", "reduction", "whitened"),
    [
        ("leave_one_out", "score", "sequence_sum", False),
        ("return", "score", "sequence_sum", False),
        ("return", "clipped", "token_mean", True),
        ("group_std", "clipped", "sequence_mean", False),
        ("group_mean", "weighted", "fixed_length", False),
    ],
)
def test_every_method_reaches_the_optimum_with_its_kl_in_the_reward(
    name: str, surrogate: str, reduction: str, whitened: bool
):
    """128 groups of four a step, the rate falling to zero; `return` with the running mean of earlier rewards."""
    generator = torch.Generator().manual_seed(0)
    steps, batch, k = 150, 512, 4
    table = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.08)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    running = RunningMoments()
    group = torch.arange(batch // k).repeat_interleave(k)
    for _ in range(steps):
        drawn = torch.multinomial(distribution(table), batch, replacement=True, generator=generator)
        mask, rewards = MASK[drawn], rewards_of(table.detach(), drawn)
        baseline = torch.full((batch,), running.mean, dtype=torch.float64)
        running = running.update(Moments.of(rewards.sum(1), mask[:, 0]))
        advantages = ADVANTAGES[name](rewards, mask, group, baseline)
        if whitened:
            advantages = whiten(advantages, mask, Moments.of(advantages, mask))
        logprobs = token_logprobs(table)[drawn]
        losses = SURROGATES[surrogate](logprobs, logprobs.detach(), advantages, clip=CLIP)
        optimizer.zero_grad()
        counts = {"tokens": float(mask.sum()), "sequences": float(batch), "length": 3}
        REDUCTIONS[reduction](losses, mask, **counts).backward()
        optimizer.step()
        schedule.step()
    # Where tokens' returns go on to differ at the optimum, the step's noise does too.
    assert distance_to_optimum(table) < 0.03
