"""Pretraining learns text from nothing, and goes on from a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.configs.pretrain import Architecture, PretrainConfig
from prefloop.models.load import load_policy
from tests.algorithms.small import write
from tests.algorithms.tiny import CPU, WORDS, logged

SIZE = Architecture(hidden_size=16, layers=1, heads=2, ffn_size=24, vocab_size=310, max_positions=64)


def config(out: Path, **changes: Any) -> PretrainConfig:
    source = out.with_suffix(".jsonl")
    write(source, [{"text": f"the {word} is a {word}, they say. " * 2} for word in WORDS[:48]])
    basic = PretrainConfig(
        run=RunSettings(out=str(out)),
        data=Data(source=str(source), heldout=0.2),
        architecture=SIZE,
        block_tokens=32,
        batch_blocks=12,
        epochs=18,
        eval_every=20,
        optim=Optim(lr=2e-2, schedule="cosine", warmup=0.1),
        compute=CPU,
    )
    return replace(basic, **changes)


def test_perplexity_of_heldout_documents_falls(tmp_path: Path) -> None:
    rows = logged(config(tmp_path / "pretrain"))
    assert rows[0]["loss"] > 5  # about the logarithm of 310
    assert rows[-1]["heldout_perplexity"] < 10
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "pretrain/final", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pretrain/final")
    assert model.config.vocab_size == len(tokenizer) <= SIZE.vocab_size
    assert model.config.num_hidden_layers == SIZE.layers


def test_it_goes_on_from_a_model_with_the_models_tokenizer(tmp_path: Path) -> None:
    first = config(tmp_path / "first", epochs=4)
    before = logged(first)[-1]
    second = config(tmp_path / "second", model=str(tmp_path / "first/final"), epochs=2)
    after = logged(second)
    assert after[0]["loss"] < before["loss"] + 0.3  # it begins where the first ended, not at nothing
    assert after[-1]["heldout_loss"] < before["heldout_loss"]
    vocabularies = [
        AutoTokenizer.from_pretrained(tmp_path / name / "final").get_vocab() for name in ("first", "second")
    ]
    assert vocabularies[0] == vocabularies[1]


def test_architecture_is_what_the_settings_say(tmp_path: Path) -> None:  # K7
    sizes = Architecture(
        hidden_size=24, layers=2, heads=3, ffn_size=40, vocab_size=300, max_positions=48, tie_embeddings=False
    )
    logged(config(tmp_path / "pretrain", architecture=sizes, max_steps=1))
    made: Any = load_policy(str(tmp_path / "pretrain/final"), CPU).model.config
    assert (made.hidden_size, made.num_hidden_layers, made.num_attention_heads) == (24, 2, 3)
    assert (made.intermediate_size, made.max_position_embeddings, made.tie_word_embeddings) == (40, 48, False)
    assert made.vocab_size <= 300
