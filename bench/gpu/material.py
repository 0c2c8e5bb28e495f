"""Models of random weights, batches of random tokens, and both as files that other processes load."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from bench.versus import cases
from bench.versus.cases import PAIRS, ROLLOUTS
from bench.versus.material import write_rows
from prefloop.text.groups import Group

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config}
ROUND_PROMPTS = 8 * ROLLOUTS
"""Prompts that rounds are drawn from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model's shape and the work it gets."""

    model: cases.Size
    prompt: int
    """Longest prompt; the shortest has half as many tokens."""
    completion: int
    """Longest completion, likewise."""
    pairs: int
    """As many as the other side takes in a step."""
    sampled: int
    """Completions sampled together, where sampling alone is timed."""


SIZES = {
    "tiny": Size(
        model=cases.Size(hidden=64, layers=2, heads=4, kv_heads=2, ffn=128, vocabulary=512),
        prompt=12,
        completion=12,
        pairs=PAIRS,
        sampled=4,
    ),
    "0.5b": Size(
        model=cases.Size(hidden=896, layers=24, heads=14, kv_heads=2, ffn=4864, vocabulary=151936),
        prompt=256,
        completion=256,
        pairs=PAIRS,
        sampled=64,
    ),
    "1.5b": Size(
        model=cases.Size(hidden=1536, layers=28, heads=12, kv_heads=2, ffn=8960, vocabulary=151936),
        prompt=256,
        completion=256,
        pairs=PAIRS,
        sampled=64,
    ),
}


def config_of(size: Size, family: str) -> LlamaConfig | Qwen2Config:
    """A configuration of transformers."""
    shape = size.model
    return CONFIGS[family](
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def language_model(size: Size, family: str, dtype: torch.dtype) -> PreTrainedModel:
    """Random weights, the same at every call."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(size, family)).to(dtype)


def scalar_model(size: Size, family: str, dtype: torch.dtype) -> PreTrainedModel:
    """A critic's or reward model's: random weights and a head of one number in float32."""
    torch.manual_seed(1)
    config = config_of(size, family)
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config).to(dtype)
    model.score = model.score.float()
    return model


def comparisons(size: Size) -> list[Group]:
    """Pairs of random tokens, lengths drawn between half of the longest and it."""
    generator = torch.Generator().manual_seed(1)
    groups: list[Group] = []
    for _ in range(size.pairs):
        completions = (_draw(size, size.completion, generator), _draw(size, size.completion, generator))
        masks = tuple([True] * len(completion) for completion in completions)
        prompt = _draw(size, size.prompt, generator)
        groups.append(Group(prompt=prompt, completions=completions, masks=masks))
    return groups


def round_prompts(size: Size) -> list[list[int]]:
    """Prompts likewise, for rounds of sampling and learning."""
    generator = torch.Generator().manual_seed(2)
    return [_draw(size, size.prompt, generator) for _ in range(ROUND_PROMPTS)]


def _draw(size: Size, longest: int, generator: torch.Generator) -> list[int]:
    length = int(torch.randint(longest // 2, longest + 1, (), generator=generator))
    return torch.randint(3, size.model.vocabulary, (length,), generator=generator).tolist()


def write_material(folder: Path, size: Size, family: str, groups: Sequence[Group]) -> None:
    """What `bench.versus`'s workers load: models, a tokenizer that reads token i from the word `i`, comparisons and prompts.

    Comparisons are written without their last tokens, as the other side adds an end.
    """
    special = {0: "<pad>", 2: "</s>"}  # these are found inside words too, so no number may stand for them
    vocabulary = {special.get(i, str(i)): i for i in range(size.model.vocabulary)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="3"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="<pad>", model_max_length=2048
    )
    for name, make in (("policy", language_model), ("reward_model", scalar_model)):
        make(size, family, torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

    def text(ids: Sequence[int]) -> str:
        return "".join(f" {i}" for i in ids)

    rows = [
        {"prompt": text(group.prompt), "chosen": text(chosen[:-1]), "rejected": text(rejected[:-1])}
        for group in groups
        for chosen, rejected in [group.completions]
    ]
    write_rows(folder / "comparisons.jsonl", rows)
    write_rows(folder / "prompts.jsonl", [{"prompt": text(prompt)} for prompt in round_prompts(size)])
