"""Running an encoder-decoder model (T5, BART) on a packed batch: its encoder reads each prompt once, its decoder every completion.

The row of `packing` keeps its meaning. What a causal model knows at the end of a prompt, before it writes, is here the decoder's state at the
last token of its opening; at a completion token it is the decoder's state once it has read that token. So log-probabilities, values, scores and
Q-values are read at the same places of the row for both kinds of model.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.models.packing import Batch
from prefloop.text import load_tokenizer, tokens_around


def has_encoder(config: PretrainedConfig) -> bool:
    """Whether a model is an encoder-decoder."""
    return bool(getattr(config, "is_encoder_decoder", False))


_OTHERWISE = (
    "encoder-decoder",
    "fsmt",
    "nllb-moe",
    "prophetnet",
    "switch_transformers",
    "t5gemma",
    "t5gemma2",
)
"""Kinds of encoder-decoder whose code in transformers calls or caches its two halves in a way of its own."""


def check_settings(name: str, config: PretrainedConfig, compute: Compute) -> None:
    """Raise `InputError` for an encoder-decoder that is not run here, and for what none can be run with."""
    if config.model_type in _OTHERWISE:
        raise InputError(cannot_run(name, config))
    asked = {
        "attention": (compute.attention == "packed", "auto or padded"),
        "quantize": (compute.quantize != "none", "none"),
        "shard": (compute.shard != "none", "none"),
    }
    for field, (wrong, instead) in asked.items():
        if wrong:
            raise InputError(
                f"compute.{field} is {getattr(compute, field)}, but model {name!r} is an encoder-decoder, which it does not support; set it to {instead}"
            )


def cannot_run(name: str, config: PretrainedConfig) -> str:
    """What is said of such a kind."""
    return (
        f"model {name!r} is a {config.model_type}, an encoder-decoder that prefloop does not run; "
        "use one such as T5, BART, Pegasus, Marian or mBART"
    )


class AutoScorer:
    """Loads an encoder-decoder as a model that scores: `AutoModelForSequenceClassification` has none that reads prompt and completion apart."""

    @staticmethod
    def from_pretrained(source: str, *, config: PretrainedConfig, **options: Any) -> Any:
        """As transformers' auto classes; the head is `score`."""
        return _scorer_class(AutoModelForSeq2SeqLM._model_mapping[type(config)]).from_pretrained(
            source, config=config, **options
        )


@cache
def _scorer_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A sequence-to-sequence model whose output layer is replaced by a linear layer `score` with one label.

    Its weights keep the names that they have in the language model, so that LoRA adapters fit both and transformers can load the folder.
    """

    class Scorer(base):
        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            width = getattr(self, _OUTPUT).in_features
            delattr(self, _OUTPUT)
            self.score = nn.Linear(width, 1, bias=False)
            self.post_init()

        def get_output_embeddings(self) -> None:
            return None

    tied = getattr(base, "_tied_weights_keys", None) or {}
    Scorer._tied_weights_keys = {key: value for key, value in tied.items() if not key.startswith(_OUTPUT)}
    Scorer.__name__ = f"{base.__name__}{WITH_SCORE}"
    return Scorer


WITH_SCORE = "WithScore"
"""What ends the name that `config.json` gives such an architecture."""


_OUTPUT = "lm_head"
"""Name of the output layer in transformers' sequence-to-sequence models."""


def settle_opening(model: PreTrainedModel, name: str) -> None:
    """Make `generate` begin as training does: with the token that the tokenizer writes before a target (BART's `<s>`), where it writes one.

    A token that the model's files force is left as it is.
    """
    generation = model.generation_config
    assert generation is not None, "an encoder-decoder generates"
    if generation.forced_bos_token_id is None:
        before, _ = tokens_around(load_tokenizer(name), target=True)
        if len(before) > 1:
            raise InputError(
                f"the tokenizer of {name!r} writes {len(before)} tokens before a target, but `generate` can force only one; "
                "set forced_bos_token_id in its generation_config.json"
            )
        generation.forced_bos_token_id = before[0] if before else None
    opening_of(model)


