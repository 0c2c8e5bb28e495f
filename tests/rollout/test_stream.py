"""Streaming draws what the sampler draws."""

import pytest
import torch

from prefloop.configs.common import Sampling
from prefloop.errors import InputError
from prefloop.rollout import sample
from prefloop.rollout.stream import stream, stream_scored
from tests.models.tiny import PACKABLE, make

PROMPT = [1, 5, 9, 4]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, temperature=0.7, top_k=5)]
)
def test_stream_is_the_first_sample_of_the_same_key(name: str, sampling: Sampling) -> None:
    model = make(PACKABLE[name]).eval()
    stops = tuple(range(50, 60))
    [[whole]] = sample(model, [PROMPT], k=1, stop_ids=stops, sampling=sampling, seed=3, row_keys=[11])
    tokens = list(stream(model, PROMPT, stop_ids=stops, sampling=sampling, seed=3, key=11))
    assert tokens == whole.tokens
    scored = list(stream_scored(model, PROMPT, stop_ids=stops, sampling=sampling, seed=3, key=11))
    assert [token for token, _ in scored] == whole.tokens
    assert [logprob for _, logprob in scored] == pytest.approx(whole.logprobs, abs=1e-5)
    assert torch.is_inference_mode_enabled() is False


def test_the_mode_of_the_step_does_not_leak_to_who_waits() -> None:
    model = make(PACKABLE["llama"]).eval()
    tokens = stream(model, [3], stop_ids=(), sampling=Sampling(max_new_tokens=2), seed=0, key=0)
    next(tokens)
    assert not torch.is_inference_mode_enabled()
    assert len(list(tokens)) == 1


def test_a_prompt_without_room_is_refused_before_the_first_token() -> None:
    model = make(PACKABLE["llama"]).eval()
    with pytest.raises(InputError, match="the model reads at most 64"):
        next(stream(model, [3] * 60, stop_ids=(), sampling=Sampling(max_new_tokens=5), seed=0, key=0))
