"""Sampling completions in process, with the weights being trained.

Every prompt is read once for its K completions. Up to `batch_size` completions are decoded together, each in a slot; when one ends, its slot
goes to the next completion waiting, and at the end of the queue the ones still running are moved together, so that no step computes
for a finished completion. What is drawn depends on the seed, the prompt's key and the number of the sample, on nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from prefloop.configs.common import Sampling
from prefloop.errors import InputError
from prefloop.models.encoder_decoder import positions_before, positions_needed
from prefloop.rollout.decoders import Decoder, decoder_reads, make_decoder
from prefloop.rollout.draw import draw, row_uniforms
from prefloop.rollout.families import text_config

_PREFILL_TOKENS = 16384
"""Padded tokens of one prefill at most, unless a single prompt is longer, so that its activations stay bounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One completion as it was drawn. Train on these ids; the text, encoded again, may give others."""

    tokens: list[int]
    """Token ids, the stop token included where there is one."""
    logprobs: list[float]
    """Log-probability of each token among all tokens at the sampling temperature (at 1 if that is 0); see `draw.DrawnTokens`."""
    ended: bool
    """Whether the last token is a stop token; otherwise the limit cut the completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Start:
    """A completion waiting for a slot. What the decoder reads before it, without `last`, is row `source` of `prefill`."""

    owner: tuple[int, int]
    """Which prompt, and which of its samples."""
    key: int
    length: int
    """Tokens that the decoder reads before it (the prompt's)."""
    last: int
    """The last of them, the first to be fed."""
    prefill: Any
    source: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Running:
    """A completion in a slot."""

    owner: tuple[int, int]
    begun: int
    """The step that drew, or will draw, its first token."""
    length: int


def ignore(done: int) -> None:
    """The progress callback of those who do not want one."""


def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    k: int,
    stop_ids: Sequence[int],
    sampling: Sampling,
    seed: int,
    row_keys: Sequence[int],
    progress: Callable[[int], None] = ignore,
) -> list[list[Sampled]]:
    """Draw k completions for each prompt; result [i][j] is sample j of prompt i.

    `model` is a causal language model of transformers, used in evaluation mode and given back as it was, also when interrupted. A completion
    stops at one of `stop_ids`, which it keeps, or after `max_new_tokens`. `row_keys` names each prompt for the random numbers, different
    for different prompts and rounds (its index in the data plus an offset, say): the same seed and key draw the same completions
    again, in whatever company. `progress` is told how many of the len(prompts) * k completions are done.

    Raises `InputError` for an empty prompt, ids the model does not have, and a prompt with no room left for `max_new_tokens`.
    """
    check_prompts(model, prompts, sampling.max_new_tokens)
    if k < 1:
        raise InputError(f"completions per prompt is {k}; it must be 1 or more")
    if len(row_keys) != len(prompts) or len(set(row_keys)) != len(row_keys):
        raise ValueError(
            f"{len(prompts)} prompts need as many different row_keys, but there are {len(row_keys)}, {len(set(row_keys))} of them different; "
            "prompts with the same key would get the same random numbers"
        )
    if not prompts:
        return []
    with sampling_mode(model), torch.inference_mode():
        slots = min(sampling.batch_size, len(prompts) * k)
        reads = [decoder_reads(model, prompt) for prompt in prompts]
        columns = max(map(len, reads)) + sampling.max_new_tokens - 1
        decoder = make_decoder(model, slots=slots, columns=columns, longest=max(map(len, prompts)))
        waiting = _waiting(decoder, prompts, reads, row_keys, k, sampling.batch_size)
        batch = _Batch(decoder, waiting, sampling, slots, seed, stop_ids, next(model.parameters()).device)
        done: dict[tuple[int, int], Sampled] = {}
        while batch.running:
            finished = batch.step()
            if finished:
                done.update(batch.collect(finished))
                batch.refill(finished)
                progress(len(done))
    return [[done[i, j] for j in range(k)] for i in range(len(prompts))]


