"""`prefloop estimate` beside published measurements, and its rules where the answer is known."""

from pathlib import Path

import pytest
from transformers import LlamaConfig, Qwen3Config

from prefloop.cli import main
from prefloop.configs.common import Compute, Data, LoRA, RunSettings
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.estimate import EstimateConfig
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.sft import SFTConfig
from prefloop.recipes.align.cost import Shape, shape_of
from prefloop.recipes.gpus import GpuEstimate, estimate

LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
QWEN3_4B = Qwen3Config(
    vocab_size=151936,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
GIB = 2**30 / 1e9
RUN, DATA = RunSettings(out="o"), Data(source="p")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shape]:
    folder = tmp_path_factory.mktemp("shapes")
    found = {}
    for name, config in (("8b", LLAMA_8B), ("4b", QWEN3_4B)):
        config.save_pretrained(folder / name)
        found[name] = shape_of(str(folder / name), Compute())
    return found


def cluster(**changes: float | str) -> EstimateConfig:
    return EstimateConfig(command=("sft",), **changes)  # pyright: ignore[reportArgumentType]


def sft(rank: int, batch: int, **compute: object) -> SFTConfig:
    settings = Compute(dtype="bfloat16", gradient_checkpointing=True, **compute)  # pyright: ignore[reportArgumentType]
    return SFTConfig(run=RUN, data=DATA, model="m", batch_size=batch, lora=LoRA(rank=rank), compute=settings)


def test_weights_are_those_of_the_published_models(shapes: dict[str, Shape]) -> None:
    assert shapes["8b"].weights == 8_030_261_248
    assert shapes["4b"].weights == 4_022_468_096


def test_rate_of_a_trainer_on_an_h100(shapes: dict[str, Shape]) -> None:
    """prime-rl, Qwen3-4B with LoRA 16 on one H100 at 16k tokens: 6,229 tokens/s at an MFU of 21.7 %."""
    one = cluster(gpus=1, prompt_tokens=1, completion_tokens=16383, mfu=0.217)
    found = estimate(sft(16, 1, micro_batch_tokens=16384), shapes["4b"], None, one)
    assert found.tokens / found.step == pytest.approx(6229, rel=0.1)


@pytest.mark.parametrize(("quantize", "gib"), [("none", 16.2), ("nf4", 7.4)])
def test_memory_of_an_8b_model_on_a_consumer_card(
    quantize: str, gib: float, shapes: dict[str, Shape]
) -> None:
    """torchtune, Llama-3.1-8B on a 4090: LoRA 16.2 GiB, QLoRA 7.4 GiB."""
    one = cluster(gpus=1, card="RTX4090", completion_tokens=256)
    found = estimate(sft(8, 2, micro_batch_tokens=1024, quantize=quantize), shapes["8b"], None, one)
    assert found.most == pytest.approx(gib * GIB, rel=0.2)


def grpo(rank: int = 0, shard: str = "none") -> GRPOConfig:
    return GRPOConfig(
        run=RUN,
        data=DATA,
        model="m",
        reward_model="r",
        batch_prompts=128,
        sampling=OnlineSampling(max_new_tokens=1024, batch_size=128),
        lora=LoRA(rank=rank),
        compute=Compute(dtype="bfloat16", gradient_checkpointing=True, shard=shard),  # pyright: ignore[reportArgumentType]
    )


def part(found: GpuEstimate, name: str) -> float:
    return found.memory.get(name, 0.0)


