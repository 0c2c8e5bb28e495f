"""Groups of token ids -> one packed row without padding, and the index tensors that go with it.

The row holds every prompt once, also where several groups have it, then every completion: `[prompt 0 | prompt 1 | ... | completion 0 | ...]`.
Completions follow each other group after group; their positions start where their prompt's end. Prompts first keeps both parts contiguous slices, so
moving between the row and attention blocks is one gather for each part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefloop.models.gather import ReadRows
from prefloop.models.stretches import AttentionPlan, plan
from prefloop.text.groups import Group, cut_by_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """Where the tokens of sequences of unequal length stand in a right-padded block `[sequences, longest]`."""

    sequences: int
    longest: int
    token_of_slot: Int[Tensor, " slots"]
    """Row index of the token in each slot; 0 in padding."""
    slot_of_token: Int[Tensor, " tokens"]
    padding: Int[Tensor, " padding"]
    """Slots that hold no token."""
    lengths: Int[Tensor, " sequences"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What attention needs to know of the row: a completion sees its prompt and itself, nothing else."""

    prompt_tokens: int
    """The first so many tokens of the row belong to prompts. 0 where each prompt has one completion and `completions` holds both joined."""
    prompts: Blocks
    completions: Blocks
    prompt: Int[Tensor, " B"]
    """Which of the row's prompts each completion answers."""
    per_prompt: int
    """Completions of each prompt where all have as many and they stand together, else 0."""
    sequences: Blocks
    """Prompt and completion joined, where every prompt has one: plain causal attention."""
    single: bool
    """Whether every prompt has one completion."""
    plan: AttentionPlan
    """The same for attention on a CPU; empty elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A packed batch of G groups with B completions, longest T; N tokens in the row, M of them predicted."""

    input_ids: Int[Tensor, " N"]
    position_ids: Int[Tensor, " N"]
    layout: Layout
    predictors: ReadRows
    """The token that each predicted token is predicted from; shared are those of a completion's first token, its prompt's last."""
    targets: Int[Tensor, " M"]
    slots: Int[Tensor, " M"]
    """Place of each predicted token in a flattened `[B, T]`."""
    last: Int[Tensor, " B"]
    """Row index of each completion's last token."""
    completion_ids: Int[Tensor, "B T"]
    completion_mask: Bool[Tensor, "B T"]
    """True on tokens the policy chose; False on padding and on other speakers' turns."""
    group: Int[Tensor, " B"]
    """Which group each completion is of; several may have one prompt."""
    longest: int
    """Longest prompt plus completion, in tokens."""

    @property
    def tokens(self) -> int:
        """Tokens computed: no padding, each prompt once."""
        return self.input_ids.shape[0]


def _blocks(lengths: np.ndarray, starts: np.ndarray, tokens: int, device: torch.device) -> Blocks:
    """Blocks for sequences whose tokens stand together in the row, from `starts` on; `tokens` counts them all."""
    longest = int(lengths.max(initial=1))
    within = np.arange(longest)
    filled = within[None, :] < lengths[:, None]
    token_of_slot = np.where(filled, starts[:, None] + within[None, :], 0)
    slots = np.flatnonzero(filled)
    slot_of_token = np.empty(tokens, np.int64)
    slot_of_token[token_of_slot.reshape(-1)[slots]] = slots
    return Blocks(
        sequences=len(lengths),
        longest=longest,
        token_of_slot=torch.from_numpy(token_of_slot.reshape(-1)).to(device),
        slot_of_token=torch.from_numpy(slot_of_token).to(device),
        padding=torch.from_numpy(np.flatnonzero(~filled)).to(device),
        lengths=torch.from_numpy(lengths).to(device),
    )


def _joined_blocks(
    prompt_lengths: np.ndarray,
    lengths: np.ndarray,
    prompt_starts: np.ndarray,
    starts: np.ndarray,
    device: torch.device,
) -> Blocks:
    """Blocks of prompt and completion joined, for groups of one completion each."""
    total = prompt_lengths + lengths
    longest = int(total.max(initial=1))
    within = np.arange(longest)[None, :]
    in_prompt = within < prompt_lengths[:, None]
    filled = within < total[:, None]
    row = np.where(
        in_prompt, prompt_starts[:, None] + within, starts[:, None] + within - prompt_lengths[:, None]
    )
    token_of_slot = np.where(filled, row, 0).reshape(-1)
    slots = np.flatnonzero(filled)
    slot_of_token = np.empty(int(total.sum()), np.int64)
    slot_of_token[token_of_slot[slots]] = slots
    return Blocks(
        sequences=len(lengths),
        longest=longest,
        token_of_slot=torch.from_numpy(token_of_slot).to(device),
        slot_of_token=torch.from_numpy(slot_of_token).to(device),
        padding=torch.from_numpy(np.flatnonzero(~filled)).to(device),
        lengths=torch.from_numpy(total).to(device),
    )


NO_PLAN = AttentionPlan(stretches=(), buckets=())


def _plan(
    prompt_starts: np.ndarray,
    prompt_lengths: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    prompt: np.ndarray,
) -> AttentionPlan:
    prompts = list(zip(prompt_starts.tolist(), (prompt_starts + prompt_lengths).tolist(), strict=True))
    own = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    completions = ((prompts[p], rows) for p, rows in zip(prompt.tolist(), own, strict=True))
    return plan([*((rows,) for rows in prompts), *completions])


