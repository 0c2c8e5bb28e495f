"""Packed = padded = one sequence at a time through the model's own forward pass: numbers and gradients."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.models import trunk
from prefloop.models.attention import block_attention
from prefloop.models.blocks import run_blocks
from prefloop.models.load import as_policy, critic_from_reward_model, new_reward_model
from prefloop.models.packing import micro_batches, pack
from prefloop.models.roles import Policy
from prefloop.models.trunk import Way, hidden_rows
from prefloop.records import Prompt
from prefloop.text import completions_group
from prefloop.text.groups import Group
from tests.models.tiny import (
    FUSED,
    MORE_PACKABLE,
    NOT_PACKABLE,
    NOT_PACKABLE_BECAUSE,
    PACKABLE,
    SAME_PROMPT,
    SHAPE,
    VOCABULARY,
    groups_with_prompts,
    make,
    random_groups,
)
from tests.tiny_project import tokenizer


def plain_logprobs(model: torch.nn.Module, groups: list[Group], temperature: float) -> list[Tensor]:
    """log p of each completion's tokens, one sequence at a time, from the model's own logits."""
    result = []
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt, *completion]])
            logp = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0] / temperature, dim=-1)
            start = len(group.prompt) - 1
            rows = torch.arange(start, start + len(completion))
            result.append(logp[rows, torch.tensor(list(completion))])
    return result


def gradients(model: torch.nn.Module, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        scale = right[name].abs().max().clamp(min=1.0)
        assert (left[name] - right[name]).abs().max() <= 1e-4 * scale, name


@pytest.mark.parametrize("name", MORE_PACKABLE)
@pytest.mark.parametrize("k", [1, 2, 8])
@pytest.mark.parametrize("way", ["fused", "packed", "padded"])
def test_logprobs_and_gradients_equal_one_sequence_at_a_time(name: str, k: int, way: Way) -> None:  # D6 M3 M5
    if way == "fused" and name not in FUSED:
        pytest.skip("its layers are not of the kind that is fused")
    model = make(MORE_PACKABLE[name])
    policy = as_policy(model, Compute(attention="padded" if way == "padded" else "auto"))
    assert policy.way == ("padded" if way == "padded" else "fused" if name in FUSED else "packed")
    policy.way = way
    groups = random_groups(k, seed=k)
    batch = pack(groups)
    weights = torch.randn(batch.completion_mask.shape, generator=torch.Generator().manual_seed(1))
    temperature = 0.7  # K1

    ours = policy(batch, temperature=temperature)
    plain = plain_logprobs(model, groups, temperature)
    for b, row in enumerate(plain):
        assert torch.allclose(ours[b, : len(row)], row, atol=1e-4)
        assert not ours[b, len(row) :].any()
    expected = gradients(
        model, torch.stack([(row * weights[b, : len(row)]).sum() for b, row in enumerate(plain)]).sum()
    )
    assert_close(gradients(model, (policy(batch, temperature=temperature) * weights).sum()), expected)


@pytest.mark.parametrize("name", NOT_PACKABLE)
def test_what_cannot_be_packed_runs_padded_and_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make(NOT_PACKABLE[name])
    with caplog.at_level(logging.WARNING):
        policy = as_policy(model, Compute())
    assert policy.way == "padded"
    assert type(model).__name__ in caplog.text
    assert NOT_PACKABLE_BECAUSE[name] in caplog.text
    groups = random_groups(2, seed=5)
    ours = policy(pack(groups), temperature=1.3)
    for b, row in enumerate(plain_logprobs(model, groups, 1.3)):
        assert torch.allclose(ours[b, : len(row)], row, atol=1e-4)
    with pytest.raises(InputError, match=r"compute\.attention"):
        as_policy(make(NOT_PACKABLE[name]), Compute(attention="packed"))


@pytest.mark.parametrize("name", MORE_PACKABLE)
def test_in_bfloat16_a_model_runs_the_way_it_runs_in_float32(name: str) -> None:
    policy = as_policy(make(MORE_PACKABLE[name]).bfloat16(), Compute(dtype="bfloat16"))
    assert policy.way == ("fused" if name in FUSED else "packed")


def deep() -> PreTrainedModel:
    """In bfloat16 rounding alone makes its ways differ by more than a mistake would in a shallow one."""
    shape: dict[str, Any] = SHAPE | {"num_hidden_layers": 30}
    return make(lambda: LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2)), std=1.0).bfloat16()


def test_roundings_of_a_deep_model_do_not_keep_it_from_running_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = deep()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    policy = as_policy(model, Compute(dtype="bfloat16"))
    assert policy.way == "fused"
    assert policy.linear_head
    assert policy.model is model
    assert model.config.num_hidden_layers == len(model.model.layers) == 30  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())

    batch = pack(random_groups(2, seed=5))
    fused, padded = (hidden_rows(model, batch, way).float() for way in ("fused", "padded"))
    assert (fused - padded).norm() > 0.05 * padded.norm()

    def wrong(*given: Any) -> Tensor:
        return run_blocks(*given) * 1.001

    monkeypatch.setattr(trunk, "run_blocks", wrong)
    assert as_policy(deep(), Compute(dtype="bfloat16")).way == "packed"


def test_a_head_that_is_more_than_linear_is_seen_in_bfloat16() -> None:
    model = deep()
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _module, _given, logits: torch.tanh(logits))  # pyright: ignore[reportOptionalMemberAccess]
    assert not as_policy(model, Compute(dtype="bfloat16")).linear_head


def test_groups_of_different_sizes_in_one_batch() -> None:
    model = make(PACKABLE["llama"])
    policy = as_policy(model, Compute())
    groups = random_groups(1, seed=1) + random_groups(3, seed=2) + random_groups(2, seed=3)
    batch = pack(groups)
    ours = policy(batch)
    plain = plain_logprobs(model, groups, 1.0)
    for b, row in enumerate(plain):
        assert torch.allclose(ours[b, : len(row)], row, atol=1e-4)
    assert_close(
        gradients(model, policy(batch).sum()),
        gradients(model, torch.cat(plain_logprobs(model, groups, 1.0)).sum()),
    )


def test_masked_completion_tokens_are_context_only() -> None:  # M2
    """Another speaker's turn inside a completion is seen by what follows, and has no log-probability of its own."""
    model = make(PACKABLE["qwen3"])
    policy = as_policy(model, Compute())
    whole = Group(prompt=[5, 6], completions=([7, 8, 9, 10, 11],), masks=([True] * 5,))
    some = replace(whole, masks=([True, True, False, False, True],))
    full, partly = policy(pack([whole])), policy(pack([some]))
    mask = torch.tensor(list(some.masks[0]))
    assert torch.allclose(partly[0][mask], full[0][mask], atol=1e-5)
    assert not partly[0][~mask].any()


