"""Statistics among some tokens only, from bits: against dense softmaxes with -inf, and against the plain head where all is allowed."""

import pytest
import torch
from torch import Tensor

from prefloop.models import masked
from prefloop.models.head import token_statistics
from prefloop.models.masked import masked_statistics, pack_bits, supports_of, unpack_bits
from prefloop.models.packing import pack
from prefloop.models.roles import Policy
from prefloop.rollout.steered import nucleus
from prefloop.text.groups import Group

from .tiny import PACKABLE, VOCABULARY

GROUPS = [
    Group(prompt=[3, 1, 4], completions=([1, 5], [2, 6, 5, 3]), masks=([True] * 2, [True] * 4)),
    Group(prompt=[5], completions=([8], [9, 7]), masks=([True], [True] * 2)),
]


@pytest.fixture(params=["llama", "gpt2"])
def policy(request: pytest.FixtureRequest) -> Policy:
    torch.manual_seed(0)
    return Policy(PACKABLE[request.param]().eval(), way="padded")


@pytest.mark.parametrize("vocabulary", [1, 7, 8, 97])
def test_bits_come_back(vocabulary: int):
    support = torch.rand(5, vocabulary, generator=torch.Generator().manual_seed(0)) < 0.4
    bits = pack_bits(support)
    assert bits.dtype == torch.uint8
    assert bits.shape == (5, -(-vocabulary // 8))
    assert torch.equal(unpack_bits(bits, vocabulary), support)


@pytest.mark.parametrize("chunk", [1, 1 << 22])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_masked_statistics_are_those_of_a_dense_softmax(
    temperature: float, chunk: int, policy: Policy, monkeypatch: pytest.MonkeyPatch
):
    """Values and gradients, in one chunk and in chunks of a row."""
    monkeypatch.setattr(masked, "CHUNK_ELEMENTS", chunk)
    batch = pack(GROUPS)
    allowed = torch.rand(len(batch.targets), VOCABULARY, generator=torch.Generator().manual_seed(1)) < 0.3
    allowed.scatter_(1, batch.targets[:, None], True)
    weight = policy.head().weight

    def gradients(logprobs: Tensor, entropy: Tensor) -> Tensor:
        policy.zero_grad()
        (logprobs * torch.arange(1.0, len(logprobs) + 1) + entropy.square()).sum().backward()
        grad = weight.grad
        assert grad is not None
        return grad.clone()

    ours = masked_statistics(
        policy.hidden(batch), policy.head(), batch, pack_bits(allowed), temperature=temperature
    )
    found = gradients(ours.logprobs, ours.entropy)

    rows, head = policy.hidden(batch), policy.head()
    logits = (rows @ head.weight.T * head.scale + (head.bias if head.bias.numel() else 0)) / temperature
    logp = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)
    entropy = -(logp.exp() * logp.masked_fill(~allowed, 0.0)).sum(-1)
    logprobs = logp.gather(1, batch.targets[:, None]).squeeze(1)
    torch.testing.assert_close(ours.logprobs, logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.entropy, entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, gradients(logprobs, entropy), atol=1e-5, rtol=1e-4)


def test_where_all_is_allowed_it_is_the_plain_head(policy: Policy):
    batch = pack(GROUPS)
    hidden = policy.hidden(batch)
    everything = pack_bits(torch.ones(len(batch.targets), VOCABULARY, dtype=torch.bool))
    ours = masked_statistics(hidden, policy.head(), batch, everything, temperature=0.8)
    plain = token_statistics(hidden, policy.head(), batch.targets, temperature=0.8, entropy=True)
    torch.testing.assert_close(ours.logprobs, plain.logprobs)
    torch.testing.assert_close(ours.entropy, plain.entropy)


def test_supports_are_the_nucleus_and_the_drawn_token(policy: Policy):
    batch = pack(GROUPS)
    bits = supports_of(policy, batch, lambda logits: nucleus(logits, top_p=0.5, least=1))
    allowed = unpack_bits(bits, VOCABULARY)
    head = policy.head()
    with torch.no_grad():
        rows = policy.hidden(batch)
        probabilities = (rows @ head.weight.T * head.scale + (head.bias if head.bias.numel() else 0)).softmax(
            -1
        )
    for row, target, probability in zip(allowed, batch.targets.tolist(), probabilities, strict=True):
        assert row[target]
        order = probability.argsort(descending=True).tolist()
        size = 1
        while probability[order[:size]].sum() < 0.5:
            size += 1
        assert set(row.nonzero().flatten().tolist()) == {*order[:size], target}


def test_the_likeliest_stay_whatever_their_share():
    logits = torch.tensor([[5.0, 1.0, 0.0, -1.0]])
    assert nucleus(logits, top_p=0.5, least=1).tolist() == [[True, False, False, False]]
    assert nucleus(logits, top_p=0.5, least=3).tolist() == [[True, True, True, False]]
    assert nucleus(logits, top_p=1.0, least=1).all()
    assert nucleus(logits, top_p=0.5, least=9).all()
