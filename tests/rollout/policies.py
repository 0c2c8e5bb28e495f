"""Tiny random models and ragged prompts for the sampler's tests."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import chisquare
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from prefloop.configs.common import Sampling
from prefloop.rollout.sampler import Sampled, sample
from tests.models.tiny import PACKABLE, SHAPE, VOCABULARY, make

SLIDING: dict[str, Callable[[], PreTrainedModel]] = {
    "mistral, every layer": lambda: MistralForCausalLM(
        MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=5)
    ),
    "qwen2, one layer": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **SHAPE, num_key_value_heads=2, use_sliding_window=True, sliding_window=5, max_window_layers=1
        )
    ),
    # Its soft cap on attention scores is left out of sdpa, so it comes with eager attention.
    "gemma2, eager": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, num_key_value_heads=1, head_dim=8, sliding_window=5)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, num_key_value_heads=1, head_dim=8, sliding_window=5)
    ),
}
CACHED = PACKABLE | SLIDING
RECOMPUTED: dict[str, Callable[[], PreTrainedModel]] = {
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(
            vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
        )
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2)
    ),
}
LENGTHS = (7, 1, 12, 3, 9, 2, 20, 1, 5)


def prompts_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def llama(seed: int = 0) -> PreTrainedModel:
    """Weights small enough that its distributions are broad."""
    return make(PACKABLE["llama"], seed, std=0.15).eval()


def draw_all(
    model: torch.nn.Module,
    prompts: list[list[int]],
    *,
    k: int = 1,
    stop_ids: tuple[int, ...] = (),
    max_new_tokens: int = 10,
    temperature: float = 1.0,
    batch_size: int = 64,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    row_keys: list[int] | None = None,
) -> list[list[Sampled]]:
    """`sample` with defaults."""
    return sample(
        model,
        prompts,
        k=k,
        stop_ids=stop_ids,
        sampling=Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch_size=batch_size,
            top_k=top_k,
            top_p=top_p,
        ),
        seed=seed,
        row_keys=list(range(len(prompts))) if row_keys is None else row_keys,
    )


def tokens_of(samples: list[list[Sampled]]) -> list[list[list[int]]]:
    return [[one.tokens for one in group] for group in samples]


def chi_square_p_value(counts: np.ndarray, expected: np.ndarray) -> float:
    """Of the counts under the expected ones; tokens expected five times or less are counted together."""
    common = expected > 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    return float(chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue)


@torch.no_grad()
def full_forward_logprobs(
    model: torch.nn.Module, prompt: list[int], completion: list[int], temperature: float
) -> list[float]:
    """The plain way: prompt and completion alone in one pass, no cache, float64 log-softmax."""
    logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].double()
    logprobs = torch.log_softmax(logits / temperature, -1)
    return [float(logprobs[len(prompt) - 1 + t, token]) for t, token in enumerate(completion)]