def test_tokens_after_a_completion_change_nothing() -> None:  # M13 M9
    """Longer neighbours mean more padding inside attention; log-probabilities and gradients of a completion stay."""
    model = make(PACKABLE["gpt2"])
    policy = as_policy(model, Compute())
    alone = Group(prompt=[4, 5, 6], completions=([7, 8], [9]), masks=([True] * 2, [True]))
    beside = Group(prompt=[3] * 7, completions=([12] * 9, [13] * 9), masks=([True] * 9,) * 2)
    small, large = policy(pack([alone])), policy(pack([alone, beside]))
    assert torch.allclose(small[:2, :2], large[:2, :2], atol=1e-6)
    assert_close(
        gradients(model, policy(pack([alone])).sum()),
        gradients(model, policy(pack([alone, beside]))[:2].sum()),
    )


@pytest.mark.parametrize("name", MORE_PACKABLE)
@pytest.mark.parametrize("k", [1, 2, 8])
def test_scores_and_values_equal_one_sequence_at_a_time(
    name: str, k: int, tmp_path_factory: pytest.TempPathFactory
) -> None:  # C1 M14
    """The score is at the last token, a value before each token, whatever stands beside them in the batch."""
    folder = tmp_path_factory.mktemp("model")
    make(MORE_PACKABLE[name]).save_pretrained(folder)
    reward_model = new_reward_model(str(folder), FakeTokenizer(), Compute(), seed=3)  # pyright: ignore[reportArgumentType]
    critic = critic_from_reward_model(reward_model)
    assert reward_model.way == critic.way == ("fused" if name in FUSED else "packed")
    groups = random_groups(k, seed=11)
    batch = pack(groups)
    weights = torch.randn(batch.completion_mask.shape, generator=torch.Generator().manual_seed(2))

    plain_scores, plain_values = [], torch.zeros_like(weights)
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt, *completion]])
            row = per_token(reward_model.model, reward_model.score_head, ids)
            plain_scores.append(row[-1])
            row = per_token(critic.model, critic.value_head, ids)
            plain_values[len(plain_scores) - 1, : len(completion)] = row[len(group.prompt) - 1 : -1]
    of_scores = gradients(reward_model, torch.stack(plain_scores).square().sum())
    of_values = gradients(critic, (plain_values * weights).sum())

    for way in ("fused", "packed", "padded") if name in FUSED else ("packed", "padded"):
        reward_model.way = critic.way = way
        scores, values = reward_model(batch), critic(batch)
        assert torch.allclose(scores, torch.stack(plain_scores), atol=1e-4)
        assert torch.allclose(values, plain_values, atol=1e-4)
        assert_close(gradients(reward_model, scores.square().sum()), of_scores)
        assert_close(gradients(critic, (values * weights).sum()), of_values)


