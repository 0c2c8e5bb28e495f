"""The parts of the critic-free methods against loops over ragged lists in float64, and against each other."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.configs.critic_free import METHODS, CISPOConfig, DAPOConfig, GSPOConfig
from prefloop.errors import InputError
from prefloop.losses import (
    ADVANTAGES,
    CLIPPED,
    RATIOS,
    REDUCTIONS,
    SURROGATES,
    k1,
    k3,
    probability_ratio,
    sequence_sum,
)

from .cases import Array, gradient, normal, numerical_gradient, quick, ragged_mask, widened, with_padding

LENGTHS = [3, 1, 7, 2, 4, 5]
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
MASK = ragged_mask(LENGTHS)
NOTHING = torch.zeros(6, dtype=torch.float64)


def advantages(
    name: str, rewards: Tensor, mask: Tensor = MASK, group: Tensor = GROUP, baseline: Tensor = NOTHING
):
    return ADVANTAGES[name](rewards, mask, group, baseline)


def advantages_by_loops(name: str, rows: list[list[float]], groups: list[int], baseline: list[float]):
    """From the papers' equations, one completion after another."""
    out = []
    for i, row in enumerate(rows):
        if name == "return":
            out.append([sum(row[t:]) - baseline[i] for t in range(len(row))])
            continue
        peers = [sum(other) for j, other in enumerate(rows) if groups[j] == groups[i]]
        others = [sum(other) for j, other in enumerate(rows) if groups[j] == groups[i] and j != i]
        own = sum(row)
        if name == "leave_one_out":
            value = own - np.mean(others)
        elif name == "group_mean":
            value = own - np.mean(peers)
        else:
            value = (own - np.mean(peers)) / (np.std(peers, ddof=1) + 1e-4)
        out.append([float(value)] * len(row))
    return out


@pytest.mark.parametrize("name", ADVANTAGES)
@quick
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    other=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    seed=st.integers(0, 99),
)
def test_advantages_equal_loops_on_groups_of_any_size(
    name: str, lengths: list[int], other: list[int], seed: int
):  # C8 M9
    """Two groups whose completions alternate with nothing in between: only `group` says who belongs together."""
    counts = [*lengths, *other]
    order = np.random.default_rng(seed).permutation(len(counts))
    groups = np.array([0] * len(lengths) + [1] * len(other))[order]
    counts = [counts[i] for i in order]
    mask = ragged_mask(counts, width=7)
    rewards, baseline = normal(*mask.shape, seed=seed), normal(len(counts), seed=seed + 1)
    ours = ADVANTAGES[name](
        with_padding(rewards, mask, math.nan), mask, torch.from_numpy(groups.copy()), baseline
    )
    rows = [rewards[b, :n].tolist() for b, n in enumerate(counts)]
    theirs = advantages_by_loops(name, rows, groups.tolist(), baseline.tolist())
    for b, row in enumerate(theirs):
        np.testing.assert_allclose(ours[b, : len(row)].numpy(), row, rtol=1e-9, atol=1e-11)
        assert torch.all(ours[b, len(row) :] == 0)


def test_rloo_is_dr_grpo_up_to_its_factor():
    rewards = normal(*MASK.shape, seed=3)
    torch.testing.assert_close(
        advantages("leave_one_out", rewards), advantages("group_mean", rewards) * 3 / 2
    )


