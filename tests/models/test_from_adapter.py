"""A PEFT adapter's folder is a model wherever one is named. PEFT itself says which numbers are right."""

import copy
import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.models.load import (
    critic_from_policy,
    load_critic,
    load_policy,
    load_reward_model,
    new_reward_model,
    save_policy,
    stored_reading,
)
from prefloop.models.packing import pack
from prefloop.models.quiet import quiet
from prefloop.models.roles import Reading, RewardModel, vocabulary_size
from prefloop.models.weights import weights_sha256
from prefloop.text import load_tokenizer
from tests.models.test_save_load import tokenizer
from tests.models.tiny import PACKABLE, SHAPE, VOCABULARY, make, random_groups

IDS = torch.tensor([[5, 80, 90, 20, 7, 31]])


def save_base(folder: Path, kind: str = "llama") -> str:
    make(PACKABLE[kind]).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def trained(model: PreTrainedModel, config: Any, folder: Path, *, seed: int = 7) -> PeftModel:
    """An adapter as if it had been trained: weights of its own, saved by PEFT."""
    torch.manual_seed(seed)
    with warnings.catch_warnings(action="ignore"):  # what PEFT says by itself is not what is tested
        peft = get_peft_model(model, copy.deepcopy(config))
    assert isinstance(peft, PeftModel)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    with warnings.catch_warnings(action="ignore"):
        peft.save_pretrained(str(folder))
    return peft.eval()


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    )


def of_causal(base: str, folder: Path, config: Any) -> torch.Tensor:
    """What PEFT's own model says, before it is saved and after it is loaded."""
    peft = trained(AutoModelForCausalLM.from_pretrained(base), config, folder)
    with torch.no_grad():
        return peft(input_ids=IDS[:, :]).logits


def logits_of(name: str) -> torch.Tensor:
    with torch.no_grad():
        return load_policy(name, Compute()).model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", PACKABLE)
def test_a_policy_s_adapter_is_its_base_with_the_adapter(kind: str, tmp_path: Path) -> None:  # R9
    base = save_base(tmp_path / "base", kind)
    expected = of_causal(base, tmp_path / "adapter", lora())
    policy = load_policy(str(tmp_path / "adapter"), Compute())
    group = random_groups(1, seed=3)[1]
    ids = torch.tensor([[*group.prompt, *group.completions[0]]])
    with torch.no_grad():
        torch.testing.assert_close(policy.model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
        logp = torch.log_softmax(policy.model(input_ids=ids).logits[0], -1)[len(group.prompt) - 1 : -1]
        ours = policy(pack([group]))[0]
    assert torch.allclose(ours, logp.gather(1, ids[0, len(group.prompt) :, None])[:, 0], atol=1e-4)
    assert all(parameter.requires_grad for parameter in policy.parameters())
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert (expected - plain(IDS).logits).abs().max() > 1e-2
    # What is saved is a plain model that holds all of it.
    save_policy(policy, tokenizer(), tmp_path / "saved")
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(IDS).logits, expected, rtol=1e-4, atol=1e-4)