def per_token(model: PreTrainedModel, head: torch.nn.Module, ids: Tensor) -> Tensor:
    """The head at every token of one sequence, from the trunk's own forward pass."""
    return head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]).squeeze(-1)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_an_empty_prompt_is_the_start_token_and_completions_are_predicted_from_it(k: int, chat: bool) -> None:
    ours = copy.copy(tokenizer())
    ours.chat_template = ours.chat_template if chat else None
    groups = [
        completions_group(ours, Prompt(content=text), ["yes", "no, never"][:k]) for text in ("", "Tea?")
    ]
    assert groups[0].prompt == [ours.bos_token_id]
    model = make(lambda: LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": len(ours)})))
    policy = as_policy(model, Compute())
    plain = plain_logprobs(model, groups, 1.0)
    expected = gradients(model, torch.cat(plain).sum())
    for way in ("fused", "packed", "padded"):
        policy.way = way
        logprobs = policy(pack(groups))
        for b, row in enumerate(plain):
            assert torch.allclose(logprobs[b, : len(row)], row, atol=1e-4)
        assert_close(gradients(model, logprobs.sum()), expected)


class FakeTokenizer:
    pad_token_id = 0
    eos_token_id = 2


@pytest.mark.parametrize("k", [1, 4])
def test_micro_batches_cover_every_group_once_and_sum_to_the_same(k: int) -> None:  # N1 D8
    model = make(PACKABLE["llama"])
    policy = as_policy(model, Compute())
    groups = random_groups(k, seed=4, count=7)
    whole = policy(pack(groups))
    expected = gradients(model, policy(pack(groups)).sum())
    for tokens in (1, 30, 10_000):
        parts = micro_batches(groups, tokens=tokens)
        assert sorted(i for part in parts for i in part.groups) == list(range(len(groups)))
        assert all(part.batch.tokens <= tokens or len(part.groups) == 1 for part in parts)
        model.zero_grad()
        for part in parts:
            ours = policy(part.batch)
            assert torch.allclose(ours, whole[part.rows, : ours.shape[1]], atol=1e-5)
            ours.sum().backward()
        assert_close({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, expected)


def test_no_padding_is_computed_and_a_shared_prompt_once() -> None:
    group = Group(prompt=[1] * 7, completions=([2] * 3, [3] * 5), masks=([True] * 3, [True] * 5))
    other = replace(group, prompt=[4] * 7)
    for groups, prompts in (([group, other], 2), ([group, group], 1), ([group, other, group], 2)):
        batch = pack(groups)
        assert batch.tokens == prompts * 7 + len(groups) * (3 + 5)
        assert batch.longest == 12
        assert batch.position_ids[prompts * 7 :].tolist() == [7, 8, 9, 7, 8, 9, 10, 11] * len(groups)


@pytest.mark.parametrize("which", SAME_PROMPT)
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_groups_with_one_prompt_share_it_and_nothing_else(name: str, k: int, which: Sequence[int]) -> None:
    """Two labels of one prompt, say: what each gives, and their gradients, are as if each had a prompt of its own."""
    model = make(PACKABLE[name])
    policy = as_policy(model, Compute())
    groups = groups_with_prompts(which, k=k)
    batch = pack(groups)
    assert batch.tokens < sum(group.tokens for group in groups)
    assert batch.group.tolist() == [g for g in range(len(groups)) for _ in range(k)]
    plain = plain_logprobs(model, groups, 1.0)
    expected = gradients(model, torch.cat(plain).sum())
    for way in (policy.way, "padded"):
        policy.way = way
        ours = policy(batch)
        for b, row in enumerate(plain):
            assert torch.allclose(ours[b, : len(row)], row, atol=1e-4)
        assert_close(gradients(model, ours.sum()), expected)


def test_groups_with_one_prompt_follow_each_other_into_micro_batches() -> None:
    groups = groups_with_prompts([0, 1, 2, 3, 0, 1, 2, 3], k=1)
    groups = [replace(group, prompt=[*group.prompt, 5, 5, 5][:3]) for group in groups]  # all of one length
    assert len({tuple(group.prompt) for group in groups}) == 4
    parts = micro_batches(groups, tokens=2 * max(group.tokens for group in groups))
    order = [i for part in parts for i in part.groups]
    assert sorted(order) == list(range(8))
    assert [a % 4 for a in order[0::2]] == [b % 4 for b in order[1::2]]


def test_longer_than_the_positions_is_an_error_that_says_what_to_lower() -> None:
    policy = as_policy(make(PACKABLE["gpt2"]), Compute())
    with pytest.raises(InputError, match=r"has 65 tokens.*64 positions.*max_prompt_tokens"):
        policy(pack([Group(prompt=[1] * 60, completions=([2] * 5,), masks=([True] * 5,))]))


@pytest.mark.parametrize("dropout_off_by", ["module", "attention attribute"])
def test_dropout_is_off_in_every_role(dropout_off_by: str) -> None:  # K8 K11
    build: Callable[[], torch.nn.Module] = {
        "module": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_embd=32,
                n_layer=2,
                n_head=4,
                resid_pdrop=0.5,
                embd_pdrop=0.5,
                attn_pdrop=0.5,
                bos_token_id=1,
                eos_token_id=2,
            )
        ),
        "attention attribute": lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                attention_dropout=0.5,
            )
        ),
    }[dropout_off_by]
    policy = as_policy(make(build), Compute())  # pyright: ignore[reportArgumentType]
    policy.model.train()  # even so
    batch = pack(random_groups(2, seed=1))
    assert torch.equal(policy(batch), policy(batch))


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    batch = pack(random_groups(2, seed=9))
    plain = as_policy(make(PACKABLE["llama"]), Compute())
    recomputed = as_policy(make(PACKABLE["llama"]), Compute(gradient_checkpointing=True))
    assert any(getattr(module, "gradient_checkpointing", False) for module in recomputed.model.modules())
    mine, theirs = (gradients(role.model, role(batch).sum()) for role in (recomputed, plain))
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_bfloat16_is_near_float32(name: str) -> None:
    """Log-probabilities are float32, good to bfloat16's 8 bits of the weights; gradients point the same way."""
    batch = pack(random_groups(2, seed=9))
    fine = as_policy(make(PACKABLE[name]), Compute())
    coarse = as_policy(make(PACKABLE[name]).bfloat16(), Compute(dtype="bfloat16"))  # pyright: ignore[reportArgumentType]
    assert coarse.way == ("packed" if name == "gpt2" else "fused")
    near, exact = coarse(batch), fine(batch)
    assert near.dtype == torch.float32
    assert (near - exact).abs().max() < 0.05 * exact.abs().max()
    mine, theirs = (gradients(role.model, role(batch).sum()) for role in (coarse, fine))
    flat = [torch.cat([each[key].float().flatten() for key in theirs]) for each in (mine, theirs)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99


def test_a_frozen_copy_does_not_move_with_the_policy() -> None:  # K9
    policy = as_policy(make(PACKABLE["llama"]), Compute())
    reference = policy.frozen_copy()
    batch = pack(random_groups(2, seed=2))
    before = reference(batch)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1)
    assert torch.equal(reference(batch), before)
    assert not torch.allclose(policy(batch), before)
    assert not any(p.requires_grad for p in reference.model.parameters())


