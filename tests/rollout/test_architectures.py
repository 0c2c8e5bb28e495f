"""Every architecture: the same tokens as transformers' own generation, and the same log-probabilities as one plain forward pass."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from prefloop.errors import InputError
from prefloop.rollout import decoders
from tests.models.tiny import PACKABLE, VOCABULARY, make
from tests.rollout.policies import CACHED, RECOMPUTED, draw_all, full_forward_logprobs, prompts_of, tokens_of

NEW = 8
STOP = (5, 6, 7)


def varied(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Random weights with which greedy decoding does not fall into repeating one token: biases and norms random too, large positions."""
    model = make(build, std=0.4).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "A_log" not in name and "dt_proj" not in name:
                parameter.copy_(0.8 + 0.3 * torch.randn(parameter.shape, generator=generator))
            if "wpe" in name or "embed_positions" in name:
                parameter.mul_(5)
    return model


def generated(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """What `generate` decodes greedily for one prompt alone, cut after the first stop token."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=list(STOP),
        pad_token_id=0,
    )  # pyright: ignore[reportCallIssue, reportArgumentType]
    return output[0, len(prompt) :].tolist()


@pytest.fixture(params=["fused", "module"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Llama-like models decoded from their weights, and by their own modules as the other architectures are."""
    if request.param == "module":
        monkeypatch.setattr(decoders, "read_weights", lambda *args, **kwargs: None)
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", CACHED)
def test_greedy_equals_generate_for_ragged_prompts(name: str):
    model, prompts = varied(CACHED[name]), prompts_of()
    wanted = [[generated(model, prompt)] for prompt in prompts]
    assert len({token for group in wanted for token in group[0]}) > 2
    for batch_size in (3, 64):
        drawn = draw_all(
            model, prompts, stop_ids=STOP, max_new_tokens=NEW, temperature=0, batch_size=batch_size
        )
        assert tokens_of(drawn) == wanted


@pytest.mark.parametrize("name", RECOMPUTED)
def test_greedy_equals_generate_without_a_plain_cache(name: str):
    model, prompts = varied(RECOMPUTED[name]), prompts_of((7, 1, 4, 2))
    wanted = [[generated(model, prompt)] for prompt in prompts]
    with pytest.warns(UserWarning, match=type(model).__name__):
        drawn = draw_all(model, prompts, stop_ids=STOP, max_new_tokens=NEW, temperature=0, batch_size=2)
    assert tokens_of(drawn) == wanted


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", CACHED)
def test_logprobs_equal_those_of_a_full_forward_pass(name: str):  # K1
    model, prompts = make(CACHED[name], std=0.2).eval(), prompts_of((7, 1, 12, 3))
    drawn = draw_all(model, prompts, k=3, stop_ids=STOP, temperature=0.7, batch_size=5)
    for prompt, group in zip(prompts, drawn, strict=True):
        for one in group:
            wanted = full_forward_logprobs(model, prompt, one.tokens, 0.7)
            assert one.logprobs == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_positions_end_where_the_model_says(name: str):
    model = make(PACKABLE[name]).eval()
    prompt = prompts_of((54,))[0]
    assert len(draw_all(model, [prompt], max_new_tokens=10)[0][0].tokens) == 10
    message = "prompt 1 has 54 tokens and sampling.max_new_tokens is 11, which needs 65 positions; the model reads at most 64"
    with pytest.raises(InputError, match=message):
        draw_all(model, [[3], prompt], max_new_tokens=11)


def test_grouped_heads_and_eager_attention_give_the_same():
    model, prompts = make(PACKABLE["llama"]).eval(), prompts_of((6, 2, 9))
    fast = draw_all(model, prompts, k=2)
    model.set_attn_implementation("eager")
    assert tokens_of(draw_all(model, prompts, k=2)) == tokens_of(fast)
    assert model.config._attn_implementation == "eager"


@pytest.mark.usefixtures("way")
def test_bfloat16_model_decodes_with_its_own_dtype():
    model = make(PACKABLE["llama"]).eval().bfloat16()
    drawn = draw_all(model, prompts_of((6, 2)), k=2, max_new_tokens=4)
    assert all(0 <= token < VOCABULARY for group in drawn for one in group for token in one.tokens)
    # bfloat16 keeps 8 bits: logits of about 5 are good to 0.02 or so.
    wanted = full_forward_logprobs(model, prompts_of((6, 2))[0], drawn[0][0].tokens, 1.0)
    assert drawn[0][0].logprobs == pytest.approx(wanted, abs=0.2)
