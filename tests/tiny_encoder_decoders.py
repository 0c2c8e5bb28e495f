"""Tiny random T5 and BART with tokenizers that write around a text what the real ones write, saved as folders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = (
    *("red", "blue", "green", "black", "white"),
    *("one", "two", "three", "four", "five", "six"),
    *("cat", "dog", "bird", "fish", "good", "bad"),
)
SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")


def tokenizer(template: str, words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Words behind a `▁`, as SentencePiece writes them; `template` is what stands around a text."""
    vocabulary = [*SPECIAL, *(f"▁{word}" for word in words)]
    backend = Tokenizer(
        models.WordLevel({piece: id for id, piece in enumerate(vocabulary)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single=template,
        special_tokens=[(piece, vocabulary.index(piece)) for piece in SPECIAL if piece in template],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def t5(vocabulary: int, width: int = 16, layers: int = 2, **other: Any) -> PreTrainedModel:
    """Starts its decoder with the padding token."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_kv=width // 2,
            d_ff=2 * width,
            num_layers=layers,
            num_heads=2,
            pad_token_id=0,
            eos_token_id=1,
            **{"decoder_start_token_id": 0, **other},
        )
    )


def bart(vocabulary: int, width: int = 16, layers: int = 2, **other: Any) -> PreTrainedModel:
    """Starts its decoder with the end token, and forces `<s>` behind it."""
    config = BartConfig(
        vocab_size=vocabulary,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
        decoder_start_token_id=1,
        **other,
    )
    model = BartForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id, model.generation_config.forced_eos_token_id = 2, None
    return model


KINDS: dict[str, tuple[Callable[..., PreTrainedModel], str]] = {
    "t5": (t5, "$A </s>"),
    "bart": (bart, "<s> $A </s>"),
}
"""Name -> model, and what its tokenizer writes around a text."""


def save(kind: str, folder: Path, words: Sequence[str] = WORDS, seed: int = 0, **shape: Any) -> str:
    """A model with weights large enough that its greedy completions are not one token over and over."""
    make, template = KINDS[kind]
    ours = tokenizer(template, words)
    torch.manual_seed(seed)
    model = make(len(ours), **shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "bias" not in name:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        if isinstance(model, BartForConditionalGeneration):
            model.final_logits_bias.normal_(std=0.5)
    model.save_pretrained(folder)
    ours.save_pretrained(folder)
    return str(folder)
