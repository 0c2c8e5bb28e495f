"""Tiny random models of every family the packed path is meant for, and random ragged groups."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefloop.text.groups import Group

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

PACKABLE: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=None)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
        )
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=8)),
}

FUSED = {"llama", "qwen2", "qwen3", "mistral", "gemma"}
"""Of these, the families whose layers run fused."""

MORE_PACKABLE = PACKABLE | {
    "deepseek v2": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(
            **SHAPE,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=4,
            first_k_dense_replace=2,
        )
    ),
}
"""With one whose values are narrower than its queries and keys."""

NOT_PACKABLE: dict[str, Callable[[], PreTrainedModel]] = {
    "mistral with a sliding window": lambda: MistralForCausalLM(
        MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=4)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0)
    ),
    "qwen2 with a sliding window": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **SHAPE, num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=1
        )
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, num_key_value_heads=1, head_dim=8, sliding_window=4)
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8)
    ),
}
NOT_PACKABLE_BECAUSE = {
    "mistral with a sliding window": "a sliding window of 4 tokens",
    "gemma2": "layers of kind sliding_attention",
    "qwen2 with a sliding window": "layers of kind sliding_attention",
    "gemma3": "layers of kind sliding_attention",
    "bloom": "its attention cannot be replaced",
    "mamba": "its attention cannot be replaced",
}


def make(build: Callable[[], PreTrainedModel], seed: int = 0, std: float = 0.3) -> PreTrainedModel:
    """A model with weights large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, std)
    return model


def random_groups(k: int, *, seed: int, count: int = 4, longest: int = 9) -> list[Group]:
    """Groups with prompts of 1 to 7 tokens and K completions of 1 to `longest` tokens; one-token ones are certain to occur."""
    draw = random.Random(f"{seed}/{k}")
    groups: list[Group] = []
    for place in range(count):
        lengths = [1 if place == j == 0 else draw.randint(1, longest) for j in range(k)]
        completions = tuple([draw.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths)
        prompt = [draw.randrange(3, VOCABULARY) for _ in range(1 if place == 0 else draw.randint(1, 7))]
        groups.append(
            Group(prompt=prompt, completions=completions, masks=tuple([True] * len(c) for c in completions))
        )
    return groups


SAME_PROMPT = [(0, 0), (0, 1, 0), (0, 1, 1, 0), (1, 0, 0)]
"""Which of two prompts each group of a batch has."""


def groups_with_prompts(which: Sequence[int], *, k: int) -> list[Group]:
    """Random groups, some of which have another's prompt."""
    groups = random_groups(k, seed=31, count=len(which))
    return [replace(group, prompt=groups[p].prompt) for group, p in zip(groups, which, strict=True)]
