"""The chunked head against log_softmax in float64 over the whole vocabulary at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prefloop.models import head as head_module
from prefloop.models.head import Head, Want, token_statistics, token_statistics_with_kl


def leaf(*shape: int, seed: int) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    ).requires_grad_()


@pytest.fixture(params=[64, 4 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", request.param)
    return request.param


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_equal_the_dense_head(chunk: int, temperature: float, with_bias: bool) -> None:
    rows, width, vocabulary = 9, 5, 23
    hidden, weight, reference_hidden, reference_weight = (
        leaf(rows, width, seed=1), leaf(vocabulary, width, seed=2), leaf(rows, width, seed=3), leaf(vocabulary, width, seed=4)
    )  # fmt: skip
    bias = leaf(vocabulary if with_bias else 0, seed=5)
    targets = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(6))
    upstream = [torch.randn(rows, generator=torch.Generator().manual_seed(7 + i)) for i in range(4)]
    scale = 0.5

    ours = token_statistics_with_kl(
        hidden,
        Head(weight=weight, bias=bias, scale=scale),
        targets,
        temperature=temperature,
        reference_hidden=reference_hidden,
        reference_head=Head(weight=reference_weight, bias=bias[:0]),
        want=Want(entropy=True, kl=True, forward_kl=True, log_collision=True),
    )
    statistics = (ours.logprobs, ours.entropy, ours.kl, ours.forward_kl)
    inputs = [hidden, weight, *([bias] if with_bias else [])]
    got = torch.autograd.grad(
        torch.stack([(value * up).sum() for value, up in zip(statistics, upstream, strict=True)]).sum(), inputs
    )  # fmt: skip

    h, w, b = (x.detach().double().requires_grad_() for x in (hidden, weight, bias))
    z = scale * h @ w.T
    logp = torch.log_softmax((z + b if with_bias else z) / temperature, -1)
    logq = torch.log_softmax(
        reference_hidden.detach().double() @ reference_weight.detach().double().T / temperature, -1
    )
    expected = (
        logp.gather(1, targets[:, None])[:, 0],
        -(logp.exp() * logp).sum(-1),
        (logp.exp() * (logp - logq)).sum(-1),
        (logq.exp() * (logq - logp)).sum(-1),
    )
    assert torch.allclose(ours.log_collision.double(), logp.exp().square().sum(-1).log(), atol=1e-5)
    assert not ours.log_collision.requires_grad
    for mine, true in zip(statistics, expected, strict=True):
        assert torch.allclose(mine.double(), true, atol=1e-5)
    wanted = torch.autograd.grad(
        torch.stack([(value * up).sum() for value, up in zip(expected, upstream, strict=True)]).sum(),
        [h, w, *([b] if with_bias else [])],
    )
    for mine, true in zip(got, wanted, strict=True):
        assert torch.allclose(mine.double(), true, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 46, 115, 1 << 20])
@pytest.mark.parametrize("learns", ["all", "hidden", "weight"])
def test_logprobs_alone_equal_the_dense_head(
    monkeypatch: pytest.MonkeyPatch, chunk: int, kept: int, learns: str
) -> None:
    """With none, the last two, five or all of nine rows' probabilities kept; and once more through the same graph."""
    monkeypatch.setattr(head_module, "KEPT_ELEMENTS", kept)
    hidden, weight, bias = leaf(9, 5, seed=1), leaf(23, 5, seed=2), leaf(23, seed=3)
    if learns != "all":
        (weight if learns == "hidden" else hidden).requires_grad_(False)
        bias.requires_grad_(False)
    learning = [each for each in (hidden, weight, bias) if each.requires_grad]
    targets = torch.randint(23, (9,), generator=torch.Generator().manual_seed(6))
    upstream = torch.randn(9, generator=torch.Generator().manual_seed(7))
    head = Head(weight=weight, bias=bias, scale=0.5)
    ours = token_statistics(hidden, head, targets, temperature=0.6).logprobs
    wide = [each.detach().double().requires_grad_(each.requires_grad) for each in (hidden, weight, bias)]
    h, w, b = wide
    exact = torch.log_softmax((0.5 * h @ w.T + b) / 0.6, -1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(ours.double(), exact, atol=1e-5)
    true = torch.autograd.grad(exact @ upstream.double(), [each for each in wide if each.requires_grad])
    for _ in range(2):
        got = torch.autograd.grad(ours @ upstream, learning, retain_graph=True)
        for mine, theirs in zip(got, true, strict=True):
            assert torch.allclose(mine.double(), theirs, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(1, 1e4))
def test_extreme_logits_stay_finite(seed: int, size: float) -> None:  # K10
    hidden = (leaf(4, 3, seed=seed) * size).detach().requires_grad_()
    head = Head(weight=leaf(11, 3, seed=seed + 1), bias=torch.empty(0))
    ours = token_statistics(hidden, head, torch.tensor([0, 3, 5, 10]), temperature=1.0, entropy=True)
    (ours.logprobs.sum() + ours.entropy.sum()).backward()
    assert hidden.grad is not None
    for tensor in (ours.logprobs, ours.entropy, hidden.grad):
        assert torch.isfinite(tensor).all()


def test_bfloat16_weights_give_float32_logprobs() -> None:  # K10
    hidden, weight = leaf(6, 8, seed=1).bfloat16(), leaf(19, 8, seed=2).bfloat16()
    targets = torch.arange(6)
    ours = token_statistics(hidden, Head(weight=weight, bias=weight.new_empty(0)), targets, temperature=1.0)
    assert ours.logprobs.dtype == torch.float32
    true = torch.log_softmax((hidden.float() @ weight.float().T), -1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(ours.logprobs, true, atol=3e-2)


@pytest.mark.parametrize("kept", [0, 3000])
def test_the_full_logits_never_exist(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """No tensor of tokens times vocabulary is made, forward or backward: the largest is a chunk or what is kept, and all share its memory."""
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 1000)
    monkeypatch.setattr(head_module, "KEPT_ELEMENTS", kept)
    hidden, weight = leaf(500, 4, seed=1), leaf(100, 4, seed=2)
    made: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            known = {
                a.untyped_storage().data_ptr()
                for a in (*args, *(kwargs or {}).values())
                if isinstance(a, Tensor)
            }
            if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in known:
                made.append(out.numel())
            return out

    head = Head(weight=weight, bias=torch.empty(0))
    targets = torch.zeros(500, dtype=torch.long)
    with Watch():
        loss = token_statistics(hidden, head, targets, temperature=0.7).logprobs.sum()
        forward = len(made)
        loss.backward()
    largest = max(kept, 1000)
    assert max(made) <= max(512 * 4, largest)  # the hidden states, rounded up, and their gradient
    assert made[:forward].count(largest) == 1
    assert made[forward:].count(1000) == 0