def pack(groups: Sequence[Group], device: torch.device | str = "cpu") -> Batch:
    """Pack groups into one row. Cost: O(tokens) on the host, no padding anywhere in the row."""
    assert groups, "nothing to pack"
    device = torch.device(device)
    completions = [completion for group in groups for completion in group.completions]
    group = np.repeat(np.arange(len(groups)), [len(group.completions) for group in groups])
    prompts: dict[tuple[int, ...], int] = {}
    prompt = np.array([prompts.setdefault(tuple(g.prompt), len(prompts)) for g in groups])[group]
    counts = np.bincount(prompt)
    prompt_lengths = np.array([len(ids) for ids in prompts])
    lengths = np.array([len(completion) for completion in completions])
    prompt_tokens = int(prompt_lengths.sum())
    prompt_starts = np.cumsum(prompt_lengths) - prompt_lengths
    starts = prompt_tokens + np.cumsum(lengths) - lengths
    tokens = prompt_tokens + int(lengths.sum())
    longest = int(lengths.max())

    input_ids = np.concatenate([np.asarray(ids) for ids in [*prompts, *completions]]).astype(np.int64)
    positions = np.arange(tokens)
    positions[:prompt_tokens] -= np.repeat(prompt_starts, prompt_lengths)
    positions[prompt_tokens:] -= np.repeat(starts - prompt_lengths[prompt], lengths)

    mask = np.zeros((len(completions), longest), bool)
    completion_ids = np.zeros((len(completions), longest), np.int64)
    masks = [row for g in groups for row in g.masks]
    for b, (ids, row) in enumerate(zip(completions, masks, strict=True)):
        completion_ids[b, : len(ids)] = ids
        mask[b, : len(row)] = row

    row, place = np.nonzero(mask)
    first = place == 0
    predictors = np.where(first, (prompt_starts + prompt_lengths - 1)[prompt[row]], starts[row] + place - 1)
    inverse = np.zeros(tokens, np.int64)
    used = np.zeros(tokens, bool)
    rest = np.flatnonzero(~first)
    inverse[predictors[rest]] = rest
    used[predictors[rest]] = True

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    single = bool((counts == 1).all())
    zero = np.zeros(0, np.int64)
    none = _blocks(zero, zero, 0, device)
    layout = Layout(
        prompt_tokens=prompt_tokens,
        prompts=none if single else _blocks(prompt_lengths, prompt_starts, prompt_tokens, device),
        completions=none
        if single
        else _blocks(lengths, starts - prompt_tokens, tokens - prompt_tokens, device),
        prompt=tensor(prompt),
        per_prompt=int(counts[0]) if (counts == counts[0]).all() and (np.diff(prompt) >= 0).all() else 0,
        sequences=_joined_blocks(prompt_lengths, lengths, prompt_starts, starts, device) if single else none,
        single=single,
        plan=_plan(prompt_starts, prompt_lengths, starts, lengths, prompt)
        if device.type == "cpu"
        else NO_PLAN,
    )
    return Batch(
        input_ids=tensor(input_ids),
        position_ids=tensor(positions),
        layout=layout,
        predictors=ReadRows(
            index=tensor(predictors),
            inverse=tensor(inverse),
            unused=tensor(np.flatnonzero(~used)),
            shared=tensor(np.flatnonzero(first)),
        ),
        targets=tensor(completion_ids[row, place]),
        slots=tensor(row * longest + place),
        last=tensor(starts + lengths - 1),
        completion_ids=tensor(completion_ids),
        completion_mask=tensor(mask),
        group=tensor(group),
        longest=int((prompt_lengths[prompt] + lengths).max()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Some groups of a list, packed, and where they stand in it."""

    batch: Batch
    groups: tuple[int, ...]
    """Places of the groups in the list."""
    rows: Int[Tensor, " B"]
    """Places of their completions in the list's completions, counted group after group."""


def micro_batches(
    groups: Sequence[Group], *, tokens: int, device: torch.device | str = "cpu"
) -> list[MicroBatch]:
    """Pack groups into micro-batches of at most `tokens` tokens; a longer single group goes alone.

    Groups of like length go together, which leaves less padding inside attention, and those of one prompt, which is then computed once.
    Deterministic.
    """
    shortest: dict[tuple[int, ...], tuple[int, int]] = {}
    for i, group in enumerate(groups):
        known = shortest.setdefault(tuple(group.prompt), (group.tokens, i))
        shortest[tuple(group.prompt)] = min(known, (group.tokens, i))
    order = sorted(
        range(len(groups)),
        key=lambda i: (len(groups[i].prompt), shortest[tuple(groups[i].prompt)], groups[i].tokens, i),
    )
    first_row = np.cumsum([0, *(len(group.completions) for group in groups)])
    result: list[MicroBatch] = []
    start = 0
    for part in cut_by_tokens((groups[i] for i in order), tokens):
        places = tuple(order[start : start + len(part)])
        start += len(part)
        rows = np.concatenate([np.arange(first_row[i], first_row[i + 1]) for i in places])
        result.append(
            MicroBatch(batch=pack(part, device), groups=places, rows=torch.from_numpy(rows).to(device))
        )
    return result
