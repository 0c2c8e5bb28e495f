"""FlexAttention over the packed row sees what the blocks see. Its kernels have no backward on a CPU; the mask, given to plain attention, has."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from prefloop.models.attention import packed_attention
from prefloop.models.flex import block_mask, packed_flex_attention, suits, visibility
from prefloop.models.packing import Batch, pack
from tests.models.tiny import SAME_PROMPT, groups_with_prompts, random_groups

HEADS, KV_HEADS, SIZE = 4, 2, 16

# On a CPU its plain form says that it writes out all scores.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def dense_visibility(batch: Batch) -> Tensor:
    """[N, N], token by token from the batch's description alone: prompts in order, then completions in order."""
    owners: list[tuple[str, int, int]] = []
    positions = batch.position_ids.tolist()
    split = batch.layout.prompt_tokens
    prompt = -1
    for row in range(split):
        prompt += positions[row] == 0
        owners.append(("prompt", prompt, prompt))
    ends = batch.last.tolist()
    for b, g in enumerate(batch.layout.prompt.tolist()):
        owners += [("completion", b, g)] * (ends[b] + 1 - len(owners))
    n = batch.tokens
    visible = torch.zeros(n, n, dtype=torch.bool)
    for q in range(n):
        for k in range(q + 1):
            same = owners[q][:2] == owners[k][:2]
            its_prompt = owners[k][0] == "prompt" and owners[k][1] == owners[q][2]
            visible[q, k] = same or its_prompt
    return visible


def evaluated(batch: Batch) -> Tensor:
    rows = torch.arange(batch.tokens)
    return visibility(batch.layout)(torch.zeros(1), torch.zeros(1), rows[:, None], rows[None, :])


def inputs(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, heads, n, SIZE, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_every_token_sees_its_sequence_and_its_prompt(k: int):
    batch = pack(random_groups(k, seed=3))
    assert torch.equal(evaluated(batch), dense_visibility(batch))


@pytest.mark.parametrize("which", SAME_PROMPT)
@pytest.mark.parametrize("k", [1, 2])
def test_a_prompt_of_several_groups_is_seen_by_all_of_them(k: int, which: Sequence[int]):
    batch = pack(groups_with_prompts(which, k=k))
    assert torch.equal(evaluated(batch), dense_visibility(batch))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_row_and_the_blocks_give_the_same(k: int):
    batch = pack(random_groups(k, seed=4, count=12, longest=20))
    query, key, value = inputs(batch.tokens)
    ours = packed_flex_attention(query, key, value, batch.layout, 0.3)
    theirs = packed_attention(query, key, value, batch.layout, 0.3)
    assert ours.shape == theirs.shape == (1, batch.tokens, HEADS, SIZE)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_gradients_through_the_mask_are_those_of_the_blocks(k: int):
    batch = pack(random_groups(k, seed=5))
    leaves = [part.requires_grad_() for part in inputs(batch.tokens)]
    query, key, value = leaves
    plain = scaled_dot_product_attention(
        query, key, value, attn_mask=evaluated(batch), scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    blocks = packed_attention(query, key, value, batch.layout, 0.3)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad((plain * weights).sum(), leaves),
        torch.autograd.grad((blocks * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_layout_has_one_mask_for_all_layers():
    one, two = (pack(random_groups(2, seed=seed)).layout for seed in (1, 2))
    assert block_mask(one) is block_mask(one)
    assert block_mask(one) is not block_mask(two)


def test_a_cpu_and_tiny_heads_keep_the_blocks():
    query, _, value = inputs(5)
    assert not suits(query, value)
    on_gpu = query.to("meta")
    assert not suits(on_gpu, value)