KINDS = {
    "rslora": lora(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "dora": lora(use_dora=True),
    "bias": lora(bias="all"),
    "whole embedding": lora(modules_to_save=["embed_tokens", "lm_head"]),
    "tokens": lora(trainable_token_indices=[3, 80]),
    "head under LoRA": lora(target_modules=["q_proj", "lm_head"]),
    "ia3": IA3Config(
        task_type="CAUSAL_LM",  # pyright: ignore[reportArgumentType]
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_kind_of_adapter_gives_peft_s_logits(kind: str, tied: bool, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=tied)
    make(lambda: LlamaForCausalLM(config)).save_pretrained(tmp_path / "base")
    of_causal(str(tmp_path / "base"), tmp_path / "adapter", KINDS[kind])
    with warnings.catch_warnings(action="ignore"):
        loaded: Any = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter")
        )
    with torch.no_grad():
        expected = loaded.eval()(input_ids=IDS).logits
    torch.testing.assert_close(logits_of(str(tmp_path / "adapter")), expected, rtol=1e-4, atol=1e-4)
    save_policy(load_policy(str(tmp_path / "adapter"), Compute()), tokenizer(), tmp_path / "saved")
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_tokens_that_the_adapter_adds_are_added(tied: bool, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=tied)
    model = make(lambda: LlamaForCausalLM(config))
    model.save_pretrained(tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
    peft = trained(loaded, lora(), tmp_path / "adapter")
    if not any("embed" in key for key in load_file(tmp_path / "adapter/adapter_model.safetensors")):
        peft.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    with torch.no_grad():
        expected = peft(input_ids=torch.tensor([[5, VOCABULARY + 1, 9]])).logits
        policy = load_policy(str(tmp_path / "adapter"), Compute())
        ours = policy.model(input_ids=torch.tensor([[5, VOCABULARY + 1, 9]])).logits
    assert vocabulary_size(policy) == VOCABULARY + 3
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def seq_cls(base: str, folder: Path, **changes: Any) -> PeftModel:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    return trained(model, lora(task_type="SEQ_CLS", **changes), folder)


@pytest.mark.parametrize("kind", PACKABLE)
def test_a_reward_model_s_adapter_scores_as_peft(kind: str, tmp_path: Path) -> None:  # R9 C3
    base = save_base(tmp_path / "base", kind)
    theirs = seq_cls(base, tmp_path / "adapter")
    ours = load_reward_model(str(tmp_path / "adapter"), Compute())
    groups = random_groups(2, seed=4)
    with torch.no_grad():
        scores = ours(pack(groups))
        expected = [
            theirs(input_ids=torch.tensor([[*group.prompt, *completion]])).logits[0, 0]
            for group in groups
            for completion in group.completions
        ]
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-4, atol=1e-4)
    critic = load_critic(str(tmp_path / "adapter"), Compute())
    assert torch.equal(critic.value_head.get_parameter("weight"), ours.score_head.get_parameter("weight"))


@pytest.mark.parametrize("config", [lora(), lora(target_modules=["q_proj", "lm_head"])])
def test_a_fresh_reward_model_stands_on_the_adapted_trunk(config: LoraConfig, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    peft = trained(AutoModelForCausalLM.from_pretrained(base), config, tmp_path / "adapter")
    with torch.no_grad():
        hidden = peft(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
        fresh = new_reward_model(str(tmp_path / "adapter"), tokenizer(), Compute(), seed=3)
        theirs = fresh.model.get_decoder()(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(theirs, hidden, rtol=1e-4, atol=1e-4)
    critic = critic_from_policy(str(tmp_path / "adapter"), tokenizer(), Compute())
    assert not critic(pack(random_groups(1, seed=1))).any()


def refused(load: Any, *words: str) -> None:
    with pytest.raises(InputError) as error:
        load()
    said = str(error.value)
    assert "\n" not in said
    assert all(word in said for word in words), said


def test_an_adapter_for_another_task_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    seq_cls(base, tmp_path / "scores")
    of_causal(base, tmp_path / "writes", lora())
    refused(lambda: load_policy(str(tmp_path / "scores"), Compute()), "scores texts")
    refused(lambda: load_reward_model(str(tmp_path / "writes"), Compute()), "score.weight", "prefloop reward")


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    base = save_base(tmp_path / "base")
    of_causal(base, tmp_path / "adapter", lora(target_modules=["q_proj", "down_proj"]))
    wide = LlamaConfig(**{**SHAPE, "hidden_size": 48}, num_key_value_heads=2)
    make(lambda: LlamaForCausalLM(wide)).save_pretrained(tmp_path / "wide")
    flat = LlamaConfig(**{**SHAPE, "num_hidden_layers": 1}, num_key_value_heads=2)
    make(lambda: LlamaForCausalLM(flat)).save_pretrained(tmp_path / "flat")
    deep = LlamaConfig(**{**SHAPE, "num_hidden_layers": 3}, num_key_value_heads=2)
    make(lambda: LlamaForCausalLM(deep)).save_pretrained(tmp_path / "deep")
    save_base(tmp_path / "gpt2", "gpt2")
    for other in ("wide", "flat", "deep", "gpt2"):
        refused(
            lambda other=other: load_policy(f"{tmp_path}/adapter+{tmp_path}/{other}", Compute()),
            "does not fit its base",
            other,
        )
    refused(
        lambda: load_policy(f"{tmp_path}/adapter+{tmp_path}/nowhere", Compute()),
        "nowhere",
        "does not exist",
        "+BASE",
    )
    refused(lambda: load_policy(f"{tmp_path}/base+{tmp_path}/base", Compute()), "not an adapter")


def test_the_base_is_found_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    save_base(Path("base"))
    expected = of_causal("base", Path("runs/adapter"), lora())
    # A relative base is looked for from where the run was started: above the adapter.
    shutil.move(tmp_path / "project", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(logits_of("moved/runs/adapter"), expected, rtol=1e-4, atol=1e-4)
    shutil.move(tmp_path / "moved/base", tmp_path / "elsewhere")
    refused(lambda: load_policy("moved/runs/adapter", Compute()), "model 'base'", "+BASE")
    torch.testing.assert_close(logits_of("moved/runs/adapter+elsewhere"), expected, rtol=1e-4, atol=1e-4)
    config = Path("moved/runs/adapter/adapter_config.json")
    said = json.loads(config.read_text())
    for named in (None, str(tmp_path / "gone"), "moved/runs/adapter"):
        config.write_text(json.dumps({**said, "base_model_name_or_path": named}))
        refused(lambda: load_policy("moved/runs/adapter", Compute()), "base", "+BASE")


def test_an_adapter_on_an_adapter(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    of_causal(base, tmp_path / "first", lora())
    with quiet():
        first: Any = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "first")
        ).merge_and_unload()
    peft = trained(first, lora(r=2), tmp_path / "second", seed=8)
    with torch.no_grad():
        expected = peft(input_ids=IDS).logits
    name = f"{tmp_path}/second+{tmp_path}/first"
    torch.testing.assert_close(logits_of(name), expected, rtol=1e-4, atol=1e-4)
    assert len({weights_sha256(each) for each in (name, str(tmp_path / "first"), base)}) == 3


def test_the_hash_follows_adapter_scale_and_base(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    of_causal(base, tmp_path / "adapter", lora())
    shutil.copytree(tmp_path / "adapter", tmp_path / "copy")
    shutil.copytree(tmp_path / "base", tmp_path / "same")
    before = weights_sha256(str(tmp_path / "adapter"))
    assert weights_sha256(f"{tmp_path}/copy+{tmp_path}/same") == before
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 9}))
    assert weights_sha256(str(tmp_path / "adapter")) != before
    make(PACKABLE["llama"], seed=4).save_pretrained(tmp_path / "same")
    assert weights_sha256(f"{tmp_path}/copy+{tmp_path}/same") != before


def test_an_adapter_s_own_tokenizer_comes_first(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    of_causal(base, tmp_path / "adapter", lora())
    assert load_tokenizer(tmp_path / "adapter").pad_token == "<pad>"
    own = tokenizer(pad="<eos>")
    own.save_pretrained(tmp_path / "adapter")
    assert load_tokenizer(tmp_path / "adapter").pad_token == "<eos>"


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)  # pyright: ignore[reportArgumentType]
    trained(AutoModelForCausalLM.from_pretrained(base), config, tmp_path / "prompt")
    refused(lambda: load_policy(str(tmp_path / "prompt"), Compute()), "PROMPT_TUNING", "LoRA")
    of_causal(base, tmp_path / "adapter", lora())
    shutil.copy(tmp_path / "base/model.safetensors", tmp_path / "adapter")
    refused(lambda: load_policy(str(tmp_path / "adapter"), Compute()), "whole model", "adapter")


def test_settings_that_peft_does_not_know_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = save_base(tmp_path / "base")
    of_causal(base, tmp_path / "adapter", lora())
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "of_the_future": 1}))
    with caplog.at_level(logging.WARNING, logger="prefloop"):
        load_policy(str(tmp_path / "adapter"), Compute())
    assert "of_the_future" in caplog.text


