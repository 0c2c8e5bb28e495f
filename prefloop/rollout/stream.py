"""One completion, token by token as it is drawn, for somebody who is waiting. `sampler.sample` draws many at once."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from prefloop.configs.common import Sampling
from prefloop.rollout.decoders import decoder_reads, make_decoder
from prefloop.rollout.draw import draw, row_uniforms
from prefloop.rollout.sampler import check_prompts


def stream(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int],
    sampling: Sampling,
    seed: int,
    key: int,
) -> Iterator[int]:
    """The tokens that `sample` draws for this seed and row key, the stop token included, each as soon as it is known.

    `model` is a causal language model in evaluation mode whose attention takes an ordinary mask (loaded with `attention="padded"`).
    Raises `InputError`, before the first token, for a prompt that the model cannot read or has no room to answer.
    """
    scored = stream_scored(model, prompt, stop_ids=stop_ids, sampling=sampling, seed=seed, key=key)
    yield from (token for token, _ in scored)


def stream_scored(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int],
    sampling: Sampling,
    seed: int,
    key: int,
) -> Iterator[tuple[int, float]]:
    """`stream`, each token with its log-probability, as `sample` gives it."""
    check_prompts(model, [prompt], sampling.max_new_tokens)
    device = next(model.parameters()).device
    reads = decoder_reads(model, prompt)
    limit, length = sampling.max_new_tokens, len(reads)
    uniforms = torch.from_numpy(row_uniforms(seed=seed, key=key, sample=0, count=limit)).to(device)
    decoder = make_decoder(model, slots=1, columns=length + limit - 1, longest=len(prompt))
    with torch.inference_mode():
        decoder.fill([0], decoder.prefill([prompt]), [0])
    token = reads[-1]
    for drawn in range(limit):
        # Within each step, and not around the loop: the mode would hold for whoever waits for the next token too.
        with torch.inference_mode():
            logits = decoder.logits(
                torch.tensor([token], device=device),
                torch.tensor([length - 1 + drawn], device=device),
                length + drawn,
            )
            new = draw(
                logits,
                uniforms[drawn : drawn + 1],
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
            )
            token = int(new.tokens.item())
        yield token, float(new.logprobs.item())
        if token in stop_ids:
            return
