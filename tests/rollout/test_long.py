"""Right answers at 8,192 positions: training's log-probabilities and the sampler's tokens against transformers' own forward pass."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from prefloop.configs.common import Compute
from prefloop.models.load import as_policy
from prefloop.models.packing import pack
from prefloop.text.groups import Group
from tests.models.tiny import VOCABULARY, make
from tests.rollout.policies import draw_all

LONG = 8192
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": LONG,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
MODELS = {
    "llama 3's rotary embedding": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters=dict(LLAMA3))
    ),
    "mistral's window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=1024)),
}
NEW = 6


def attentive(name: str) -> PreTrainedModel:
    """Sharp attention, so that a position that is off by one shows."""
    model = make(MODELS[name], std=0.3).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(4 if "q_proj" in key or "k_proj" in key else 1)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_the_last_of_8192_positions(name: str) -> None:
    model = attentive(name)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, VOCABULARY, (LONG - NEW,), generator=generator).tolist()
    ids = torch.tensor([prompt])
    with torch.no_grad():
        wanted = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()  # pyright: ignore[reportCallIssue, reportArgumentType]
        whole = model(input_ids=torch.tensor([prompt + wanted]), use_cache=False).logits[0]
    assert len(set(wanted)) > 2
    ((drawn,),) = draw_all(model, [prompt], max_new_tokens=NEW, temperature=0.0)
    assert drawn.tokens == wanted

    logp = torch.log_softmax(whole[len(prompt) - 1 : -1].float(), -1)
    theirs = logp.gather(1, torch.tensor(wanted)[:, None]).squeeze(1)
    policy = as_policy(model, Compute(device="cpu"))
    assert policy.way == ("padded" if "window" in name else "fused")
    other = [*wanted[1:], 3]
    batch = pack(
        [Group(prompt=prompt, completions=(other, wanted), masks=([True] * NEW,) * 2)], policy.device
    )
    with torch.no_grad():
        torch.testing.assert_close(policy(batch)[1], theirs, rtol=1e-4, atol=1e-4)
