"""Decoding from the weights of a Llama-like model gives what its module gives; whatever else there is, the module decodes."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from prefloop.configs.common import Compute, LoRA
from prefloop.models.load import as_policy
from prefloop.models.lora import lora_policy
from prefloop.models.roles import Policy
from prefloop.rollout import families
from prefloop.rollout.decoders import CachedDecoder, Decoder, RecomputingDecoder, make_decoder
from prefloop.rollout.families import CopiedProjection, SharedProjection, read_weights
from prefloop.rollout.fused import FusedDecoder
from prefloop.rollout.steps import Recorded, Recording
from tests.models.tiny import PACKABLE, SHAPE, VOCABULARY, make
from tests.rollout.policies import CACHED, RECOMPUTED, draw_all, llama, prompts_of, tokens_of

SLOTS, COLUMNS = 5, 24
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
WIDE = LlamaConfig(**{**SHAPE, "vocab_size": 2**13}, num_key_value_heads=4)

FUSED = {
    name: CACHED[name]
    for name in (
        "llama",
        "qwen2",
        "qwen3",
        "mistral",
        "gemma",
        "mistral, every layer",
        "qwen2, one layer",
    )
} | {
    "llama with biases, tied": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE, num_key_value_heads=4, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
        )
    ),
    "llama, yarn": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, num_key_value_heads=1, rope_parameters=dict(YARN))
    ),
    "mistral, wide heads": lambda: MistralForCausalLM(
        MistralConfig(**SHAPE, num_key_value_heads=2, head_dim=16, sliding_window=None, hidden_act="gelu")
    ),
}


def varied(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Every weight random, biases and norms too."""
    model = make(build, std=0.2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@torch.inference_mode()
def run(decoder: Decoder[Any]) -> list[Tensor]:
    """Logits of steps between fills and moves, with slots at unlike positions."""
    generator = torch.Generator().manual_seed(2)
    prompts = prompts_of((7, 1, 12, 3))
    first, second = decoder.prefill(prompts), decoder.prefill([[5], [6]])
    decoder.fill([0, 1, 2, 3, 4], first, [0, 1, 2, 3, 0])
    positions = torch.tensor([6, 0, 11, 2, 6])
    seen: list[Tensor] = []

    def step(n: int) -> None:
        tokens = torch.randint(3, VOCABULARY, (n,), generator=generator)
        seen.append(decoder.logits(tokens, positions[:n].clone(), int(positions[:n].max()) + 1).clone())
        positions[:n] += 1

    for _ in range(4):
        step(5)
    decoder.move([4], [1], 16)
    positions[1] = positions[4]
    step(4)
    decoder.fill([2], second, [1])
    positions[2] = 0
    for _ in range(3):
        step(4)
    return seen


def both(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    weights = read_weights(model, columns=COLUMNS)
    assert weights is not None
    fused = run(FusedDecoder(weights, slots=SLOTS, columns=COLUMNS))
    return fused, run(CachedDecoder(model, slots=SLOTS, columns=COLUMNS))


def assert_equal(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> None:
    assert max(float(one.std()) for one in theirs) > 0.1
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("small", [0, 2**30], ids=["shared", "copied"])
@pytest.mark.parametrize("name", FUSED)
def test_the_logits_are_the_modules(name: str, small: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(families, "_SMALL", small)
    assert_equal(*both(varied(FUSED[name])), 3e-5)


def test_large_weights_are_the_models_own():
    """A decoder holds no second copy of them."""
    model = make(lambda: LlamaForCausalLM(WIDE))
    weights = read_weights(model, columns=8)
    assert weights is not None
    assert isinstance(weights.head, SharedProjection)
    assert isinstance(weights.layers[0].qkv, CopiedProjection)
    ((held, _),) = weights.head._layers
    assert held.data_ptr() == model.lm_head.weight.data_ptr()


def test_the_cache_grows_and_shrinks_with_the_columns_in_use_and_keeps_what_it_holds():
    """A long completion ends, the others are moved together, one of them grows past where the cache was."""
    model = varied(FUSED["mistral, every layer"])
    weights = read_weights(model, columns=100)
    assert weights is not None
    fused = FusedDecoder(weights, slots=3, columns=100)
    widths: list[int] = []

    @torch.inference_mode()
    def drawn(decoder: Decoder[Any]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        prompts = prompts_of((60, 3, 8))
        decoder.fill([0, 1, 2], decoder.prefill(prompts), [0, 1, 2])
        positions = torch.tensor([59, 2, 7])
        seen: list[Tensor] = []

        def steps(count: int) -> None:
            for _ in range(count):
                tokens = torch.randint(3, VOCABULARY, positions.shape, generator=generator)
                seen.append(decoder.logits(tokens, positions.clone(), int(positions.max()) + 1).clone())
                positions.add_(1)
                widths.append(fused._pairs[0].shape[3])

        steps(6)
        decoder.move([2], [0], 13)
        positions = positions[[2, 1]]
        steps(30)
        long = decoder.prefill(prompts_of((66,)))
        decoder.fill([2], long, [0])  # no step reads it
        steps(10)
        decoder.fill([1], long, [0])
        positions[1] = 65
        steps(2)
        return seen

    ours = drawn(fused)
    assert_equal(ours, drawn(CachedDecoder(model, slots=3, columns=100)), 3e-5)
    assert widths[: len(ours)] == [64] * 5 + [80] + [16] * 3 + [32] * 16 + [48] * 16 + [64] * 5 + [80] * 2


@pytest.mark.parametrize("name", FUSED)
def test_the_logits_are_the_modules_in_float64(name: str):
    model = varied(FUSED[name]).double()
    # The module's norms compute in float32 whatever the weights are; a wrong eps, window or scale is larger than that.
    assert_equal(*both(model), 2e-6)


@pytest.mark.parametrize("small", [0, 2**30], ids=["shared", "copied"])
def test_the_logits_are_near_the_modules_in_bfloat16(small: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(families, "_SMALL", small)
    assert_equal(*both(varied(FUSED["qwen3"]).bfloat16()), 0.2)


@pytest.mark.parametrize("name", FUSED)
def test_the_families_are_decoded_from_their_weights(name: str):
    assert isinstance(make_decoder(make(FUSED[name]), slots=2, columns=8), FusedDecoder)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neox", "gemma2, eager", "gemma3"])
def test_other_architectures_are_decoded_by_their_modules(name: str):
    assert isinstance(make_decoder(make(CACHED[name]), slots=2, columns=8), CachedDecoder)


@pytest.mark.parametrize("name", RECOMPUTED)
def test_architectures_without_a_plain_cache_are_recomputed(name: str):
    with pytest.warns(UserWarning, match="recomputes all tokens"):
        assert isinstance(make_decoder(make(RECOMPUTED[name]), slots=2, columns=8), RecomputingDecoder)


def test_checkpointing_does_not_slow_the_sampler():
    """Its hook is on the embedding, which is called."""
    policy = as_policy(make(PACKABLE["llama"]), Compute(gradient_checkpointing=True))
    assert cast(Any, policy.model).model.embed_tokens._forward_hooks
    with policy.active() as model:
        assert isinstance(make_decoder(model, slots=1, columns=4), FusedDecoder)


def test_what_the_weights_do_not_tell_is_left_to_the_module():
    class Own(LlamaForCausalLM):
        pass

    class Layer(nn.Linear):
        pass

    changed = make(PACKABLE["llama"])
    changed.set_submodule("model.layers.1.mlp.up_proj", Layer(32, 48, bias=False))
    hooked = make(PACKABLE["llama"])
    hooked.get_submodule("model.layers.0").register_forward_hook(lambda *args: None)
    dynamic = LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2, rope_parameters=dict(DYNAMIC)))
    for model in (Own(LlamaConfig(**SHAPE)), changed, hooked, dynamic):
        assert read_weights(model, columns=8) is None


def adapted_of(policy: Policy, std: float) -> Policy:
    adapted, _ = lora_policy(policy, LoRA(rank=4), seed=1)
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, std)
    return adapted


@pytest.mark.parametrize("small", [0, 2**30], ids=["shared", "copied"])
def test_an_adapter_is_decoded_with_and_without(small: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(families, "_SMALL", small)
    policy = as_policy(varied(PACKABLE["qwen2"]), Compute(attention="padded"))
    before = run(CachedDecoder(policy.model, slots=SLOTS, columns=COLUMNS))
    adapted = adapted_of(policy, 0.2)
    with adapted.active() as model:
        ours, theirs = both(model)
    assert_equal(ours, theirs, 3e-5)
    assert (theirs[0] - before[0]).abs().max() > 0.1
    with adapted.frozen_copy().active() as model:
        assert_equal(both(model)[0], before, 3e-5)


@pytest.mark.parametrize("small", [0, 2**30], ids=["large", "small"])
def test_an_adapter_in_bfloat16_is_multiplied_beside_the_weight(small: int, monkeypatch: pytest.MonkeyPatch):
    """Its update is below the last bit of most weights: merged into them most of it would be lost."""
    monkeypatch.setattr(families, "_SMALL", small)
    policy = as_policy(varied(PACKABLE["qwen2"]).bfloat16(), Compute(attention="padded", dtype="bfloat16"))
    adapted = adapted_of(policy, 0.0005)
    with adapted.active() as model:
        assert_equal(*both(model), 0.2)
        layer = cast(Any, model).model.layers[0].mlp.down_proj
        x = torch.randn(500, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
        weights = read_weights(model, columns=8)
        assert weights is not None
        with torch.no_grad():
            ours, theirs, bare = weights.layers[0].down(x), layer(x), layer.get_base_layer()(x)
        merged = (layer.get_base_layer().weight + layer.get_delta_weight("policy")).bfloat16()
    assert (theirs != bare).float().mean() > 0.1
    assert (ours != theirs).float().mean() < 0.01  # another order of sums
    kept = (merged != layer.get_base_layer().weight).float().mean()
    assert kept < 0.7, kept


def test_weights_written_between_two_rounds_are_seen():
    model, prompts = llama(), prompts_of((4, 2))
    before = draw_all(model, prompts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
    after = tokens_of(draw_all(model, prompts))
    assert after != tokens_of(before)
    assert after == tokens_of(draw_all(make_again(model), prompts))


def make_again(model: PreTrainedModel) -> PreTrainedModel:
    again = make(PACKABLE["llama"]).eval()
    again.load_state_dict(model.state_dict())
    return again


def eager(step: Callable[[], Tensor]) -> Recording:
    """A recording that runs the step again instead of replaying it."""
    result = step().clone()

    def replay() -> None:
        result.copy_(step())

    return replay, result


@pytest.mark.parametrize("name", ["llama", "mistral, every layer"])
def test_steps_of_rounded_shapes_give_the_same(name: str):
    model = varied(FUSED[name])
    weights = read_weights(model, columns=COLUMNS)
    assert weights is not None
    plain, recorded = (FusedDecoder(weights, slots=SLOTS, columns=COLUMNS) for _ in range(2))
    recorded._recorded = Recorded(SLOTS, COLUMNS, torch.device("cpu"), eager)
    assert_equal(run(recorded), run(plain), 1e-5)


def test_few_shapes_are_recorded_and_each_replay_reads_its_own_input():
    shapes: list[tuple[int, int]] = []

    def step(tokens: Tensor, positions: Tensor, columns: int) -> Tensor:
        shapes.append((len(tokens), columns))
        return (10 * tokens + positions).float()[:, None]

    recorded = Recorded(12, 150, torch.device("cpu"), eager)
    for n in range(12, 0, -1):
        for columns in (1, 64, 65, 150):
            tokens, positions = torch.arange(n) + columns, torch.arange(n)
            seen = recorded(step, tokens, positions, columns)[:, 0]
            assert seen.tolist() == (11 * positions + 10 * columns).tolist()
    assert set(shapes) == {(rows, columns) for rows in (1, 2, 4, 8, 12) for columns in (64, 128, 150)}
