"""Weights in 4 and 8 bits: the same numbers as the model that they stand for, in every stage that trains an adapter, and in what is saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from prefloop.configs.common import Compute, LoRA, Optim
from prefloop.errors import InputError
from prefloop.models.generation import save_model
from prefloop.models.load import load_policy, load_reward_model, new_language_model
from prefloop.models.lora import lora_policy, save_merged
from prefloop.models.packing import pack
from prefloop.models.quantize import Int8Linear, plain_weights, quantisation_of
from tests.algorithms.small import assert_close, assert_same, resumed, settings, train
from tests.models.tiny import PACKABLE, SHAPE, VOCABULARY, make, random_groups
from tests.rollout.policies import draw_all, prompts_of, tokens_of
from tests.tiny_project import SIZE, tokenizer

pytest.importorskip("bitsandbytes")

PLAIN = Compute(device="cpu")
NF4 = Compute(device="cpu", quantize="nf4")
INT8 = Compute(device="cpu", quantize="int8")
KINDS = {"nf4": NF4, "int8": INT8}
PACKED = Compute(device="cpu", attention="packed")


WIDE = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SHAPE, "hidden_size": 64, "intermediate_size": 128}, num_key_value_heads=2)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(  # with biases
        Qwen2Config(**{**SHAPE, "hidden_size": 64, "intermediate_size": 128}, num_key_value_heads=2)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    ),
}
"""Blocks are of 64 numbers, so rows are too."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose tokens are the project's."""
    folder = tmp_path_factory.mktemp("wide")
    policy = new_language_model(replace(SIZE, hidden_size=64, ffn_size=64), tokenizer(), PLAIN, seed=0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            parameter.mul_(5 if "_proj" in name else 1)
    save_model(policy.model, tokenizer(), folder / "start")
    return str(folder / "start")


@pytest.fixture(scope="module")
def plain_start(start: str) -> str:
    """The model that the 4 bits stand for, as a plain one."""
    return unpacked(start, "nf4")


def unpacked(start: str, kind: str) -> str:
    """The folder of the plain model that a quantised one stands for."""
    policy, folder = load_policy(start, KINDS[kind]), Path(start).parent / f"unpacked-{kind}"
    if not folder.exists():
        save_model(policy.model, tokenizer(), folder, plain_weights(policy.model, torch.float32))
    return str(folder)


def test_weights_are_rounded_and_no_more(start: str, plain_start: str) -> None:
    """Neighbours of NF4 lie at most 0.31 of a block's largest number apart (QLoRA, appendix E); of normal weights 9 % of the norm is lost."""
    given, rounded = (
        AutoModelForCausalLM.from_pretrained(name).state_dict() for name in (start, plain_start)
    )
    changed = {name for name in given if not torch.equal(given[name], rounded[name])}
    assert changed == {name for name in given if "_proj.weight" in name}
    for name in changed:
        wrong = (given[name] - rounded[name]).flatten()
        largest = given[name].flatten().view(-1, 64).abs().amax(1).repeat_interleave(64)
        assert (wrong.abs() <= 0.153 * largest).all(), name
        assert wrong.norm() < 0.1 * given[name].norm(), name


def test_eight_bits_are_the_nearest_of_a_rows_255(start: str) -> None:
    """bitsandbytes reads the numbers as float16 first, which moves the largest by a sixteenth of a step."""
    given, rounded = (
        AutoModelForCausalLM.from_pretrained(name).state_dict() for name in (start, unpacked(start, "int8"))
    )
    changed = {name for name in given if not torch.equal(given[name], rounded[name])}
    assert changed == {name for name in given if "_proj.weight" in name}
    for name in changed:
        step = given[name].abs().amax(1, keepdim=True) / 127
        assert ((given[name] - rounded[name]).abs() <= 0.5625 * step).all(), name


def test_the_way_back_through_eight_bits_keeps_no_unpacked_weights(start: str) -> None:
    layer = next(m for m in load_policy(start, INT8).model.modules() if isinstance(m, Int8Linear))
    kept: list[torch.dtype] = []
    x = torch.randn(3, layer.in_features, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        out = layer(x)
    assert kept == [torch.int8, torch.float32]  # the weights and their scales
    wanted = torch.nn.functional.linear(x, layer.unpacked(torch.float32), layer.bias)
    torch.testing.assert_close(out, wanted)
    (got,) = torch.autograd.grad(out.square().sum(), x)
    (right,) = torch.autograd.grad(wanted.square().sum(), x)
    torch.testing.assert_close(got, right)


STAGES = ["sft_lora", "dpo_lora", "reward_lora", "ppo_lora_shared", "rloo_lora"]


@pytest.mark.parametrize(
    ("stage", "kind"), [*((stage, "nf4") for stage in STAGES), ("dpo_lora", "int8"), ("rloo_lora", "int8")]
)
def test_a_stage_trains_as_on_the_plain_model(
    stage: str, kind: Any, project: Path, tmp_path: Path, start: str
) -> None:
    plain_start = unpacked(start, kind)
    ours = settings(stage, project, out=str(tmp_path / "ours"), compute=replace(PACKED, quantize=kind))
    ours = replace(ours, model=start)
    if hasattr(ours, "reward_model"):
        ours = replace(ours, reward_model=__name__ + ":short")
    theirs = settings(stage, project, out=str(tmp_path / "theirs"), compute=PACKED)
    theirs = replace(ours, run=theirs.run, model=plain_start, compute=PACKED)
    if stage == "dpo_lora":
        ours, theirs = (
            replace(each, reference_cache=str(tmp_path / name)) for each, name in ((ours, "a"), (theirs, "b"))
        )
    train(ours)
    train(theirs)
    assert_close(tmp_path / "ours", tmp_path / "theirs", tolerance=1e-4)


def short(prompts: Any, completions: Any) -> list[float]:
    return [-float(len(text)) for text in completions]


def test_a_resumed_run_is_the_whole_run(project: Path, tmp_path: Path, start: str) -> None:
    whole, part = (
        replace(
            settings("sft_lora", project, out=str(tmp_path / out), compute=replace(PACKED, quantize="nf4")),
            model=start,
            optim=Optim(lr=3e-3, schedule="constant"),
        )
        for out in ("whole", "part")
    )
    train(whole)
    train(replace(part, max_steps=2))
    with pytest.raises(InputError, match=r"compute\.quantize: 'nf4' -> 'none'"):
        train(resumed(replace(part, compute=PACKED)))
    train(resumed(part))
    assert_same(tmp_path / "part", tmp_path / "whole")


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "ppo", "grpo"])
def test_quantised_weights_are_not_trained(stage: str, project: Path, tmp_path: Path, start: str) -> None:
    kind = "int8" if stage == "dpo" else "nf4"
    config = settings(stage, project, out=str(tmp_path / "run"), compute=replace(PACKED, quantize=kind))
    with pytest.raises(InputError, match=r"quantised weights cannot be trained; train an adapter on them"):
        train(replace(config, model=start))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WIDE)