def test_what_sharding_divides_and_sends(shapes: dict[str, Shape]) -> None:
    shape = shapes["8b"]
    whole, full, hybrid = (
        estimate(grpo(shard=shard), shape, shape, cluster(nodes=2)) for shard in ("none", "full", "hybrid")
    )
    held = "weights, gradients, optimiser"
    assert part(whole, held) == pytest.approx(16 * shape.weights / 1e9)
    assert part(full, held) == pytest.approx(part(whole, held) / 16)
    assert part(hybrid, held) == pytest.approx(part(whole, held) / 8)
    assert part(whole, "frozen models") == pytest.approx(
        2 * 2 * shape.weights / 1e9
    )  # reference and reward model
    assert part(whole, "gathered layers") == 0 < part(full, "gathered layers")
    # One all-reduce of float32 gradients; or two gathers in bfloat16 and one reduce-scatter for each micro-batch.
    assert whole.traffic == {"between machines": pytest.approx(8 * shape.weights / 1e9)}
    micro = full.tokens / 16 / 8192
    assert full.traffic == {"between machines": pytest.approx(8 * shape.weights * micro / 1e9)}
    assert hybrid.traffic["inside machines"] == pytest.approx(full.traffic["between machines"])
    assert hybrid.traffic["between machines"] < full.traffic["between machines"] / 8
    assert {found.seconds["learn"] for found in (whole, full, hybrid)} == {whole.seconds["learn"]}


def test_adapters_save_the_optimiser_the_reference_and_a_third_of_learning(shapes: dict[str, Shape]) -> None:
    shape, one = shapes["8b"], cluster(gpus=1)
    every, adapters = (estimate(grpo(rank), shape, None, one) for rank in (0, 16))
    assert part(adapters, "frozen models") == 0
    assert part(adapters, "weights, gradients, optimiser") < 0.2 * part(
        every, "weights, gradients, optimiser"
    )
    assert adapters.seconds["learn"] == pytest.approx(
        every.seconds["learn"] * 3 / 4
    )  # with the pass that recomputes
    ppo = PPOConfig(
        **{name: getattr(grpo(16), name) for name in ("run", "data", "model", "reward_model", "sampling", "compute", "lora")},
        batch_prompts=128,
        completions_per_prompt=8,
        epochs=1,
    )  # fmt: skip
    assert estimate(ppo, shape, shape, one).seconds["learn"] == pytest.approx(2 * adapters.seconds["learn"])


def test_an_engine_takes_the_decoder_away_and_gets_the_policy(shapes: dict[str, Shape]) -> None:
    shape = shapes["8b"]
    own = estimate(grpo(shard="full"), shape, None, cluster())
    engine = estimate(grpo(shard="full"), shape, None, cluster(nodes=2, engine_gpus=4))
    assert part(own, "decoder") > 2 * shape.weights / 1e9
    assert part(engine, "decoder") == 0
    assert part(engine, "weights, gradients, optimiser") == part(own, "weights, gradients, optimiser")
    assert engine.engine_memory == pytest.approx(2 * shape.weights / 4 / 1e9)
    assert engine.seconds["send the policy to the engine"] == pytest.approx(2 * shape.weights / 1e9)
    # Each step of a decoder reads all weights; the cache it reads grows with what is drawn.
    floor = 1024 * 2 * shape.weights / (4 * 3.35e12)
    assert engine.seconds["draw completions"] > floor


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LLAMA_8B.save_pretrained(tmp_path)
    line = ["grpo", "--model", str(tmp_path), "--reward_model", "none-here", "--data", "p", "--out", "o"]
    assert main(["estimate", "--nodes", "2", "--", *line, "--compute.dtype", "bfloat16"]) == 0
    text = capsys.readouterr().out
    assert "reward_model none-here cannot be read here; it is taken to be as large as the policy" in text
    assert "LlamaForCausalLM, 8.03 billion weights, on 2 x 8 H100 (80 GB)" in text
    assert "does not fit; " in text
    assert "shard (compute.shard full)" in text
    small = ["--compute.dtype", "bfloat16", "--lora.rank", "16", "--compute.gradient_checkpointing"]
    assert main(["estimate", "--card", "H200", "--", *line, *small]) == 0
    assert "of 141: fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "pretrain", "--data", "p", "--out", "o"], "there is no estimate of Pretrain"),
        (["--engine_gpus", "1", "--", "dpo", "--model", "M", "--data", "p", "--out", "o"], "dpo draws nothing from an engine"),
        (["--", "label", "serve"], "prefloop label serve is no training"),
        (["--mfu", "1.5", "--", "dpo"], "mfu is 1.5; it must be a share"),
        ([], "command is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_estimated_is_said(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 2
    assert message in capsys.readouterr().err
