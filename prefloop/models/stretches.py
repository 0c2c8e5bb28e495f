"""Attention of a packed row on a CPU, stretch of queries by stretch of queries, with the lengths as they are.

A stretch is a run of neighbouring tokens of one prompt or completion with all the keys they see: their prompt and their own past. It costs
a product for the scores, a softmax and a product with the values, each over all heads; nothing is padded. Short stretches of like size
share a bucket, padded to its longest, because a call costs more than their arithmetic. The backward pass computes the probabilities again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.runtime.products import small_products

QUERIES = 128
"""Queries of a stretch at most: of a longer sequence the first ones need not meet the last keys."""
ALONE = 6_000
"""Scores of a head from which a stretch is a product of its own."""
PADDING = 2_500
"""Scores of a head that one more member may add to a bucket as padding: about what calls of its own would cost."""
BUCKET = 1 << 18
"""Scores of a head in a bucket at most; what is in work should stay in a cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Queries `start` to `stop` of the row; the keys are those of the ranges, and end with the queries' own."""

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...]

    @property
    def queries(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def seen(self) -> int:
        """Keys, those of the last query."""
        return sum(stop - start for start, stop in self.keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """b stretches padded to q queries and k keys, on the right."""

    members: int
    query_rows: Int[Tensor, " bq"]
    key_rows: Int[Tensor, " bk"]
    padding: Int[Tensor, " _"]
    """Places among the queries that hold none."""
    filled: Int[Tensor, " n"]
    """Places that hold one."""
    rows: Int[Tensor, " n"]
    """The rows of those."""
    bias: Float[Tensor, "b q k"]
    """0 if a query sees a key, else minus infinity; 0 throughout for queries that are padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPlan:
    """All queries of a packed row, each in one stretch or bucket."""

    stretches: tuple[Stretch, ...]
    buckets: tuple[Bucket, ...]


def plan(sequences: Sequence[tuple[tuple[int, int], ...]]) -> AttentionPlan:
    """Cut sequences into stretches and put the short ones into buckets. Cost: O(tokens log tokens), and the buckets' biases.

    Args:
        sequences: For each prompt its one range of rows; for each completion the range of its prompt and its own. A sequence's queries are
            the rows of its last range.
    """
    stretches: list[Stretch] = []
    small: list[Stretch] = []
    for *before, (begin, end) in sequences:
        for start in range(begin, end, QUERIES):
            stop = min(start + QUERIES, end)
            one = Stretch(start=start, stop=stop, keys=(*before, (begin, stop)))
            (small if one.queries * one.seen < ALONE else stretches).append(one)
    small.sort(key=lambda one: (one.seen, one.queries, one.start))
    buckets: list[list[Stretch]] = []
    longest = 0  # the most queries of a member of the last bucket
    for one in small:
        if buckets and _joins(one, buckets[-1], longest):
            buckets[-1].append(one)
            longest = max(longest, one.queries)
        else:
            buckets.append([one])
            longest = one.queries
    stretches.extend(one for members in buckets if len(members) == 1 for one in members)
    return AttentionPlan(
        stretches=tuple(stretches), buckets=tuple(_bucket(members) for members in buckets if len(members) > 1)
    )


def _joins(one: Stretch, members: Sequence[Stretch], longest: int) -> bool:
    """Whether a stretch with at least as many keys as the members have pays in their bucket, whose most queries are `longest`."""
    before = len(members) * longest * members[-1].seen
    after = (len(members) + 1) * max(one.queries, longest) * one.seen
    return after <= BUCKET and after - before - one.queries * one.seen <= PADDING


def _bucket(members: Sequence[Stretch]) -> Bucket:
    starts, queries, seen = np.array([(one.start, one.queries, one.seen) for one in members]).T[:, :, None]
    b, q, k = len(members), int(queries.max()), int(seen.max())
    place = np.arange(q)
    filled = place < queries
    query_rows = np.where(filled, starts + place, 0)
    key_rows = np.zeros((b, k), np.int64)
    for i, member in enumerate(members):
        key_rows[i, : member.seen] = np.concatenate([np.arange(*keys) for keys in member.keys])
    last_seen = seen - queries + place
    hidden = filled[:, :, None] & (np.arange(k) > last_seen[:, :, None])
    bias = np.where(hidden, np.float32(-np.inf), np.float32(0))
    flat = filled.reshape(-1)
    return Bucket(
        members=b,
        query_rows=torch.from_numpy(query_rows.reshape(-1)),
        key_rows=torch.from_numpy(key_rows.reshape(-1)),
        padding=torch.from_numpy(np.flatnonzero(~flat)),
        filled=torch.from_numpy(np.flatnonzero(flat)),
        rows=torch.from_numpy(query_rows.reshape(-1)[flat]),
        bias=torch.from_numpy(bias),
    )


_FUTURE = torch.full((QUERIES, QUERIES), -torch.inf).triu(1)


def _keys(heads_first: Float[Tensor, "h n d"], stretch: Stretch) -> Float[Tensor, "h k d"]:
    """A view where the keys stand together, else a copy."""
    parts = [heads_first[:, start:stop] for start, stop in stretch.keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _probabilities(
    query: Float[Tensor, "h q d"], key: Float[Tensor, "h k d"], scaling: float
) -> Float[Tensor, "h q k"]:
    """Of a stretch: its last keys are its own."""
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(scaling)
    own = query.shape[1]
    scores[:, :, -own:].add_(_FUTURE[:own, :own])
    return torch.softmax(scores, dim=-1, out=scores)


def _bucket_probabilities(
    query: Float[Tensor, "hb q d"], key: Float[Tensor, "hb k d"], bucket: Bucket, scaling: float
) -> Float[Tensor, "hb q k"]:
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(scaling)
    scores.view(-1, *bucket.bias.shape).add_(bucket.bias)
    return torch.softmax(scores, dim=-1, out=scores)


def _gathered(
    heads_first: Float[Tensor, "h n d"], rows: Int[Tensor, " m"], members: int
) -> Float[Tensor, "hb l d"]:
    taken = heads_first.index_select(1, rows)
    return taken.view(taken.shape[0] * members, -1, taken.shape[2])


def _score_gradient(
    grad: Float[Tensor, "h q v"],
    value: Float[Tensor, "h k v"],
    probabilities: Float[Tensor, "h q k"],
    scaling: float,
) -> Float[Tensor, "h q k"]:
    """Gradient of the scores before scaling."""
    inner = torch.bmm(grad, value.transpose(1, 2))
    inner = torch.ops.aten._softmax_backward_data(inner, probabilities, -1, inner.dtype)
    return inner.mul_(scaling)


class _Attention(torch.autograd.Function):
    """Query, key, value as [h, n, d], any strides with d innermost, as many heads each; the result as [n, h, v]."""

    @staticmethod
    @small_products()
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float
    ) -> Tensor:
        heads, n, _ = query.shape
        if plan.buckets:  # gathers copy what does not stand together, each time
            query, key, value = (part.contiguous() for part in (query, key, value))
        out = query.new_empty(n, heads, value.shape[2])
        for one in plan.stretches:
            p = _probabilities(query[:, one.start : one.stop], _keys(key, one), scaling)
            out[one.start : one.stop] = torch.bmm(p, _keys(value, one)).transpose(0, 1)
        for bucket in plan.buckets:
            q = _gathered(query, bucket.query_rows, bucket.members)
            k, v = (_gathered(part, bucket.key_rows, bucket.members) for part in (key, value))
            result = torch.bmm(_bucket_probabilities(q, k, bucket, scaling), v)
            result = result.view(heads, -1, result.shape[-1]).transpose(0, 1)
            out.index_copy_(0, bucket.rows, result.index_select(0, bucket.filled))
        ctx.save_for_backward(query, key, value)
        ctx.plan, ctx.scaling = plan, scaling
        return out

    @staticmethod
    @small_products()
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value = ctx.saved_tensors
        scaling: float = ctx.scaling
        grad = grads[0].transpose(0, 1)
        if ctx.plan.buckets:
            grad = grad.contiguous()
        heads = query.shape[0]
        # Memory in the order of the row, which is what came before attention: the projections.
        grad_query = query.new_empty(query.shape[1], heads, query.shape[2])
        grad_key, grad_value = (
            part.new_zeros(part.shape[1], heads, part.shape[2]).transpose(0, 1) for part in (key, value)
        )
        for one in ctx.plan.stretches:
            q, g = query[:, one.start : one.stop], grad[:, one.start : one.stop]
            k, v = _keys(key, one), _keys(value, one)
            p = _probabilities(q, k, scaling)
            inner = _score_gradient(g, v, p, scaling)
            grad_query[one.start : one.stop] = torch.bmm(inner, k).transpose(0, 1)
            for total, part in (
                (grad_key, torch.bmm(inner.transpose(1, 2), q)),
                (grad_value, torch.bmm(p.transpose(1, 2), g)),
            ):
                place = 0
                for start, stop in one.keys:
                    total[:, start:stop].add_(part[:, place : place + stop - start])
                    place += stop - start
        for bucket in ctx.plan.buckets:
            q = _gathered(query, bucket.query_rows, bucket.members)
            k, v = (_gathered(part, bucket.key_rows, bucket.members) for part in (key, value))
            g = grad.index_select(1, bucket.query_rows).index_fill_(1, bucket.padding, 0.0)
            g = g.view(-1, q.shape[1], g.shape[2])
            p = _bucket_probabilities(q, k, bucket, scaling)
            inner = _score_gradient(g, v, p, scaling)
            rows = torch.bmm(inner, k).view(heads, -1, k.shape[2]).transpose(0, 1)
            grad_query.index_copy_(0, bucket.rows, rows.index_select(0, bucket.filled))
            # Accumulation is serial, but these are the short stretches: a few rows each.
            for total, part in (
                (grad_key, torch.bmm(inner.transpose(1, 2), q)),
                (grad_value, torch.bmm(p.transpose(1, 2), g)),
            ):
                total.index_add_(1, bucket.key_rows, part.view(heads, -1, part.shape[2]))
        return grad_query.transpose(0, 1), grad_key, grad_value, None, None


def attend(
    query: Float[Tensor, "h n d"],
    key: Float[Tensor, "k n d"],
    value: Float[Tensor, "k n v"],
    plan: AttentionPlan,
    scaling: float,
) -> Float[Tensor, "n h v"]:
    """Softmax attention as the plan says, in float32 at least; each key head serves as many query heads as there are to one."""
    heads, kv_heads = query.shape[0], key.shape[0]
    coarse = query.dtype
    wide = coarse if coarse in (torch.float32, torch.float64) else torch.float32
    query, key, value = (part.to(wide) for part in (query, key, value))
    if heads != kv_heads:
        key, value = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (key, value))
    return _Attention.apply(query, key, value, plan, scaling).to(coarse)  # pyright: ignore[reportAttributeAccessIssue]
