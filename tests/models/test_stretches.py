"""Attention by stretches against one sequence at a time, in float64, and how rows are cut."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from prefloop.models import stretches
from prefloop.models.attention import block_attention
from prefloop.models.packing import pack
from prefloop.models.stretches import AttentionPlan, attend, plan
from prefloop.text.groups import Group
from tests.models.tiny import SAME_PROMPT, groups_with_prompts, random_groups

Ranges = tuple[tuple[int, int], ...]


def sequences_of(groups: list[Group]) -> list[Ranges]:
    """Rows of each prompt, then of each completion with its prompt's before."""
    prompts: list[tuple[int, int]] = []
    start = 0
    for group in groups:
        prompts.append((start, start + len(group.prompt)))
        start = prompts[-1][1]
    result: list[Ranges] = [(rows,) for rows in prompts]
    for group, rows in zip(groups, prompts, strict=True):
        for completion in group.completions:
            result.append((rows, (start, start + len(completion))))
            start += len(completion)
    return result


def one_at_a_time(
    query: Tensor, key: Tensor, value: Tensor, sequences: list[Ranges], scaling: float
) -> Tensor:
    """[n, h, v], by the definition."""
    repeat = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(repeat, 0), value.repeat_interleave(repeat, 0)
    rows: dict[int, Tensor] = {}
    for ranges in sequences:
        seen = [row for start, stop in ranges for row in range(start, stop)]
        for row in range(*ranges[-1]):
            past = seen[: seen.index(row) + 1]
            weights = torch.softmax((key[:, past] @ query[:, row, :, None]).squeeze(-1) * scaling, -1)
            rows[row] = (weights[:, None] @ value[:, past]).squeeze(1)
    return torch.stack([rows[i] for i in range(len(rows))])


@pytest.fixture(params=["alone", "bucket", "both", "cut"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every stretch by itself, all in one bucket, some of each, and sequences cut after few queries."""
    for name, value in {
        "alone": {"ALONE": 0},
        "bucket": {"ALONE": 10**6, "PADDING": 10**6},
        "both": {"ALONE": 60, "PADDING": 40},
        "cut": {"QUERIES": 3, "ALONE": 20, "PADDING": 20},
    }[request.param].items():
        monkeypatch.setattr(stretches, name, value)
    return request.param


def gradients(work: Callable[..., Tensor], leaves: list[Tensor], weight: Tensor) -> list[Tensor]:
    out = work(*leaves)
    return [out, *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_values_and_gradients_equal_one_sequence_at_a_time(way: str, k: int, kv_heads: int) -> None:  # D6
    groups = random_groups(k, seed=k)
    sequences, batch = sequences_of(groups), pack(groups)
    torch.manual_seed(0)
    n = batch.tokens
    query = torch.randn(n, 4, 8, dtype=torch.float64).transpose(0, 1).requires_grad_()
    key = torch.randn(kv_heads, n, 8, dtype=torch.float64, requires_grad=True)
    value = torch.randn(kv_heads, n, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n, 4, 5, dtype=torch.float64)
    found = batch.layout.plan
    assert bool(found.stretches) == (way != "bucket")
    assert bool(found.buckets) == (way != "alone")
    ours = gradients(lambda q, k, v: attend(q, k, v, found, 0.3), [query, key, value], weight)
    exact = gradients(lambda q, k, v: one_at_a_time(q, k, v, sequences, 0.3), [query, key, value], weight)
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("which", [(0, 1, 2, 3), *SAME_PROMPT])
@pytest.mark.parametrize("k", [1, 3])
def test_blocks_give_the_same(k: int, which: Sequence[int]) -> None:
    """What runs on a GPU, here on the CPU."""
    batch = pack(groups_with_prompts(which, k=k))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, h, batch.tokens, 8, dtype=torch.float64) for h in (4, 2, 2))
    blocks = block_attention(query, key, value, batch.layout, 0.3)[0]
    torch.testing.assert_close(attend(query[0], key[0], value[0], batch.layout.plan, 0.3), blocks)


def test_coarse_weights_attend_in_float32() -> None:
    batch = pack(random_groups(2, seed=3))
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, batch.tokens, 8).bfloat16() for _ in range(3))
    found = batch.layout.plan
    ours = attend(query, key, value, found, 0.3)
    assert ours.dtype == torch.bfloat16
    wide = attend(query.float(), key.float(), value.float(), found, 0.3)
    assert torch.equal(ours, wide.bfloat16())


def queries_of(found: AttentionPlan) -> Iterator[int]:
    for one in found.stretches:
        yield from range(one.start, one.stop)
    for bucket in found.buckets:
        yield from bucket.rows.tolist()


def test_every_query_is_computed_once_and_hardly_anything_is_padded() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 400, (60,), generator=generator).tolist()
    sequences: list[Ranges] = []
    start = 0
    for length in lengths:
        sequences.append(((start, start + length),))
        start += length
    found = plan(sequences)
    assert sorted(queries_of(found)) == list(range(start))
    assert all(one.queries <= stretches.QUERIES for one in found.stretches)
    computed = sum(one.queries * one.seen for one in found.stretches)
    computed += sum(bucket.bias.numel() for bucket in found.buckets)
    least = sum(length * (length + 1) // 2 for length in lengths)
    assert computed < 1.7 * least
    assert sum(bucket.bias.numel() for bucket in found.buckets) <= stretches.BUCKET


def test_like_short_sequences_share_a_bucket() -> None:
    found = plan([((i * 20, i * 20 + 20),) for i in range(64)])
    assert not found.stretches
    assert len(found.buckets) == 1
    assert plan([]) == AttentionPlan(stretches=(), buckets=())
