"""Models with an encoder are refused in one line wherever a model is named. Of BART, transformers would load half, without a word."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from prefloop.algorithms import sft
from prefloop.configs.common import Compute, Data, RunSettings
from prefloop.configs.sft import SFTConfig
from prefloop.errors import InputError
from prefloop.models.load import load_config, load_policy, load_reward_model, new_reward_model
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import World
from tests.tiny_project import make_demonstrations, tokenizer

CPU = Compute(device="cpu")
SAID = r"model '.*' is a (t5|bart), an encoder-decoder model, and prefloop runs decoder-only models; name a causal"
MODELS: dict[str, Callable[[], Any]] = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            vocab_size=300,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            max_position_embeddings=64,
        )
    ),
}


def train_on(name: str) -> None:
    folder = Path(name).parent
    sft.train(
        SFTConfig(
            run=RunSettings(out=str(folder / "run")),
            data=Data(source=str(make_demonstrations(folder / "demonstrations.jsonl")), heldout=0.0),
            model=name,
            compute=CPU,
        )
    )


WAYS: dict[str, Callable[[str], Any]] = {
    "policy": lambda name: load_policy(name, CPU),
    "reward model": lambda name: load_reward_model(name, CPU),
    "new reward model": lambda name: new_reward_model(name, tokenizer(), CPU, seed=0),
    "configuration": lambda name: load_config(name, CPU),
    "scorer": lambda name: EnsembleScorer.load(name, CPU, World(rank=0, size=1, device=torch.device("cpu"))),
    "stage": train_on,
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    MODELS[request.param]().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("way", WAYS)
def test_an_encoder_is_refused(way: str, folder: str) -> None:
    with pytest.raises(InputError, match=SAID):
        WAYS[way](folder)
