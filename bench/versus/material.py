"""Models, tokenizer and data that both sides load, made once in a folder. Runs in prefloop's environment."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bench.versus.cases import (
    CHAT,
    GENERATION_PROMPT,
    GIVEN,
    GROUP,
    ONLINE,
    SEED,
    SIZES,
    USUAL,
    Conditions,
    Size,
    Work,
    conditions_of,
)
from prefloop.data.load import load_comparisons
from prefloop.data.toy_world import ToyWorld
from prefloop.records import Comparison, Message, Prompt
from prefloop.text import load_tokenizer, train_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Tokens of the rows, in their order."""

    comparisons: list[tuple[int, ...]]
    """Of prompt, chosen and rejected completion, without stop tokens."""
    prompts: list[int]

    def work(self, stage: str, step: int, conditions: Conditions = USUAL) -> Work:
        """Of a step, the first being 0. An online round takes the mean prompt, which is not known beforehand, and full completions."""
        rollouts, new = conditions.rollouts, conditions.new_tokens
        if stage == "generation":
            return Work.of(rollouts, GENERATION_PROMPT, [new])
        if stage in ONLINE:
            k = 1 if stage == "ppo" else GROUP
            return Work.of(rollouts // k, round(statistics.fmean(self.prompts)), [new] * k)
        if stage == "sft":
            rows = [[prompt, chosen] for prompt, chosen, _ in self.comparisons]
        else:
            rows = [list(row) for row in self.comparisons]
        size = (
            conditions.pairs if stage == "kto" else conditions.batch_size(stage)
        )  # its labels are the two sides of a comparison
        batch = [rows[place % len(rows)] for place in range(step * size, (step + 1) * size)]
        works = [Work.of(1, prompt, [side + 1 for side in sides]) for prompt, *sides in batch]
        return Work(**{name: sum(getattr(work, name) for work in works) for name in Work.__slots__})


def make_material(
    folder: Path, source: str, sizes: Iterable[str] = tuple(SIZES), model: str = ""
) -> dict[str, Material]:
    """Write SIZE/policy, SIZE/reward_model and the rows of every stage in its field format; what they hold.

    `model` is the folder of the published model that the size `smol` stands for. Its rows are written twice: as messages in SIZE/chat, and as the
    text that its chat template makes of them, which the other side reads, so that both train on the same tokens.
    """
    records = list(load_comparisons(source, skip_bad=True).records if source else _made_up())
    for name in sizes:
        if name == GIVEN:
            tokenizer = _copy_model(folder / name, model)
            rows = [_rendered(record, tokenizer) for record in records]
        else:
            rows = [_plain(record) for record in records]
            texts = [row.prompt + side for row in rows for side in (row.chosen, row.rejected)]
            _make_models(folder / name, SIZES[name], texts)
        _write_rows(folder / name, rows)
    return {name: read_material(folder / name) for name in sizes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A comparison as text that is read as it is."""

    prompt: str
    chosen: str
    rejected: str
    messages: list[dict[str, str]] = field(default_factory=list)
    """What a chat template made the prompt of; none where there was no template."""


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


def _make_models(folder: Path, size: Size, texts: list[str]) -> None:
    """With random weights and an untied head."""
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
    _save(folder, LlamaForCausalLM(LlamaConfig(**shape)), tokenizer, "policy")
    _save(
        folder,
        LlamaForSequenceClassification(LlamaConfig(**shape | {"num_labels": 1})),
        tokenizer,
        "reward_model",
    )


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)


def _copy_model(folder: Path, source: str) -> PreTrainedTokenizerBase:
    """The model, and a reward model on its trunk with a random head; its tokenizer.

    With a padding token that no text has: where padding is the end token, a reward model of transformers reads its score before the end.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.unk_token_id in (None, tokenizer.eos_token_id):
        raise ValueError(f"the tokenizer of {source} has no unk_token beside its end token to pad with")
    tokenizer.pad_token = tokenizer.unk_token
    torch.manual_seed(SEED)
    for name, auto, more in (
        ("policy", AutoModelForCausalLM, {}),
        ("reward_model", AutoModelForSequenceClassification, {"num_labels": 1}),
    ):
        model = auto.from_pretrained(source, dtype="auto", **more)
        model.config.pad_token_id = tokenizer.pad_token_id
        if name == "policy":
            model.generation_config.pad_token_id = tokenizer.pad_token_id
        _save(folder, model, tokenizer, name)
    return tokenizer


def _write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Those that fit, for every stage."""
    conditions = conditions_of(f"dpo-{folder.name}")
    tokenizer = load_tokenizer(str(folder / "policy"))
    fitting = (row for row in rows if _fits(tokenizer, row, conditions.max_tokens))
    kept = list(islice(fitting, conditions.steps * conditions.pairs))
    short = {
        row.prompt: row for row in rows if _count(tokenizer, row.prompt) <= conditions.prompt_tokens
    }.values()
    _write_stages(folder, [(row, row.prompt) for row in kept], [row.prompt for row in short])
    if all(row.messages for row in kept):
        _write_stages(folder / CHAT, [(row, row.messages) for row in kept], [row.messages for row in short])


def _write_stages(folder: Path, comparisons: Sequence[tuple[Row, object]], prompts: Sequence[object]) -> None:
    """A file for each kind of row; of a comparison its prompt too, in the form in which it is written."""
    folder.mkdir(exist_ok=True)
    pairs = [
        {"prompt": prompt, "chosen": row.chosen, "rejected": row.rejected} for row, prompt in comparisons
    ]
    labels = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    write_rows(folder / "comparisons.jsonl", pairs)
    write_rows(
        folder / "demonstrations.jsonl",
        [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs],
    )
    write_rows(folder / "labels.jsonl", labels)
    write_rows(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in prompts])


def _count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text)["input_ids"])


def _fits(tokenizer: PreTrainedTokenizerBase, row: Row, most: int) -> bool:
    """Whether both sides fit, and the prompt's tokens do not change with what follows: then everyone cuts the text alike."""
    prompt = tokenizer(row.prompt)["input_ids"]
    for side in (row.chosen, row.rejected):
        whole = tokenizer(row.prompt + side)["input_ids"]
        if len(whole) + 1 > most or whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            return False
    return True


def _plain(record: Comparison) -> Row:
    """As text without a template."""
    content = record.prompt.content
    prompt = content if isinstance(content, str) else "".join(map(_turn, content)) + "\n\nAssistant:"
    return Row(prompt=prompt, chosen=f" {record.chosen.strip()}", rejected=f" {record.rejected.strip()}")


def _turn(message: Message) -> str:
    return f"\n\n{'Human' if message.role == 'user' else 'Assistant'}: {message.content.strip()}"


def _rendered(record: Comparison, tokenizer: PreTrainedTokenizerBase) -> Row:
    """With the model's chat template."""
    content = record.prompt.content
    turns = [Message(role="user", content=content)] if isinstance(content, str) else content
    messages = [{"role": turn.role, "content": turn.content.strip()} for turn in turns]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return Row(
        prompt=str(prompt),
        chosen=record.chosen.strip(),
        rejected=record.rejected.strip(),
        messages=messages,
    )


def _made_up() -> Iterator[Comparison]:
    """Pairs of replies of the toy world; short, so a stand-in where there is no real data."""
    demonstrations = ToyWorld(SEED).demonstrations(2000)
    for first, second in zip(demonstrations[0::2], demonstrations[1::2], strict=False):
        prompt = Prompt(content=f"{first.prompt.content}\n")
        yield Comparison(prompt=prompt, chosen=first.completion, rejected=second.completion)


def write_rows(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """A JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