@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_std"])
def test_advantages_of_a_group_add_to_zero_and_do_not_see_a_shift(name: str):
    rewards = normal(*MASK.shape, seed=3)
    ours = advantages(name, rewards)[:, 0]
    for group in (0, 1):
        assert ours[group == GROUP].sum().item() == pytest.approx(0, abs=1e-12)
    shifted = rewards.clone()
    shifted[:, 0] += 5.0 + GROUP  # another constant for every prompt
    torch.testing.assert_close(advantages(name, shifted)[:, 0], ours)
    if name == "group_std":
        torch.testing.assert_close(
            advantages(name, 1e6 * rewards), advantages(name, 1e7 * rewards), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_std"])
@pytest.mark.parametrize("equal", [0.0, 0.1, 1 / 3, -1e4, 123456.789])
def test_equal_rewards_give_exactly_zero(name: str, equal: float):
    """Also where float32 cannot hold their mean: a rounding error over a tiny deviation would be a large advantage."""
    rewards = torch.zeros(6, 7)
    rewards[:, 0] = equal
    assert torch.all(advantages(name, rewards, baseline=NOTHING.float()) == 0)


@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_std"])
def test_a_group_of_one_is_refused(name: str):  # C6
    with pytest.raises(InputError, match="completions_per_prompt to 2 or more"):
        advantages(name, normal(*MASK.shape, seed=0), group=torch.tensor([0, 0, 0, 1, 1, 2]))


def test_grpo_by_hand():
    """Rewards 1, 2, 3: mean 2, deviation 1."""
    rewards = torch.tensor([[1.0], [2.0], [3.0]])
    ours = ADVANTAGES["group_std"](
        rewards, torch.ones(3, 1, dtype=torch.bool), torch.zeros(3).long(), torch.zeros(3)
    )
    torch.testing.assert_close(ours[:, 0], torch.tensor([-1, 0, 1]) / 1.0001)


def loss_by_loops(method: type, lp: Array, old: Array, advantage: Array, length: int) -> float:
    """A method's whole loss from its paper's equation, one completion after another."""
    config = {name: field.default for name, field in method.__dataclass_fields__.items()}
    low, high = 1 - config["clip_low"], 1 + config["clip_high"]
    sequences = []
    for b, count in enumerate(LENGTHS):
        losses = []
        for t in range(count):
            a = float(advantage[b, t])
            gap = {
                "token": lambda b=b, t=t: lp[b, t] - old[b, t],
                "sequence_mean": lambda b=b, n=count: (lp[b, :n] - old[b, :n]).sum() / n,
            }[config["ratio"]]()
            ratio = math.exp(gap)
            if config["surrogate"] == "clipped":
                losses.append(-min(ratio * a, min(max(ratio, low), high) * a))
            else:
                losses.append(-a * float(lp[b, t]))
        sequences.append(losses)
    tokens = [value for losses in sequences for value in losses]
    return {
        "token_mean": lambda: sum(tokens) / len(tokens),
        "sequence_mean": lambda: sum(sum(losses) / len(losses) for losses in sequences) / len(sequences),
        "sequence_sum": lambda: sum(tokens) / len(sequences),
        "fixed_length": lambda: sum(tokens) / length / len(sequences),
    }[config["reduction"]]()


def loss_of(method: type, old: Tensor, advantage: Tensor, length: int = 9) -> Callable[[Tensor], Tensor]:
    config = {name: field.default for name, field in method.__dataclass_fields__.items()}
    of, surrogate = RATIOS[config["ratio"]], SURROGATES[config["surrogate"]]

    def loss(lp: Tensor) -> Tensor:
        losses = surrogate(
            of(lp, MASK), of(old, MASK), advantage, clip=(config["clip_low"], config["clip_high"])
        )
        return REDUCTIONS[config["reduction"]](
            losses, MASK, tokens=float(MASK.sum()), sequences=float(len(LENGTHS)), length=length
        )

    return loss


@pytest.mark.parametrize("method", [m for m in METHODS if m is not CISPOConfig], ids=lambda m: m.STAGE)
def test_losses_equal_loops(method: type):  # N5
    old, advantage = normal(*MASK.shape, seed=0) - 2, normal(*MASK.shape, seed=1)
    if method.__dataclass_fields__["ratio"].default == "sequence_mean":
        advantage = advantage[:, :1].expand(MASK.shape)
    lp = old + normal(*MASK.shape, seed=2, scale=0.4)
    ours = loss_of(method, old, advantage)
    by_loops = lambda x: loss_by_loops(method, x, old.numpy(), advantage.numpy(), 9)  # noqa: E731
    assert ours(lp).item() == pytest.approx(by_loops(lp.numpy()), rel=1e-12)
    np.testing.assert_allclose(gradient(ours, lp).numpy(), numerical_gradient(by_loops, lp), atol=1e-8)


def test_cispo_weighs_and_cuts_nothing():
    """Its gradient is -clip(ρ) A / tokens everywhere, the clipped tokens' included."""
    old, advantage = normal(*MASK.shape, seed=0) - 2, normal(*MASK.shape, seed=1)
    lp = old + normal(*MASK.shape, seed=2, scale=2.0)
    weight = (lp - old).exp().clamp(0, 5)
    expected = torch.where(MASK, -weight * advantage / MASK.sum(), 0.0)
    torch.testing.assert_close(gradient(loss_of(CISPOConfig, old, advantage), lp), expected)
    cut = CLIPPED["weighted"](lp, old, advantage, clip=(1.0, 4.0))
    assert cut.sum() == ((lp - old).exp() > 5).sum() > 0


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.STAGE)
def test_on_policy_every_method_is_the_policy_gradient(method: type):  # K11
    """At π = π_old the gradient is -A ∇log π times the reduction's weight of the token; where there is a ratio the loss is -A."""
    old, advantage = normal(*MASK.shape, seed=0) - 2, normal(*MASK.shape, seed=1)[:, :1].expand(MASK.shape)
    loss = loss_of(method, old, advantage)
    config = {name: field.default for name, field in method.__dataclass_fields__.items()}
    lengths = MASK.sum(1, keepdim=True)
    weight = {
        "token_mean": 1 / MASK.sum(),
        "sequence_mean": 1 / (lengths * len(LENGTHS)),
        "sequence_sum": 1 / len(LENGTHS),
        "fixed_length": 1 / (9 * len(LENGTHS)),
    }[config["reduction"]]
    expected = torch.where(MASK, -advantage * weight, 0.0)
    torch.testing.assert_close(gradient(loss, old), expected)
    if config["surrogate"] == "clipped":
        torch.testing.assert_close(loss(old), expected.sum())