def opening_of(model: PreTrainedModel) -> tuple[int, ...]:
    """Tokens that the decoder reads before a completion: its start token, and the one that `generate` is told to write first, if any.

    Neither is chosen by the policy, so neither has a log-probability. Raises `InputError` for a model that names no start token.
    """
    generation = model.generation_config
    named = (
        getattr(generation, "decoder_start_token_id", None),
        getattr(model.config, "decoder_start_token_id", None),
    )
    start = next(
        (token for token in (*named, getattr(generation, "bos_token_id", None)) if token is not None), None
    )
    if start is None:
        raise InputError(
            f"model {model.name_or_path!r} names no decoder_start_token_id, so nothing says what its decoder begins with; "
            "set it in generation_config.json (T5: the padding token)"
        )
    forced = getattr(generation, "forced_bos_token_id", None)
    return (start,) if forced is None else (start, forced)


_OPENING = 2
"""Tokens of an opening at most."""


def positions_before(config: PretrainedConfig, prompt: int) -> int:
    """Positions that a completion's first token has before it, for a prompt of so many tokens."""
    return _OPENING if has_encoder(config) else prompt


def positions_needed(config: PretrainedConfig, prompt: int, completion: int) -> int:
    """Positions that a model needs for a prompt and a completion of so many tokens; an encoder counts its own."""
    return max(prompt, positions_before(config, prompt) + completion)


def decoder_rows(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "N d"]:
    """The decoder's final hidden states in the order of the packed row: of a completion token having read it, of a prompt's tokens that at
    the opening's end, before the completion."""
    ids, mask = _prompts_of(batch)
    read = _decoder_ids(model, batch)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    states = model.get_decoder()(
        input_ids=read,
        encoder_hidden_states=encoded.index_select(0, batch.layout.prompt),
        encoder_attention_mask=mask.index_select(0, batch.layout.prompt),
        use_cache=False,
    ).last_hidden_state
    return states.flatten(0, 1).index_select(0, _row_slots(batch, *read.shape))


def decoder_logits(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "M V"]:
    """Logits of the M predicted tokens by the model's own forward pass, which reads a prompt once for each completion."""
    ids, mask = _prompts_of(batch)
    read = _decoder_ids(model, batch)
    logits = model(
        input_ids=ids.index_select(0, batch.layout.prompt),
        attention_mask=mask.index_select(0, batch.layout.prompt),
        decoder_input_ids=read,
        use_cache=False,
    ).logits
    return logits.flatten(0, 1).index_select(0, _row_slots(batch, *read.shape)[batch.predictors.index])


def _prompts_of(batch: Batch) -> tuple[Int[Tensor, "P L"], Int[Tensor, "P L"]]:
    """The row's prompts side by side, padded on the right with 0, and a mask that is 1 where a place holds a token."""
    of, positions = _prompt_tokens(batch)
    ids = batch.input_ids.new_zeros(int(of[-1]) + 1, int(positions.max()) + 1)
    mask = torch.zeros_like(ids)
    ids[of, positions] = batch.input_ids[: len(of)]
    mask[of, positions] = 1
    return ids, mask


def _prompt_tokens(batch: Batch) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Of each token of a prompt: which prompt of the row it is of, and its position."""
    positions = batch.position_ids[: batch.layout.prompt_tokens]
    return (positions == 0).cumsum(0) - 1, positions


def _decoder_ids(model: PreTrainedModel, batch: Batch) -> Int[Tensor, "B S"]:
    """What the decoder reads: opening and completion, padded on the right."""
    opening = torch.tensor(opening_of(model), device=batch.completion_ids.device)
    return torch.cat([opening.expand(len(batch.last), -1), batch.completion_ids], dim=1)


def _row_slots(batch: Batch, rows: int, width: int) -> Int[Tensor, " N"]:
    """Place of each token of the row in the flattened `[B, S]` that the decoder reads."""
    split, opening = batch.layout.prompt_tokens, width - batch.completion_ids.shape[1]
    of, _ = _prompt_tokens(batch)
    number = torch.arange(rows, device=of.device)
    first = number.new_full((int(of[-1]) + 1,), rows).scatter_reduce(0, batch.layout.prompt, number, "amin")
    starts = torch.cat([batch.last.new_full((1,), split), batch.last[:-1] + 1])
    completion = torch.repeat_interleave(number, batch.last + 1 - starts)
    place = torch.arange(split, batch.tokens, device=of.device) - starts[completion]
    return torch.cat([first[of] * width + opening - 1, completion * width + opening + place])
