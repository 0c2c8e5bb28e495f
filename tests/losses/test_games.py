"""Losses of preference games: against loops, the exact gradient on a space that can be enumerated, and equilibria that are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.losses.games import bradley_terry_table, nash_md_loss, sppo_loss, win_rates

from .cases import gradient, normal, numerical_gradient
from .test_tabular_optimum import MASK, REFERENCE, distribution, token_logprobs

WINS = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
"""Rock, paper, scissors, but not all wins are as sure: no score can say this."""


def equilibrium(wins: Tensor) -> Tensor:
    """The mixed strategy against which all win equally often, from the linear equations."""
    size = len(wins)
    system = np.block([[wins.numpy(), -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
    return torch.from_numpy(np.linalg.solve(system, np.r_[np.zeros(size), 1.0])[:size])


def test_nash_md_by_hand_and_by_differences():
    """A = P - ½ - βk: 0.8 - 0.5 - 0.1 · 2 = 0.1 and 0.3 - 0.5 + 0.1 = -0.1."""
    logprobs = torch.tensor([-3.0, -5.0], dtype=torch.float64)
    payoff, kl = torch.tensor([0.8, 0.3]).double(), torch.tensor([2.0, -1.0]).double()
    losses = nash_md_loss(logprobs, payoff, kl, beta=0.1)
    np.testing.assert_allclose(losses.numpy(), [0.3, -0.5], atol=1e-7)
    slope = gradient(lambda x: nash_md_loss(x, payoff, kl, beta=0.1), logprobs)
    expected = numerical_gradient(
        lambda x: float(sum(-(p - 0.5 - 0.1 * k) * y for p, k, y in zip(payoff, kl, x, strict=True))),
        logprobs,
    )
    np.testing.assert_allclose(slope.numpy(), expected, atol=1e-8)


def test_nash_mds_expected_gradient_is_that_of_its_objective():
    """Of E[P(y ≻ y')] - β KL(π ‖ π_ref) with y' held fixed; the KL of whole completions, so that a token sees what it does to later ones."""
    beta, number = 0.3, len(MASK)
    wins = bradley_terry_table(normal(1, number, seed=3))[0]
    table = REFERENCE + normal(*REFERENCE.shape, seed=9, scale=0.5)
    opponent = distribution(REFERENCE)
    sums = lambda logits: (token_logprobs(logits) * MASK).sum(1)  # noqa: E731
    reference = sums(REFERENCE)

    def objective(logits: Tensor) -> Tensor:
        logprobs = sums(logits)
        probability = logprobs.exp()
        return (probability * (wins @ opponent - beta * (logprobs - reference))).sum()

    def estimate(logits: Tensor) -> Tensor:
        logprobs = sums(logits)
        losses = nash_md_loss(logprobs, wins @ opponent, (logprobs - reference).detach(), beta=beta)
        return (logprobs.exp().detach() * losses).sum()

    torch.testing.assert_close(-gradient(estimate, table), gradient(objective, table), rtol=1e-9, atol=1e-12)


def test_a_kl_of_tokens_one_by_one_would_be_another_gradient():
    """The trap: each token weighed by its own log-ratio instead of the completion's."""
    table = REFERENCE + normal(*REFERENCE.shape, seed=9, scale=0.5)
    weight = distribution(table)
    ratio = (token_logprobs(table) - token_logprobs(REFERENCE)) * MASK

    def whole(logits: Tensor) -> Tensor:
        sums = (token_logprobs(logits) * MASK).sum(1)
        return weight * nash_md_loss(sums, torch.full_like(sums, 0.5), ratio.sum(1), beta=1.0)

    def by_token(logits: Tensor) -> Tensor:
        return (weight.unsqueeze(1) * ratio * token_logprobs(logits) * MASK).sum(1)

    assert (gradient(whole, table) - gradient(by_token, table)).abs().max() > 0.005


def test_nash_md_settles_at_the_regularised_equilibrium():
    """Where π ∝ π_ref exp(P(y ≻ π) / β), from exact expectations and an opponent that is the geometric mixture."""
    beta, share = 0.2, 0.5
    reference = torch.tensor([0.6, 0.3, 0.1]).double().log()
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.02)
    for _ in range(1500):
        logprobs = logits.log_softmax(-1)
        opponent = torch.lerp(logprobs.detach(), reference, share).softmax(-1)
        kl = (logprobs - reference).detach()
        losses = nash_md_loss(logprobs, WINS @ opponent, kl, beta=beta)
        optimizer.zero_grad()
        (logprobs.exp().detach() * losses).sum().backward()
        optimizer.step()
    policy = logits.detach().log_softmax(-1)
    opponent = torch.lerp(policy, reference, share).softmax(-1)
    settled = (reference + WINS @ opponent / beta).log_softmax(-1)
    torch.testing.assert_close(policy, settled, atol=1e-3, rtol=0)
    assert (policy.exp() - reference.exp()).abs().max() > 0.1


def test_sppo_by_hand_and_by_differences():
    """(ρ - η(P - ½))²: (0.5 - 10 · 0.1)² and (-1 + 10 · 0.25)²."""
    logprobs, before = torch.tensor([-2.5, -4.0]).double(), torch.tensor([-3.0, -3.0]).double()
    rates = torch.tensor([0.6, 0.25]).double()
    np.testing.assert_allclose(sppo_loss(logprobs, before, rates, eta=10.0).numpy(), [0.25, 2.25], atol=1e-6)
    slope = gradient(lambda x: sppo_loss(x, before, rates, eta=10.0), logprobs)
    expected = numerical_gradient(
        lambda x: sum((float(x[i]) - float(before[i]) - 10 * (float(rates[i]) - 0.5)) ** 2 for i in range(2)),
        logprobs,
    )
    np.testing.assert_allclose(slope.numpy(), expected, atol=1e-6)


def sppo_round(policy: Tensor, wins: Tensor, eta: float) -> Tensor:
    """Log-probabilities that minimise the exact expected loss from `policy`."""
    logits = policy.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=60, line_search_fn="strong_wolfe")
    rates = wins @ policy.exp()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (policy.exp() * sppo_loss(logits.log_softmax(-1), policy, rates, eta=eta)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return logits.detach().log_softmax(-1)


def test_a_round_of_sppo_is_a_step_of_multiplicative_weights():
    """Up to the square of η, by which log of the normaliser is not η / 2."""
    policy, eta = torch.tensor([0.6, 0.3, 0.1]).double().log(), 0.2
    exact = (policy + eta * (WINS @ policy.exp())).log_softmax(-1)
    found = sppo_round(policy, WINS, eta)
    assert (exact.exp() - policy.exp()).abs().max() > 5e-3
    torch.testing.assert_close(found.exp(), exact.exp(), atol=2e-4, rtol=0)


def test_the_average_of_sppo_rounds_is_the_equilibrium_of_intransitive_preferences():
    policy, average, rounds = torch.tensor([0.6, 0.3, 0.1]).double().log(), torch.zeros(3).double(), 600
    for _ in range(rounds):
        average += policy.exp() / rounds
        policy = sppo_round(policy, WINS, 0.3)
    torch.testing.assert_close(average, equilibrium(WINS), atol=0.03, rtol=0)
    assert (WINS @ average).max() < 0.515  # no answer beats it for sure
    assert (WINS @ torch.tensor([0.6, 0.3, 0.1]).double()).max() > 0.55


@pytest.mark.parametrize("k", [2, 5])
def test_win_rates_leave_the_completion_itself_out(k: int):
    table = torch.rand(3, k, k, generator=torch.Generator().manual_seed(0))
    table = (table + 1 - table.transpose(1, 2)) / 2
    by_loops = [
        [np.mean([table[p, i, j].item() for j in range(k) if j != i]) for i in range(k)] for p in range(3)
    ]
    np.testing.assert_allclose(win_rates(table).numpy(), by_loops, rtol=1e-5)
    # Half of all comparisons are won, whoever plays.
    torch.testing.assert_close(win_rates(table).mean(1), torch.full((3,), 0.5))


def test_scores_decide_by_their_difference():
    table = bradley_terry_table(torch.tensor([[0.0, float(np.log(3.0))]]))
    torch.testing.assert_close(table, torch.tensor([[[0.5, 0.25], [0.75, 0.5]]]))