def test_gspo_clips_a_completion_as_one():
    """A ratio beyond the range cuts all its tokens or none."""
    old = normal(*MASK.shape, seed=0) - 2
    lp = old + normal(*MASK.shape, seed=2, scale=0.01)
    advantage = torch.ones(MASK.shape, dtype=torch.float64)
    slopes = gradient(loss_of(GSPOConfig, old, advantage), lp)
    means = torch.stack([(lp - old)[b, :n].mean() for b, n in enumerate(LENGTHS)])
    cut = means.exp() > 1 + 4e-4
    assert cut.any()
    assert not cut.all()
    for b, n in enumerate(LENGTHS):
        assert bool((slopes[b, :n] == 0).all()) == bool(cut[b])
        assert bool((slopes[b, :n] == 0).any()) == bool(cut[b])


def test_sequence_sum_ratio_is_the_completions_own():
    old, lp = normal(*MASK.shape, seed=0) - 2, normal(*MASK.shape, seed=1) - 2
    of = RATIOS["sequence_sum"]
    ratio = probability_ratio(of(lp, MASK), of(old, MASK))[:, 0]
    torch.testing.assert_close(ratio, (sequence_sum(lp, MASK) - sequence_sum(old, MASK)).exp())


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.STAGE)
def test_losses_do_not_depend_on_padding_or_order(method: type):  # M8 M9 C8
    old, advantage = normal(*MASK.shape, seed=0) - 2, normal(*MASK.shape, seed=1)
    lp = old + normal(*MASK.shape, seed=2, scale=0.4)
    config = {name: field.default for name, field in method.__dataclass_fields__.items()}

    def loss(lp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        of = RATIOS[config["ratio"]]
        losses = SURROGATES[config["surrogate"]](
            of(lp, mask), of(old, mask), advantage, clip=(config["clip_low"], config["clip_high"])
        )
        counts = {"tokens": float(mask.sum()), "sequences": float(len(mask)), "length": 9}
        return REDUCTIONS[config["reduction"]](losses, mask, **counts)

    whole = loss(lp, old, advantage, MASK)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(lp[order], old[order], advantage[order], MASK[order]), whole)
    wide_lp, wide_old, wide = (
        with_padding(x, MASK, content, 3) for x, content in ((lp, 40.0), (old, -3.0), (advantage, 9.0))
    )
    torch.testing.assert_close(loss(wide_lp, wide_old, wide, widened(MASK, 3)), whole)


def test_defaults_are_the_papers():
    assert DAPOConfig.__dataclass_fields__["clip_high"].default == 0.28
    assert GSPOConfig.__dataclass_fields__["clip_low"].default == 3e-4
    assert len({method.STAGE for method in METHODS}) == len(METHODS) == 9


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_a_weighted_kl_has_the_gradient_of_the_kl_off_policy_too(name: str):  # K4
    """Samples of π_old, by summing over the vocabulary; π_ref is a third distribution."""
    estimator = {"k1": k1, "k3": k3}[name]
    logits, old_logits, reference = (normal(1, 6, seed=seed) for seed in (0, 1, 2))
    old, ref = old_logits.log_softmax(-1), reference.log_softmax(-1)

    def expected(logits: Tensor, *, weighted: bool) -> Tensor:
        lp = logits.log_softmax(-1)
        kl = estimator(lp, ref)
        return (old.exp() * (probability_ratio(lp, old) * kl if weighted else kl)).sum()

    def exact(logits: Tensor) -> Tensor:
        lp = logits.log_softmax(-1)
        return (lp.exp() * (lp - ref)).sum()

    true = gradient(exact, logits)
    torch.testing.assert_close(gradient(lambda x: expected(x, weighted=True), logits), true)
    assert (gradient(lambda x: expected(x, weighted=False), logits) - true).abs().max() > 0.05
