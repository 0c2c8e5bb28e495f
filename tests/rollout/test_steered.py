"""What is drawn from combined logits is what full forward passes of both models say, and models are left as they were."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.configs.common import Compute, Sampling
from prefloop.models.load import as_policy
from prefloop.models.q_heads import QHeads
from prefloop.models.roles import Policy
from prefloop.models.trunk import trunk_of
from prefloop.rollout.sampler import Sampled, sample
from prefloop.rollout.steered import Drawer, Perturbed, geometric_mixture, masked_by, nucleus
from tests.models.tiny import PACKABLE

SAMPLING = Sampling(max_new_tokens=6, temperature=0.9, batch_size=4)
PROMPTS = [[3, 1, 4], [5], [9, 2, 6, 5, 3]]


def policies(name: str) -> tuple[Policy, Policy]:
    """Two of one family, with weights large enough to disagree."""
    result = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = PACKABLE[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(6)
        result.append(as_policy(model, Compute(device="cpu")))
    return result[0], result[1]


def drawn(drawer: Drawer, sampling: Sampling = SAMPLING) -> list[list[Sampled]]:
    with drawer.active() as model:
        return sample(model, PROMPTS, k=3, stop_ids=[2], sampling=sampling, seed=5, row_keys=range(3))


def full_logits(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> Tensor:
    """Logits that each token was drawn from, by one pass over everything."""
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]


def plain(policy: Policy) -> PreTrainedModel:
    """The same weights with an attention that takes ordinary input."""
    model = copy.deepcopy(policy.model)
    model.set_attn_implementation("eager")
    return model


def assert_same(ours: list[list[Sampled]], theirs: list[list[Sampled]]) -> None:
    """The same tokens, and log-probabilities to float noise: a steered model is decoded by its module, a plain one from its weights."""
    for mine, others in zip(ours, theirs, strict=True):
        for one, other in zip(mine, others, strict=True):
            assert (one.tokens, one.ended) == (other.tokens, other.ended)
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_mixture_of_nothing_is_the_policy_and_of_all_the_other(name: str):
    policy, other = policies(name)
    before = [copy.deepcopy(role.model.config._attn_implementation) for role in (policy, other)]
    assert_same(drawn(geometric_mixture(policy, other, share=0.0)), drawn(policy))
    assert_same(drawn(geometric_mixture(policy, other, share=1.0)), drawn(other))
    assert drawn(policy) != drawn(other)
    assert [role.model.config._attn_implementation for role in (policy, other)] == before
    assert not any(module.training for role in (policy, other) for module in role.model.modules())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_mixture_draws_from_the_normalised_geometric_mean(name: str):
    policy, other = policies(name)
    for prompt, samples in zip(PROMPTS, drawn(geometric_mixture(policy, other, share=0.3)), strict=True):
        for one in samples:
            ours, theirs = (
                (full_logits(plain(role), prompt, one.tokens) / 0.9).log_softmax(-1)
                for role in (policy, other)
            )
            mixed = (0.7 * ours + 0.3 * theirs).log_softmax(-1)
            expected = mixed.gather(1, torch.tensor(one.tokens)[:, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(one.logprobs), expected, atol=1e-4, rtol=1e-4)


def test_masked_draws_stay_inside_and_are_renormalised():
    policy, masking = policies("llama")
    everything = drawn(masked_by(policy, masking, top_p=1.0, least=1, temperature=0.9))
    assert_same(everything, drawn(policy))
    rows = drawn(masked_by(policy, masking, top_p=0.3, least=2, temperature=0.9))
    assert rows != everything
    for prompt, samples in zip(PROMPTS, rows, strict=True):
        for one in samples:
            allowed = nucleus(full_logits(plain(masking), prompt, one.tokens) / 0.9, top_p=0.3, least=2)
            logits = full_logits(plain(policy), prompt, one.tokens) / 0.9
            logp = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)
            expected = logp.gather(1, torch.tensor(one.tokens)[:, None]).squeeze(1)
            assert expected.isfinite().all()
            torch.testing.assert_close(torch.tensor(one.logprobs), expected, atol=1e-4, rtol=1e-4)


def heads_of(policy: Policy) -> QHeads:
    heads = QHeads(policy.head().weight.shape[1], policy.head().weight.shape[0], seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return heads


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_without_beta_the_heads_change_nothing(name: str):
    policy, _ = policies(name)
    steered, alone = drawn(Perturbed(policy=policy, heads=heads_of(policy), beta=0.0)), drawn(policy)
    assert [[one.tokens for one in row] for row in steered] == [[one.tokens for one in row] for row in alone]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_beta_adds_the_advantage_of_every_token(name: str, top_k: int):
    policy, _ = policies(name)
    heads, model = heads_of(policy), plain(policy)
    sampling = Sampling(max_new_tokens=6, temperature=0.9, batch_size=4, top_k=top_k)
    for prompt, samples in zip(
        PROMPTS, drawn(Perturbed(policy=policy, heads=heads, beta=2.0), sampling), strict=True
    ):
        for one in samples:
            ids = torch.tensor([[*prompt, *one.tokens]])
            with torch.no_grad():
                hidden: Any = trunk_of(model)(input_ids=ids).last_hidden_state[0, len(prompt) - 1 : -1]
                table = torch.stack([head(hidden) for head in heads.target]).min(0).values
                advantages = table - heads.values(hidden)[:, None]
            logits = full_logits(model, prompt, one.tokens).log_softmax(-1) + 2.0 * advantages
            expected = (logits / 0.9).log_softmax(-1).gather(1, torch.tensor(one.tokens)[:, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(one.logprobs), expected, atol=1e-4, rtol=1e-3)
            if top_k:
                best = logits.topk(top_k, dim=-1).indices.tolist()
                assert all(token in row for token, row in zip(one.tokens, best, strict=True))
