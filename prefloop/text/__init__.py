"""Tokenizers, chat templates, and records as groups of tokens. No model is loaded here."""

from prefloop.text.encode import (
    Encoded,
    EncodedPrompts,
    comparison_group,
    completions_group,
    decode_completion,
    decode_completions,
    demonstration_group,
    encode_all,
    encode_completion,
    encode_prompt,
    encode_prompts,
    pretraining_blocks,
    with_trained_stops,
)
from prefloop.text.groups import Group, cut_by_tokens
from prefloop.text.template import declare_stops, reads_apart, tokens_around
from prefloop.text.tokenizer import (
    check_same_tokens,
    check_vocabulary,
    load_tokenizer,
    stop_token_ids,
    train_tokenizer,
)

__all__ = [
    "Encoded",
    "EncodedPrompts",
    "Group",
    "check_same_tokens",
    "check_vocabulary",
    "comparison_group",
    "completions_group",
    "cut_by_tokens",
    "declare_stops",
    "decode_completion",
    "decode_completions",
    "demonstration_group",
    "encode_all",
    "encode_completion",
    "encode_prompt",
    "encode_prompts",
    "load_tokenizer",
    "pretraining_blocks",
    "reads_apart",
    "stop_token_ids",
    "tokens_around",
    "train_tokenizer",
    "with_trained_stops",
]