def check_prompts(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise `InputError` for the first prompt the model cannot read or has no positions left to answer."""
    config = text_config(model)
    limit = getattr(config, "max_position_embeddings", None)
    vocabulary = config.vocab_size
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(
                f"prompt {index} has no token; begin it with the tokenizer's start (or end) token"
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            bad = min(prompt) if min(prompt) < 0 else max(prompt)
            raise InputError(
                f"prompt {index} has token id {bad}, but the model knows ids 0 to {vocabulary - 1}; the tokenizer is not this model's"
            )
        needed = positions_needed(config, len(prompt), max_new_tokens)
        if limit is not None and needed > limit:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens and sampling.max_new_tokens is {max_new_tokens}, which needs {needed} positions; "
                f"the model reads at most {limit} (max_position_embeddings): lower sampling.max_new_tokens or shorten the prompt"
            )


def room_for(model: nn.Module, prompt: Sequence[int], most: int) -> int:
    """Tokens that an answer in a conversation may have: `most`, or fewer where the model's positions leave fewer.

    Raises `InputError` for a prompt that the model cannot read, or that leaves less than a quarter of the positions (and less than `most`).
    """
    limit = getattr(text_config(model), "max_position_embeddings", None)
    least = most if limit is None else min(most, max(1, limit // 4))
    check_prompts(model, [prompt], least)
    return most if limit is None else min(most, limit - positions_before(text_config(model), len(prompt)))


@contextmanager
def sampling_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off, and an attention that takes a ready mask; every module's training flag and the attention come back at the end."""
    training = [module for module in model.modules() if module.training]
    config = text_config(model)
    attention = config._attn_implementation
    model.eval()
    if attention not in ("sdpa", "eager"):
        config._attn_implementation = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    try:
        yield
    finally:
        config._attn_implementation = attention
        for module in training:
            module.training = True


def _waiting(
    decoder: Decoder[Any],
    prompts: Sequence[Sequence[int]],
    reads: Sequence[Sequence[int]],
    row_keys: Sequence[int],
    k: int,
    batch_size: int,
) -> Iterator[_Start]:
    """All completions in the order they start, longest prompts first so that neighbours pad little.

    A chunk of prompts is prefilled when its first completion is asked for, each prompt once for its k completions.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    while order:
        together = max(1, min(-(-batch_size // k), _PREFILL_TOKENS // len(prompts[order[0]])))
        chunk, order = order[:together], order[together:]
        prefill = decoder.prefill([prompts[index] for index in chunk])
        for source, index in enumerate(chunk):
            for number in range(k):
                yield _Start(
                    owner=(index, number),
                    key=row_keys[index],
                    length=len(reads[index]),
                    last=reads[index][-1],
                    prefill=prefill,
                    source=source,
                )


class _Batch:
    """The completions being decoded, in the first `running` slots. A slot is one place in every tensor here and in the decoder."""

    def __init__(
        self,
        decoder: Decoder[Any],
        waiting: Iterator[_Start],
        sampling: Sampling,
        slots: int,
        seed: int,
        stop_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        self.running = slots
        self._decoder = decoder
        self._waiting = waiting
        self._sampling = sampling
        self._seed = seed
        self._device = device
        self._stop_ids = torch.tensor(sorted(set(stop_ids)), dtype=torch.int64, device=device)
        self._step = 0
        self._ahead = 0
        self._slots: dict[int, _Running] = {}
        limit = sampling.max_new_tokens
        self._next = torch.zeros(slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros(slots, dtype=torch.int64, device=device)
        # Row step % limit is the step's, of all slots: no completion lasts longer than `limit` steps.
        self._uniforms = torch.zeros(limit, slots, dtype=torch.float64, device=device)
        self._tokens = torch.zeros(limit, slots, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(limit, slots, dtype=torch.float32, device=device)
        self._of_slots = (
            self._next,
            self._positions,
            self._uniforms,
            self._tokens,
            self._logprobs,
        )
        self.refill(list(range(slots)))

    def step(self) -> list[int]:
        """Draw one token in every slot in use; returns the slots whose completions are finished by it."""
        n, limit = self.running, self._sampling.max_new_tokens
        row = self._step % limit
        logits = self._decoder.logits(self._next[:n], self._positions[:n], self._ahead + self._step)
        new = draw(
            logits,
            self._uniforms[row, :n],
            temperature=self._sampling.temperature,
            top_k=self._sampling.top_k,
            top_p=self._sampling.top_p,
        )
        self._tokens[row, :n] = new.tokens
        self._logprobs[row, :n] = new.logprobs
        self._next[:n] = new.tokens
        self._positions[:n] += 1
        self._step += 1
        due = self._step - limit
        ended = self._is_stop(new.tokens).tolist()
        return [slot for slot in range(n) if ended[slot] or self._slots[slot].begun == due]

    def collect(self, slots: list[int]) -> Iterator[tuple[tuple[int, int], Sampled]]:
        """The finished completions in `slots`, each after its (prompt, sample)."""
        # The last `limit` steps in their order.
        last = self._step % self._sampling.max_new_tokens
        tokens, logprobs = (
            kept[:, slots].roll(-last, 0).T.tolist() for kept in (self._tokens, self._logprobs)
        )
        ended = self._is_stop(self._next[slots]).tolist()
        for row, slot in enumerate(slots):
            running = self._slots[slot]
            count = self._step - running.begun
            yield (
                running.owner,
                Sampled(tokens=tokens[row][-count:], logprobs=logprobs[row][-count:], ended=ended[row]),
            )

    def refill(self, free: list[int]) -> None:
        """Give the free slots to completions that wait; where none does, move the last running ones into them.

        A decoder whose slots are aligned gets new completions once all are finished.
        """
        if self._decoder.aligned and len(free) == self.running:
            self.running = len(self._next)
            free = list(range(self.running))
        joins = len(free) == self.running or not self._decoder.aligned
        starts = list(islice(self._waiting, len(free))) if joins else []
        if starts:
            self._begin(free[: len(starts)], starts)
        if len(starts) < len(free):
            self._close(free[len(starts) :])
        # Columns in use are a completion's prompt and what it has drawn: length + step - begun, over all slots.
        self._ahead = max((running.length - running.begun for running in self._slots.values()), default=0)

    def _begin(self, slots: list[int], starts: list[_Start]) -> None:
        """Put waiting completions into slots."""
        limit = self._sampling.max_new_tokens
        for _, pairs in groupby(zip(slots, starts, strict=True), key=lambda pair: id(pair[1].prefill)):
            chosen = list(pairs)
            sources = [start.source for _, start in chosen]
            self._decoder.fill([slot for slot, _ in chosen], chosen[0][1].prefill, sources)
        uniforms = [
            row_uniforms(seed=self._seed, key=start.key, sample=start.owner[1], count=limit)
            for start in starts
        ]
        ring = np.roll(np.stack(uniforms, axis=1), self._step % limit, axis=0)
        self._uniforms[:, slots] = torch.from_numpy(ring).to(self._device)
        self._next[slots] = torch.tensor([start.last for start in starts], device=self._device)
        self._positions[slots] = torch.tensor([start.length - 1 for start in starts], device=self._device)
        for slot, start in zip(slots, starts, strict=True):
            self._slots[slot] = _Running(owner=start.owner, begun=self._step, length=start.length)

    def _close(self, gaps: list[int]) -> None:
        """Move running completions from the back into the gaps, so that a step still reads one block of rows: a row for a row, no more."""
        keep = self.running - len(gaps)
        empty = set(gaps)
        sources = [slot for slot in range(keep, self.running) if slot not in empty]
        targets = [slot for slot in gaps if slot < keep]
        if sources:
            self._decoder.move(sources, targets, self._ahead + self._step - 1)
            for kept in self._of_slots:
                kept[..., targets] = kept[..., sources]
        for source, target in zip(sources, targets, strict=True):
            self._slots[target] = self._slots[source]
        for slot in range(keep, self.running):
            self._slots.pop(slot, None)
        self.running = keep

    def _is_stop(self, tokens: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
        return (tokens.unsqueeze(1) == self._stop_ids).any(1)