@pytest.mark.parametrize(
    "part", ["cut", "empty", "no file", "pickled", "config", "list", "kind", "keys", "nan"]
)
def test_a_damaged_adapter_is_one_line_with_the_file(part: str, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    of_causal(base, tmp_path / "adapter", lora())
    weights, config = (
        tmp_path / "adapter" / name for name in ("adapter_model.safetensors", "adapter_config.json")
    )
    said, word = json.loads(config.read_text()), weights.name
    tensors = load_file(weights)
    match part:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-40])
        case "empty":
            weights.write_bytes(b"")
        case "no file":
            weights.unlink()
        case "pickled":
            weights.rename(tmp_path / "adapter/adapter_model.bin")
            word = "safe_serialization"
        case "config":
            config.write_text(config.read_text()[:-9])
            word = config.name
        case "list":
            config.write_text("[1]")
            word = config.name
        case "kind":
            config.write_text(json.dumps({**said, "peft_type": "MAGIC"}))
            word = "MAGIC"
        case "keys":
            save_file({key: tensors[key] for key in list(tensors)[1:]}, weights)
            word = "lacks"
        case _:
            tensors[next(iter(tensors))][0, 0] = torch.nan
            save_file(tensors, weights)
    refused(lambda: load_policy(str(tmp_path / "adapter"), Compute()), word)


def test_readings_of_an_adapter_without_any_are_the_plain_ones(tmp_path: Path) -> None:
    seq_cls(save_base(tmp_path / "base"), tmp_path / "adapter")
    assert stored_reading(str(tmp_path / "adapter")) == Reading()
    loaded: RewardModel = load_reward_model(str(tmp_path / "adapter"), Compute())
    assert loaded.reading == Reading()
