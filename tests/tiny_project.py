"""A tiny model, tokenizer and data of the toy world, made in a second: what tests of commands and whole loops start from."""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from prefloop.configs.common import Compute
from prefloop.configs.pretrain import Architecture
from prefloop.data import write_jsonl
from prefloop.data.toy_world import ToyWorld
from prefloop.models.load import new_language_model, save_policy
from prefloop.records import Comparison
from prefloop.text import train_tokenizer

SIZE = Architecture(hidden_size=16, layers=1, heads=2, ffn_size=24, vocab_size=300, max_positions=256)
WORLD = ToyWorld(0)


@cache
def tokenizer():
    """Byte-level, with a chat template; no merges to speak of."""
    return train_tokenizer((text.text for text in WORLD.texts(50)), vocab_size=SIZE.vocab_size)


def make_model(
    folder: Path, *, chat: bool = True, seed: int = 0, positions: int = SIZE.max_positions
) -> Path:
    """A language model with random weights, saved in a folder; without its chat template if `chat` is off. It reads so many tokens."""
    ours = tokenizer()
    size = replace(SIZE, max_positions=positions)
    policy = new_language_model(size, ours, Compute(device="cpu"), seed=seed)
    template = ours.chat_template
    try:
        ours.chat_template = template if chat else None
        save_policy(policy, ours, folder)
    finally:
        ours.chat_template = template
    return folder


def make_prompts(file: Path, count: int = 6) -> Path:
    """Questions of the toy world, as chats."""
    return write_jsonl(WORLD.prompts(count), file).path


def make_demonstrations(file: Path, count: int = 12) -> Path:
    """Questions with replies of mixed quality."""
    return write_jsonl(WORLD.demonstrations(count), file).path


def make_texts(file: Path, count: int = 12) -> Path:
    """Documents."""
    return write_jsonl(WORLD.texts(count), file).path


def make_comparisons(file: Path, count: int = 12) -> Path:
    """A reply is chosen, the reply to the next question rejected."""
    replies = WORLD.demonstrations(count + 1)
    pairs = [
        Comparison(prompt=this.prompt, chosen=this.completion, rejected=other.completion)
        for this, other in pairwise(replies)
        if this.completion != other.completion
    ]
    return write_jsonl(pairs, file).path
