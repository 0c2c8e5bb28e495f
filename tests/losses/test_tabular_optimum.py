"""On a space of sequences that can be enumerated, the losses reach the one policy that maximises E[r] - β KL(π || π_ref).

That policy is π*(y) ∝ π_ref(y) exp(r(y) / β), section 4 of arXiv:2305.18290. The policy is a softmax table over the prefix tree of two
ordinary tokens and a stop token, three tokens at most: 15 sequences of one to three tokens, so the masks are ragged as in a real batch.
"""

import torch
from torch import Tensor

from prefloop.losses import (
    Moments,
    clipped_surrogate,
    clipped_value_loss,
    dpo_loss,
    example_mean,
    explained_variance,
    gae,
    k1,
    sequence_sum,
    shape_rewards,
    token_count,
    token_mean,
)

from .cases import normal
from .tabular import MASK, PREFIXES, SEQUENCES, STATES, distribution, token_logprobs

BETA = 0.5
REWARDS = normal(len(SEQUENCES), seed=5)
REFERENCE = normal(len(PREFIXES), 3, seed=6)


OPTIMUM = (distribution(REFERENCE).log() + REWARDS / BETA).softmax(0)


def distance_to_optimum(table: Tensor) -> float:
    """Total variation distance."""
    return (distribution(table) - OPTIMUM).abs().sum().item() / 2


def test_the_space_is_what_it_should_be():
    assert len(SEQUENCES) == 15
    assert len(PREFIXES) == 7
    assert abs(distribution(REFERENCE).sum().item() - 1) < 1e-12
    assert distance_to_optimum(REFERENCE) > 0.4


def test_dpo_on_infinite_bradley_terry_data_reaches_the_optimum():
    first, second = torch.triu_indices(15, 15, offset=1)
    prefer_first = torch.sigmoid(REWARDS[first] - REWARDS[second])
    reference = sequence_sum(token_logprobs(REFERENCE), MASK)
    table = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([table], max_iter=300, line_search_fn="strong_wolfe")

    def expected_loss() -> Tensor:
        optimizer.zero_grad()
        policy = sequence_sum(token_logprobs(table), MASK)
        sides = policy[first], policy[second], reference[first], reference[second]
        swapped = policy[second], policy[first], reference[second], reference[first]
        losses = prefer_first * dpo_loss(*sides, beta=BETA) + (1 - prefer_first) * dpo_loss(
            *swapped, beta=BETA
        )
        loss = example_mean(losses, examples=len(losses))
        loss.backward()
        return loss

    optimizer.step(expected_loss)
    assert distance_to_optimum(table) < 0.01


def test_ppo_with_the_kl_in_the_reward_reaches_the_optimum():
    """Sampled batches, a learned table critic, four epochs a step, learning rates falling to zero."""
    generator = torch.Generator().manual_seed(0)
    steps, batch = 120, 512
    table = REFERENCE.clone().requires_grad_()
    critic = torch.zeros(len(PREFIXES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [table], "lr": 0.05}, {"params": [critic], "lr": 0.1}])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)

    for step in range(steps):
        drawn = torch.multinomial(distribution(table), batch, replacement=True, generator=generator)
        mask, states = MASK[drawn], STATES[drawn]
        old_logprobs, old_values = token_logprobs(table.detach())[drawn], critic.detach()[states]
        kl = k1(old_logprobs, token_logprobs(REFERENCE)[drawn])
        if step == 0:
            assert torch.all(kl == 0)
        rewards = shape_rewards(REWARDS[drawn], kl, mask, kl_coef=BETA)
        advantages, returns = gae(rewards, old_values, mask, gamma=1.0, lam=0.95)
        tokens = float(token_count(mask))
        for _ in range(4):
            optimizer.zero_grad()
            policy_loss = clipped_surrogate(
                token_logprobs(table)[drawn], old_logprobs, advantages, clip=0.2, dual_clip=3.0
            )
            value_loss = clipped_value_loss(critic[states], old_values, returns, clip=0.2)
            token_mean(policy_loss + value_loss, mask, tokens=tokens).backward()
            optimizer.step()
        schedule.step()

    assert distance_to_optimum(table) < 0.01
    # Where π = π*, every completion's reward is β log Z: V of the first state has learned it, and nothing is left to explain.
    best = BETA * (distribution(REFERENCE).log() + REWARDS / BETA).logsumexp(0).item()
    assert abs(critic[PREFIXES.index(())].item() - best) < 0.05
    errors = Moments.of(
        REWARDS - BETA * (distribution(table) / distribution(REFERENCE)).log() - best, MASK[:, 0]
    )
    assert explained_variance(Moments.of(REWARDS, MASK[:, 0]), errors) > 0.95
