"""Completions of fixed length, ours and `generate`, in turn: tokens a processor second by batch. One core, two minutes a size:

    OMP_NUM_THREADS=1 python -m bench.generation small
    OMP_NUM_THREADS=1 python -m bench.generation small --ways fused bfloat16 --batches 32 64 128
    python -m bench.generation small --clock wall --ways fused generate

Ways: `fused` is what `sample` does for a Llama; `module` decodes with the model's own module and our cache; `bfloat16` decodes from weights in bfloat16; `generate` is transformers. Prompts have 32 random tokens, completions 64, none ends
early. Processor time of one thread is measured, which other processes lengthen less than the clock's; medians of turns, the first not counted.
With several threads and nobody else at work, `--clock wall` is what one waits for.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.versus.cases import GENERATION_PROMPT, NEW_TOKENS, SEED, SIZES
from prefloop.configs.common import Compute, RunSettings, Sampling
from prefloop.models.load import as_policy
from prefloop.rollout import decoders, sample
from prefloop.runtime.tune import tune

CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
WAYS = ("fused", "module", "bfloat16", "generate")


def make_model(size: str, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Random weights, the same at every call."""
    shape = SIZES[size]
    torch.manual_seed(SEED)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()  # pyright: ignore[reportArgumentType]
    as_policy(model, Compute(device="cpu"))
    return model


def ours(way: str, model: LlamaForCausalLM, prompts: Sequence[Sequence[int]]) -> None:
    """Sample one completion of each prompt."""
    sampling = Sampling(max_new_tokens=NEW_TOKENS, batch_size=len(prompts))
    draw = partial(
        sample, model, prompts, k=1, stop_ids=(), sampling=sampling, seed=0, row_keys=range(len(prompts))
    )
    if way == "module":
        with patch.object(decoders, "read_weights", return_value=None):
            draw()
    else:
        draw()


@torch.inference_mode()
def generate(model: LlamaForCausalLM, prompts: Sequence[Sequence[int]]) -> None:
    """The same number of tokens by transformers."""
    ids = torch.tensor(prompts)
    model.config._attn_implementation = "sdpa"
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=0,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
    )  # pyright: ignore[reportCallIssue]


def rates(
    size: str, ways: Sequence[str], batch: int, repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Tokens a second of each way, the median of its turns."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch, GENERATION_PROMPT)
    prompts = torch.randint(10, SIZES[size].vocabulary, shape, generator=generator).tolist()
    models = {way: make_model(size, torch.bfloat16 if way == "bfloat16" else torch.float32) for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, model in models.items():
            began = clock()
            if way == "generate":
                generate(model, prompts)
            else:
                ours(way, model, prompts)
            seconds[way].append(clock() - began)
    tokens = batch * NEW_TOKENS
    return {way: tokens / statistics.median(each[1:]) for way, each in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=tuple(SIZES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["fused", "module", "generate"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="processor")
    given = parser.parse_args()
    tune(RunSettings(out="unused"))
    for batch in given.batches:
        for way, rate in rates(given.size, given.ways, batch, given.repeats, CLOCKS[given.clock]).items():
            print(f"{given.size} batch {batch:4d} {way:9s} {rate:9,.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
