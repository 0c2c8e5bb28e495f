"""Where PPO ends with each KL estimator, in the reward and in the loss, on a space where the best policy is known.

The space, its reward and its reference are those of `tests/losses/test_tabular_optimum.py`: 15 sequences of at most three tokens, beta 0.5, and
the one policy that maximises E[r] - beta KL is pi* ∝ pi_ref exp(r / beta). Every step uses all sequences, weighted by their probability, so there
is no sampling noise: what is left is what the estimator itself does. About 12 seconds on one core:

    python -m bench.kl_placement
"""

import torch
from torch import Tensor

from prefloop.losses import (
    ESTIMATORS,
    clipped_surrogate,
    keep,
    masked_sum,
    returns_to_go,
    sequence_sum,
    shape_rewards,
)
from tests.losses.test_tabular_optimum import (
    BETA,
    MASK,
    OPTIMUM,
    REFERENCE,
    REWARDS,
    STATES,
    distance_to_optimum,
    distribution,
    token_logprobs,
)

STEPS = 2000
SETTINGS = [
    *((name, "reward") for name in ("k1", "k2", "k3", "exact")),
    *((name, "loss") for name in ("k2", "k3", "exact")),
]


def exact_kl(table: Tensor) -> Tensor:
    """`[15, 3]` KL of the next-token distributions at every state of every sequence."""
    policy, reference = table.log_softmax(-1), REFERENCE.log_softmax(-1)
    return (policy.exp() * (policy - reference)).sum(-1)[STATES]


def penalty(name: str, table: Tensor) -> Tensor:
    """`[15, 3]` per-token penalty by an estimator's name."""
    if name == "exact":
        return exact_kl(table)
    return ESTIMATORS[name](token_logprobs(table), token_logprobs(REFERENCE))


def kl_to_reference(probabilities: Tensor) -> float:
    """KL of whole sequences, in nats."""
    return (probabilities * (probabilities / distribution(REFERENCE)).log()).sum().item()


def train(name: str, placement: str) -> Tensor:
    """The policy's table after `STEPS` on-policy updates with exact expectations."""
    table = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        old, weights = token_logprobs(table.detach()), distribution(table).unsqueeze(1)
        in_reward = penalty(name, table.detach()) if placement == "reward" else torch.zeros_like(old)
        rewards = shape_rewards(REWARDS, in_reward, MASK, kl_coef=BETA)
        losses = clipped_surrogate(
            token_logprobs(table), old, returns_to_go(rewards, MASK, gamma=1.0), clip=0.2
        )
        if placement == "loss":
            losses = losses + BETA * keep(penalty(name, table), MASK)
        masked_sum(losses * weights, MASK).backward()
        optimizer.step()
        schedule.step()
    return table.detach()


def main() -> None:
    """Print the table of docs/ppo.md."""
    print(f"optimum: KL {kl_to_reference(OPTIMUM):.2f}")
    print("estimator  placement  distance to the optimum  KL reached")
    for name, placement in SETTINGS:
        table = train(name, placement)
        kl = sequence_sum(exact_kl(table), MASK) @ distribution(table)
        assert abs(kl.item() - kl_to_reference(distribution(table))) < 1e-6
        print(f"{name:9}  {placement:9}  {distance_to_optimum(table):23.4f}  {kl.item():10.2f}")


if __name__ == "__main__":
    main()