def test_what_is_saved_is_what_was_trained(name: str, kind: str, tmp_path: Path) -> None:
    """The merged model and the adapter beside its base quantised give what the trained policy gave; so does the sampler."""
    save_model(make(WIDE[name], std=0.4), tokenizer(), tmp_path / "base")
    packed = KINDS[kind]
    policy = load_policy(str(tmp_path / "base"), packed)
    assert quantisation_of(policy.model) == kind
    adapted, peft = lora_policy(policy, LoRA(rank=2, alpha=8.0), seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    batch = pack(random_groups(2, seed=0), policy.device)
    with torch.no_grad():
        wanted, before = adapted(batch), load_policy(str(tmp_path / "base"), packed)(batch)
        assert (wanted - before).abs().max() > 0.01
        save_merged(adapted, peft, tokenizer(), tmp_path / "out")
        for found in (
            load_policy(str(tmp_path / "out"), PLAIN),
            load_policy(str(tmp_path / "out" / "adapter"), packed),
        ):
            torch.testing.assert_close(found(batch), wanted, rtol=1e-4, atol=1e-4)
    merged = load_policy(str(tmp_path / "out"), PLAIN)
    assert not hasattr(merged.model.config, "quantization_config")
    with adapted.active() as model:
        drawn = tokens_of(draw_all(model, prompts_of()[:3]))
    assert drawn == tokens_of(draw_all(merged.model, prompts_of()[:3]))


def test_what_cannot_be_is_refused(
    start: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = settings("sft_lora", project, out=str(tmp_path / "sft"), compute=replace(PACKED, quantize="nf4"))
    train(replace(first, model=start))
    adapter = str(tmp_path / "sft/final/adapter")
    again = settings(
        "sft_lora", project, out=str(tmp_path / "again"), compute=replace(PACKED, quantize="nf4")
    )
    with pytest.raises(InputError, match=r"Under a new one it would have to be merged and rounded again"):
        train(replace(again, model=adapter))
    train(replace(again, model=adapter, lora=LoRA(adapter="train")))
    scorer = settings("reward_lora", project, out=str(tmp_path / "scorer"), compute=PACKED)
    train(replace(scorer, model=start, max_steps=1))
    with pytest.raises(InputError, match=r"is an adapter with a score head; name the merged model"):
        load_reward_model(str(tmp_path / "scorer/final/adapter"), NF4)
    with pytest.raises(InputError, match=r"compute\.quantize is nf4, but TRPO moves all weights"):
        settings("trpo", project, out="never", compute=NF4)
    monkeypatch.setattr("prefloop.models.quantize.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs the package bitsandbytes: pip install 'prefloop\[quantize\]'"
    ):
        load_policy(start, NF4)


def test_rows_that_are_unpacked_wrongly_are_refused(tmp_path: Path) -> None:
    save_model(make(PACKABLE["llama"]), tokenizer(), tmp_path / "narrow")
    with pytest.raises(
        InputError, match=r"q_proj has 32 inputs, not a multiple of 64, which bitsandbytes gets wrong"
    ):
        load_policy(str(tmp_path / "narrow"), NF4)
