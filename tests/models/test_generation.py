"""Saved models say how they stop: transformers alone generates with them, and ends where training taught it to."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from prefloop.configs.common import Compute, LoRA, Sampling
from prefloop.errors import InputError
from prefloop.models.generation import say_what_is_not_taken, settle
from prefloop.models.load import load_policy, new_reward_model, save_classifier, save_policy
from prefloop.models.lora import lora_policy, lora_reward_model, save_merged
from prefloop.text import load_tokenizer, stop_token_ids
from tests.text.kinds import build, token_id

CPU = Compute(device="cpu", dtype="float32")


def _base(folder: Path, kind: str = "added chatml", **generation: Any) -> Path:
    """A base whose files name the tokenizer's end token, as Qwen's do, while its template ends turns with another."""
    tokenizer = build(kind)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, tokenizer.eos_token),
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    values = {"eos_token_id": tokenizer.eos_token_id, **generation}
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def _save(way: str, base: Path, out: Path) -> None:
    tokenizer = load_tokenizer(base)
    if way.startswith("reward"):
        model = new_reward_model(str(base), tokenizer, CPU, seed=0)
        if way == "reward":
            save_classifier(model, tokenizer, out)
        else:
            save_merged(*lora_reward_model(model, LoRA(rank=2), seed=0), tokenizer, out)
        return
    policy = load_policy(str(base), CPU)
    if way == "merged":
        save_merged(*lora_policy(policy, LoRA(rank=2), seed=0), tokenizer, out)
    else:
        save_policy(policy, tokenizer, out)


@pytest.mark.parametrize("way", ["policy", "merged", "reward", "reward merged"])
def test_saved_files_name_every_stop_token(way: str, tmp_path: Path) -> None:  # M17
    base = _base(tmp_path / "base")
    _save(way, base, tmp_path / "out")
    tokenizer = build("added chatml")
    stops = [token_id(tokenizer, "<|endoftext|>"), token_id(tokenizer, "<|im_end|>")]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == stops
    assert list(stop_token_ids(load_tokenizer(tmp_path / "out"))) == stops
    if not way.startswith("reward"):
        saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
        assert saved["eos_token_id"] == stops


def test_transformers_stops_where_the_turn_ends(tmp_path: Path) -> None:  # M17
    """The weights are made to say the end of turn after anything: only the files decide whether generation ends."""
    base = _base(tmp_path / "base")
    tokenizer = build("added chatml")
    end_of_turn = token_id(tokenizer, "<|im_end|>")
    policy = load_policy(str(base), CPU)
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()
        policy.model.lm_head.weight[end_of_turn] = 1.0
        policy.model.model.norm.weight.fill_(1.0)
        policy.model.model.embed_tokens.weight.fill_(1.0)
    save_policy(policy, load_tokenizer(base), tmp_path / "final")
    ids = torch.tensor([[5, 6, 7]])
    for folder, drawn in ((tmp_path / "final", 1), (base, 0)):
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        if drawn:
            out = model.generate(ids, max_new_tokens=9, do_sample=False)
            assert out[0, 3:].tolist() == [end_of_turn]
        else:
            assert model.generation_config.eos_token_id != end_of_turn


def test_one_stop_token_is_written_as_a_number(tmp_path: Path) -> None:
    base = _base(tmp_path / "base", "qwen chatml")
    _save("policy", base, tmp_path / "out")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["eos_token_id"] == token_id(
            build("qwen chatml"), "<|im_end|>"
        )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        ),
        ({"temperature": 0.6, "top_p": 0.9}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": False, "temperature": 0.9}, {"do_sample": True, "temperature": 0.9}),
        ({"temperature": 0.0, "top_p": 0.5}, {"do_sample": False}),
        ({"length_penalty": 2.0, "early_stopping": True, "max_new_tokens": 7}, {"max_new_tokens": 7}),
        ({"num_beams": 2, "length_penalty": 2.0}, {"num_beams": 2, "length_penalty": 2.0}),
        ({"output_scores": True, "use_cache": False, "cache_implementation": "static"}, {"use_cache": False}),
        ({"pad_token_id": -1}, {}),
    ],
)
def test_the_bases_other_settings_survive_and_can_be_saved(
    given: dict[str, Any], kept: dict[str, Any], tmp_path: Path
) -> None:  # M17
    base = _base(tmp_path / "base", **given)
    _save("policy", base, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    beside = ("eos_token_id", "bos_token_id", "pad_token_id", "transformers_version", "_from_model_config")
    found = {key: value for key, value in saved.items() if key not in beside and value is not None}
    found.setdefault("do_sample", False)
    assert found == {"do_sample": False, **kept}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    again.save_pretrained(tmp_path / "again")
    again.generation_config.validate(strict=True)


def test_what_cannot_be_settled_is_an_error_before_training() -> None:
    broken = GenerationConfig()
    broken.num_return_sequences = 3
    with pytest.raises(
        InputError, match=r"generation_config.json of 'base' cannot be saved.*num_return_sequences"
    ):
        settle(broken, "base")


def test_sampling_says_which_settings_of_the_model_it_does_not_take(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = _base(tmp_path / "base", do_sample=True, temperature=0.7, top_k=20, repetition_penalty=1.05)
    policy = load_policy(str(base), CPU)
    with caplog.at_level(logging.WARNING):
        say_what_is_not_taken(policy.model, Sampling())
    assert "samples with temperature 1, top_k 0, not with the model's own settings" in caplog.text
    assert (
        "--sampling.temperature 0.7 --sampling.top_k 20; it does not know repetition_penalty = 1.05"
        in caplog.text
    )
    caplog.clear()
    plain = load_policy(str(_base(tmp_path / "plain", do_sample=True, temperature=0.7)), CPU)
    say_what_is_not_taken(plain.model, Sampling(temperature=0.7))
    assert caplog.text == ""
