"""Returns and advantages from per-token rewards and values. Targets, not losses: no gradient passes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.losses.reduce import keep


@torch.no_grad()
def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalised advantage estimates and returns, eqs. 11 to 16 of arXiv:1506.02438.

    δ_t = r_t + γV_{t+1} - V_t, A_t = δ_t + γλA_{t+1}, R_t = A_t + V_t. `values[b, t]` is the value of the state before token t. After a
    completion's last token the episode is over, whether it stopped or was cut off: V = A = 0 there. λ = 1 gives Monte Carlo
    returns, λ = 0 one-step temporal differences. Zeros outside the mask, whose content is never read.

    Steps are the policy's tokens: t + 1 is the next one of them, also where an environment's tokens stand between.
    """
    rewards, values = keep(rewards, mask), keep(values, mask)
    advantage = next_value = rewards.new_zeros(len(rewards))
    backwards: list[Tensor] = []
    for t in reversed(range(rewards.shape[1])):
        # Past the end rewards and values are zero, so the last step bootstraps from nothing.
        here = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * advantage
        advantage = torch.where(mask[:, t], here, advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        backwards.append(advantage)
    advantages = keep(torch.stack(backwards[::-1], dim=1), mask)
    return advantages, advantages + values


@torch.no_grad()
def returns_to_go(
    rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float
) -> Float[Tensor, "B T"]:
    """Discounted sum of the rewards from each token to the completion's end, Σ_k γ^k r_{t+k}; zeros outside the mask."""
    returns, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)
    return returns


def assert_right_padded(mask: Bool[Tensor, "B T"]) -> None:
    """A completion's tokens come first and without a hole; anything else would give a token another one's future."""
    assert not (mask[:, 1:] & ~mask[:, :-1]).any(), "the mask has a hole, or padding on the left"
