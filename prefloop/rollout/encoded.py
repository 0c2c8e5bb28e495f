"""Next-token logits of an encoder-decoder: the encoder reads each prompt once for its completions, the decoder keeps keys and values of both."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from prefloop.models.encoder_decoder import opening_of
from prefloop.rollout.cache import PrefillCache, SlotCache


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderStates:
    """Prompts that the encoder has read, and the decoder's keys and values of its opening."""

    own: PrefillCache
    """Of the opening."""
    read: PrefillCache
    """Of the encoder's states, which every decoder layer attends to."""
    hidden: Float[Tensor, "P L"]
    """0 where a prompt has a token and minus infinity where it has none; added to attention scores."""


class EncodedDecoder:
    """One forward pass of the decoder a step.

    T5 and BART count a step's position for all rows at once, so that completions start together: `aligned`.
    """

    aligned = True

    def __init__(self, model: PreTrainedModel, *, slots: int, columns: int, longest: int) -> None:
        parameter = next(model.parameters())
        self._model, self._device = model, parameter.device
        self._own = SlotCache(slots=slots, columns=columns, device=self._device)
        self._read = _ReadCache(slots=slots, columns=longest, device=self._device)
        self._hidden = torch.full((slots, longest), -torch.inf, dtype=parameter.dtype, device=self._device)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> EncoderStates:
        """The encoder over the prompts, padded on the right, and the decoder over its opening."""
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(list(prompt)) for prompt in prompts], batch_first=True
        )
        lengths = torch.tensor([[len(prompt)] for prompt in prompts])
        ids, mask = ids.to(self._device), (torch.arange(ids.shape[1]) < lengths).to(self._device)
        states = self._model.get_encoder()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        opening = torch.tensor(opening_of(self._model), device=self._device).expand(len(prompts), -1)
        cache = EncoderDecoderCache(PrefillCache(), PrefillCache())
        self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            decoder_input_ids=opening,
            past_key_values=cache,
            use_cache=True,
        )
        hidden = torch.zeros(mask.shape, dtype=states.dtype, device=self._device)
        return EncoderStates(
            own=cache.self_attention_cache,  # pyright: ignore[reportArgumentType]
            read=cache.cross_attention_cache,  # pyright: ignore[reportArgumentType]
            hidden=hidden.masked_fill_(~mask, -torch.inf),
        )

    def fill(self, slots: Sequence[int], prefill: EncoderStates, sources: Sequence[int]) -> None:
        """See `Decoder`."""
        self._own.fill(slots, prefill.own, sources)
        self._read.fill(slots, prefill.read, sources)
        self._hidden[list(slots)] = -torch.inf
        self._hidden[list(slots), : prefill.hidden.shape[1]] = prefill.hidden[list(sources)]

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """See `Decoder`."""
        self._own.move(sources, targets, columns)
        self._read.move(sources, targets, self._hidden.shape[1])
        self._hidden[list(targets)] = self._hidden[list(sources)]

    def logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """See `Decoder`; all positions are one."""
        n, hidden = len(tokens), self._hidden[: len(tokens)]
        self._own.step(positions, columns)
        cache = EncoderDecoderCache(self._own, self._read)
        cache.is_updated = self._read.show(n)
        return self._model(
            # Only its shape is looked at: keys and values of what the encoder read are in the cache.
            encoder_outputs=BaseModelOutput(
                last_hidden_state=hidden.new_zeros(1, 1, 1).expand(*hidden.shape, 1)
            ),
            attention_mask=hidden[:, None, None],
            decoder_input_ids=tokens.unsqueeze(1),
            decoder_attention_mask=hidden.new_zeros(n, 1, 1, columns),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]


class _ReadCache(SlotCache):
    """Keys and values of what the encoder read, as transformers' cross-attention looks for them: in `layers`."""

    def show(self, n: int) -> dict[int, bool]:
        """Set the first n slots out; returns which layers have theirs."""
        shown: list[Any] = [
            SimpleNamespace(keys=keys[:n], values=values[:n])
            for _, (keys, values) in sorted(self._pairs.items())
        ]
        self.layers = shown
        return dict.fromkeys(self._pairs, True)


class CombinedDecoder:
    """Two models' decoders side by side, whose logits are combined at every token."""

    aligned = True

    def __init__(
        self,
        parts: Sequence[tuple[EncodedDecoder, Callable[[], AbstractContextManager[None]]]],
        combine: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """`parts` are two decoders, each with what makes its model run as its role."""
        self._parts = parts
        self._combine = combine

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[EncoderStates]:
        """See `EncodedDecoder`."""
        result = []
        for decoder, active in self._parts:
            with active():
                result.append(decoder.prefill(prompts))
        return result

    def fill(self, slots: Sequence[int], prefill: list[EncoderStates], sources: Sequence[int]) -> None:
        """See `Decoder`."""
        for (decoder, _), read in zip(self._parts, prefill, strict=True):
            decoder.fill(slots, read, sources)

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """See `Decoder`."""
        for decoder, _ in self._parts:
            decoder.move(sources, targets, columns)

    def logits(
        self, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """See `Decoder`."""
        found = []
        for decoder, active in self._parts:
            with active():
                found.append(decoder.logits(tokens, positions, columns).float())
        return self._combine(*found)
