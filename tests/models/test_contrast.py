"""A token against the likeliest others: against the whole vocabulary's logits in float64."""

import math

import pytest
import torch
from torch import Tensor

from prefloop.configs.common import Compute
from prefloop.models import head as head_module
from prefloop.models.contrast import CANDIDATES, contrast_of_logits, token_contrast
from prefloop.models.head import Head
from prefloop.models.load import as_policy
from prefloop.models.packing import pack
from prefloop.text.groups import Group
from tests.models.tiny import PACKABLE, make


def by_hand(logits: list[float], target: int, weights_of: list[float]) -> float:
    """Mean over the five likeliest others of -log of a two-way softmax; their weights from logits that do not move."""
    others = [v for v in range(len(logits)) if v != target]
    others = sorted(others, key=lambda v: -weights_of[v])[:CANDIDATES]
    total = sum(math.exp(weights_of[v]) for v in others)
    return sum(
        math.exp(weights_of[v])
        / total
        * -math.log(math.exp(logits[v]) / (math.exp(logits[v]) + math.exp(logits[target])))
        for v in others
    )


def leaf(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("chunk", [46, 4 << 20])
@pytest.mark.parametrize("vocabulary", [23, 4])
def test_value_and_gradient_are_those_of_the_definition(
    chunk: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", chunk)
    hidden, weight, bias = leaf(7, 5, seed=1), leaf(vocabulary, 5, seed=2), leaf(vocabulary, seed=3)
    targets = torch.randint(vocabulary, (7,), generator=torch.Generator().manual_seed(4))
    ours = token_contrast(hidden, Head(weight=weight, bias=bias, scale=0.5), targets)
    upstream = torch.linspace(-1, 2, 7)
    got = torch.autograd.grad((ours * upstream).sum(), [hidden, weight, bias])

    leaves = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    logits = 0.5 * leaves[0] @ leaves[1].T + leaves[2]
    expected = [
        by_hand(row.tolist(), int(target), row.tolist()) for row, target in zip(logits, targets, strict=True)
    ]
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)
    # The gradient by central differences in each logit, weights held still.
    moved = torch.zeros_like(logits)
    for m, row in enumerate(logits.detach().tolist()):
        for v in range(vocabulary):
            up, down = row.copy(), row.copy()
            up[v] += 1e-5
            down[v] -= 1e-5
            slope = by_hand(up, int(targets[m]), row) - by_hand(down, int(targets[m]), row)
            moved[m, v] = upstream[m] * slope / 2e-5
    wanted = torch.autograd.grad(logits, leaves, grad_outputs=moved)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def test_full_logits_give_the_same() -> None:
    hidden, weight = leaf(6, 5, seed=1), leaf(17, 5, seed=2)
    targets = torch.arange(6)
    logits = hidden @ weight.T
    ours = token_contrast(hidden, Head(weight=weight, bias=weight.new_empty(0)), targets)
    torch.testing.assert_close(contrast_of_logits(logits, targets), ours)
    torch.testing.assert_close(contrast_of_logits(logits.log_softmax(1), targets), ours)
    assert torch.equal(logits, hidden @ weight.T)  # left as they were


def test_a_policy_gives_it_for_every_predicted_token() -> None:
    policy = as_policy(make(PACKABLE["llama"]), Compute(device="cpu"))
    group = Group(prompt=[3, 4], completions=([5, 6], [7, 8, 9]), masks=([True] * 2, [True] * 3))
    batch = pack([group], policy.device)
    found = policy.contrast(batch)
    assert found.shape == batch.targets.shape
    torch.testing.assert_close(policy.contrast(batch, policy.hidden(batch)), found)
    policy.linear_head = False
    torch.testing.assert_close(policy.contrast(batch), found, rtol=1e-4, atol=1e-5)
