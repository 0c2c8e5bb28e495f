"""Models, tokenizer and data that both sides load, made once in a folder. Runs in prefloop's environment."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerBase,
)

from bench.versus.cases import (
    GENERATION_PROMPT,
    GROUP,
    MAX_TOKENS,
    NEW_TOKENS,
    ONLINE,
    PAIRS,
    PROMPT_TOKENS,
    RECORDS,
    ROLLOUTS,
    SEED,
    SIZES,
    Size,
    Work,
    batch_size,
)
from prefloop.data.load import load_comparisons
from prefloop.data.toy_world import ToyWorld
from prefloop.records import Message
from prefloop.text import load_tokenizer, train_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Tokens of the rows, in their order."""

    comparisons: list[tuple[int, ...]]
    """Of prompt, chosen and rejected completion, without stop tokens."""
    prompts: list[int]

    def work(self, stage: str, step: int) -> Work:
        """Of a step, the first being 0. An online round takes the mean prompt, which is not known beforehand, and full completions."""
        if stage == "generation":
            return Work.of(ROLLOUTS, GENERATION_PROMPT, [NEW_TOKENS])
        if stage in ONLINE:
            k = 1 if stage == "ppo" else GROUP
            return Work.of(ROLLOUTS // k, round(statistics.fmean(self.prompts)), [NEW_TOKENS] * k)
        if stage == "sft":
            rows = [[prompt, chosen] for prompt, chosen, _ in self.comparisons]
        else:
            rows = [list(row) for row in self.comparisons]
        size = PAIRS if stage == "kto" else batch_size(stage)  # its labels are the two sides of a comparison
        batch = [rows[place % len(rows)] for place in range(step * size, (step + 1) * size)]
        works = [Work.of(1, prompt, [side + 1 for side in sides]) for prompt, *sides in batch]
        return Work(**{name: sum(getattr(work, name) for work in works) for name in Work.__slots__})


def make_material(folder: Path, source: str, sizes: Iterable[str] = tuple(SIZES)) -> dict[str, Material]:
    """Write SIZE/policy, SIZE/reward_model and the rows of every stage in its field format; what they hold."""
    rows = list(_human(source) if source else _made_up())
    texts = [row["prompt"] + row[side] for row in rows for side in ("chosen", "rejected")]
    for name in sizes:
        _write(folder / name, SIZES[name], rows, texts)
    return {name: read_material(folder / name) for name in sizes}


def read_material(folder: Path) -> Material:
    """What a size's folder holds."""
    tokenizer = load_tokenizer(str(folder / "policy"))
    comparisons, prompts = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("comparisons", "prompts")
    )
    return Material(
        comparisons=[
            tuple(_count(tokenizer, row[field]) for field in ("prompt", "chosen", "rejected"))
            for row in comparisons
        ],
        prompts=[_count(tokenizer, row["prompt"]) for row in prompts],
    )


def _write(folder: Path, size: Size, rows: list[dict[str, str]], texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, vocab_size=size.vocabulary)
    torch.manual_seed(SEED)
    shape: dict[str, Any] = {
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "intermediate_size": size.ffn,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder / "policy")
    LlamaForSequenceClassification(LlamaConfig(**shape | {"num_labels": 1})).save_pretrained(
        folder / "reward_model"
    )
    for name in ("policy", "reward_model"):
        tokenizer.save_pretrained(folder / name)
    tokenizer = load_tokenizer(str(folder / "policy"))
    kept = [row for row in rows if _fits(tokenizer, row)][:RECORDS]
    labels = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in kept
        for side in ("chosen", "rejected")
    ]
    prompts = dict.fromkeys(
        row["prompt"] for row in rows if len(tokenizer(row["prompt"])["input_ids"]) <= PROMPT_TOKENS
    )
    write_rows(folder / "comparisons.jsonl", kept)
    write_rows(
        folder / "demonstrations.jsonl",
        [{"prompt": row["prompt"], "completion": row["chosen"]} for row in kept],
    )
    write_rows(folder / "labels.jsonl", labels)
    write_rows(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in prompts])


def _count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text)["input_ids"])


def _fits(tokenizer: PreTrainedTokenizerBase, row: dict[str, str]) -> bool:
    """Whether both sides fit, and the prompt's tokens do not change with what follows: then everyone cuts the text alike."""
    prompt = tokenizer(row["prompt"])["input_ids"]
    for side in ("chosen", "rejected"):
        whole = tokenizer(row["prompt"] + row[side])["input_ids"]
        if len(whole) + 1 > MAX_TOKENS or whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            return False
    return True


def _human(source: str) -> Iterator[dict[str, str]]:
    """Comparisons of people, as plain text."""
    for record in load_comparisons(source, skip_bad=True).records:
        content = record.prompt.content
        prompt = content if isinstance(content, str) else "".join(map(_turn, content)) + "\n\nAssistant:"
        yield {
            "prompt": prompt,
            "chosen": " " + record.chosen.strip(),
            "rejected": " " + record.rejected.strip(),
        }


def _turn(message: Message) -> str:
    return f"\n\n{'Human' if message.role == 'user' else 'Assistant'}: {message.content.strip()}"


def _made_up() -> Iterator[dict[str, str]]:
    """Pairs of replies of the toy world; short, so a stand-in where there is no real data."""
    demonstrations = ToyWorld(SEED).demonstrations(2000)
    for first, second in zip(demonstrations[0::2], demonstrations[1::2], strict=False):
        yield {
            "prompt": f"{first.prompt.content}\n",
            "chosen": f" {first.completion}",
            "rejected": f" {second.completion}",
        }


def write_rows(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """A JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
