"""Next-token logits for many completions at once, each at its own position: fused, with a key-value cache, or by computing every token again.

A decoder has slots, one for each completion being decoded. The last token of a prompt is not prefilled but fed as the first step's input,
so that logits come from one place only and a completion can join at any step.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.models.encoder_decoder import has_encoder, opening_of
from prefloop.models.trunk import layer_types, sliding_window
from prefloop.rollout.cache import PrefillCache, SlotCache
from prefloop.rollout.encoded import EncodedDecoder
from prefloop.rollout.families import read_weights, text_config
from prefloop.rollout.fused import FusedDecoder

Prefill = TypeVar("Prefill")


@runtime_checkable
class Decoder(Protocol[Prefill]):
    """What the sampler asks of a model."""

    aligned: bool
    """Whether all slots must stand at one position: then completions start together, when none is running."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """Read prompts, all but their last tokens, once."""
        ...

    def fill(self, slots: Sequence[int], prefill: Prefill, sources: Sequence[int]) -> None:
        """Put prefilled prompts into slots; one prompt may go into many."""
        ...

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copy the first `columns` positions of some slots over others."""
        ...

    def logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """Feed one token to each of the first n slots; every position is below `columns`."""
        ...


def decoder_reads(model: nn.Module, prompt: Sequence[int]) -> Sequence[int]:
    """The tokens that a decoder reads before a completion: the prompt's; of an encoder-decoder, whose encoder reads those, its opening."""
    return opening_of(language_model(model)) if has_encoder(text_config(model)) else prompt


def language_model(model: nn.Module) -> PreTrainedModel:
    """The model of transformers, of several that decode together the first."""
    return cast(PreTrainedModel, getattr(model, "leader", model))


def make_decoder(model: nn.Module, *, slots: int, columns: int, longest: int = 0) -> Decoder[Any]:
    """The fused decoder for the families it knows, the cached one where the architecture allows it, else the recomputing one.

    The last with a warning that names the architecture. Make a new decoder when the model's weights have changed. `columns` are a decoder's
    positions, `longest` is the number of tokens of the longest prompt, by which an encoder-decoder's memory is made.

    Raises `InputError` where Q heads steer an encoder-decoder.
    """
    if has_encoder(text_config(model)):
        if isinstance(model, PreTrainedModel):
            return EncodedDecoder(model, slots=slots, columns=columns, longest=longest)
        if isinstance(model, Several):
            return model.encoded_decoder(slots=slots, columns=columns, longest=longest)
        raise InputError(
            f"model {language_model(model).name_or_path!r} is an encoder-decoder, which Q heads cannot steer; name a causal language model"
        )
    weights = read_weights(model, columns=columns)
    if weights is not None:
        return FusedDecoder(weights, slots=slots, columns=columns)
    if has_plain_cache(model):
        return CachedDecoder(model, slots=slots, columns=columns)
    warnings.warn(
        f"{type(model).__name__} does not run its attention through transformers' attention interface with an ordinary key-value cache; "
        "sampling recomputes all tokens of a completion at every step, which is slow",
        stacklevel=3,
    )
    return RecomputingDecoder(model, slots=slots, columns=columns)


def has_plain_cache(model: nn.Module) -> bool:
    """Whether every layer is attention that takes a ready mask and keeps keys and values by position: no state space, no chunks, no ALiBi."""
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and not getattr(model, "_is_stateful", False)
        and layer_types(text_config(model)) <= {"full_attention", "sliding_attention"}
    )


@runtime_checkable
class Several(Protocol):
    """Models that decode together."""

    leader: PreTrainedModel

    def encoded_decoder(self, *, slots: int, columns: int, longest: int) -> Decoder[Any]:
        """Their decoder where they are encoder-decoders."""
        ...


class CachedDecoder:
    """One forward pass of the model a step, over one token a slot, with all that came before in a preallocated cache."""

    aligned = False

    def __init__(self, model: nn.Module, *, slots: int, columns: int) -> None:
        self._model = model
        parameter = next(model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._cache = SlotCache(slots=slots, columns=columns, device=self._device)
        self._columns = torch.arange(columns, device=self._device)
        self._window, self._by_layer_type = sliding_window(text_config(model))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> PrefillCache:
        """One forward pass over the prompts, padded on the right: a causal model's real tokens never see that padding."""
        cache = PrefillCache()
        ids = pad_right([prompt[:-1] for prompt in prompts], self._device)
        if ids.shape[1]:
            # A mask of ones lets transformers drop the mask for its causal flag; without one some models warn about padding.
            mask = torch.ones_like(ids)
            self._model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        return cache

    def fill(self, slots: Sequence[int], prefill: PrefillCache, sources: Sequence[int]) -> None:
        """See `Decoder`."""
        self._cache.fill(slots, prefill, sources)

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """See `Decoder`."""
        self._cache.move(sources, targets, columns)

    def logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """See `Decoder`."""
        self._cache.step(positions, columns)
        output = self._model(
            input_ids=tokens.unsqueeze(1),
            attention_mask=self._mask(positions, columns),
            position_ids=positions.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def _mask(self, positions: Int64[Tensor, " n"], columns: int) -> Tensor | dict[str, Tensor]:
        """What each slot's token sees, ready to be added to the scores, [n, 1, 1, columns]; one for each kind of layer where they differ.

        Additive rather than boolean: attention on CPU would convert a boolean mask again in every layer.
        """
        behind = positions.unsqueeze(1) - self._columns[:columns]
        full = behind >= 0
        if self._window is None:
            return self._additive(full)
        sliding = self._additive(full & (behind < self._window))
        if not self._by_layer_type:
            return sliding
        return {"full_attention": self._additive(full), "sliding_attention": sliding}

    def _additive(self, visible: Bool[Tensor, "n columns"]) -> Float[Tensor, "n 1 1 columns"]:
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~visible, -torch.inf)[:, None, None]


class RecomputingDecoder:
    """The plain way, for any causal model: keep the tokens, and read them all again for every next one."""

    aligned = False

    def __init__(self, model: nn.Module, *, slots: int, columns: int) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._ids = torch.zeros(slots, columns, dtype=torch.int64, device=self._device)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Int64[Tensor, "P L"]:
        """The prompts without their last tokens, padded on the right."""
        return pad_right([prompt[:-1] for prompt in prompts], self._device)

    def fill(self, slots: Sequence[int], prefill: Int64[Tensor, "P L"], sources: Sequence[int]) -> None:
        """See `Decoder`."""
        self._ids[list(slots), : prefill.shape[1]] = prefill[list(sources)]

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """See `Decoder`."""
        self._ids[list(targets), :columns] = self._ids[list(sources), :columns]

    def logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """See `Decoder`."""
        ids = self._ids[: len(tokens), :columns]
        ids.scatter_(1, positions.unsqueeze(1), tokens.unsqueeze(1))
        # As in a prefill: what a slot holds behind its position is padding on the right, and no real token sees it.
        logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        return logits[torch.arange(len(tokens), device=self._device), positions]


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> Int64[Tensor, "rows longest"]:
    """Token ids as one tensor, 0 after the end of the shorter rows."""
    longest = max(map(len, rows))
    padded = [[*row, *[0] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device)