def test_statistics_without_a_linear_head_use_the_models_own_logits() -> None:
    model = make(PACKABLE["llama"])
    policy = as_policy(model, Compute())
    full = Policy(model, way="padded", linear_head=False)
    batch = pack(random_groups(2, seed=8))
    a, b = (
        policy.statistics(batch, temperature=0.8, entropy=True),
        full.statistics(batch, temperature=0.8, entropy=True),
    )
    assert torch.allclose(a.logprobs, b.logprobs, atol=1e-4)
    assert torch.allclose(a.entropy, b.entropy, atol=1e-4)


class Operations(TorchDispatchMode):
    """The names of all operations while it is entered, those of a backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("k", [1, 3])
def test_no_gradient_of_attention_is_scattered_with_accumulation(k: int) -> None:
    """From row to blocks and back, the gradient of a gather is a gather."""
    batch = pack(random_groups(k, seed=2))
    query, key, value = (torch.randn(1, heads, batch.tokens, 8, requires_grad=True) for heads in (4, 2, 2))
    out = block_attention(query, key, value, batch.layout, 0.3)
    with Operations() as backward:
        out.sum().backward()
    assert "aten::index_select" in backward.names
    accumulating = ("index_add", "scatter", "index_put", "index_copy")
    assert [name for name in backward.names if any(part in name for part in accumulating)] == []


def test_what_fills_a_row_up_has_no_more_positions_than_the_rest() -> None:
    """Seventeen tokens are rounded up to thirty-two, but the model has six positions."""
    model = make(
        lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=6)
        )
    )
    policy = as_policy(model, Compute(device="cpu", attention="padded"))
    policy.model.set_attn_implementation("prefloop")
    policy.way = "packed"
    groups = [Group(prompt=[5, i], completions=([7, 8, 9],), masks=([True] * 3,)) for i in range(3, 6)]
    groups.append(Group(prompt=[5], completions=([7],), masks=([True],)))
    assert pack(groups).tokens == 17
    ours = policy(pack(groups))
    for b, row in enumerate(plain_logprobs(model, groups, 1.0)):
        assert torch.allclose(ours[b, : len(row)], row, atol=1e-4)
