"""Drawing the next token: inverse-CDF sampling from logits with one uniform number a row, and the streams those numbers come from.

`torch.multinomial` draws V exponentials a row one after another on CPU (about 80 us a row at a vocabulary of 4,096); one uniform number
and a search for it in the cumulated probabilities gives the same distribution. The search has two levels, blocks of tokens and then one
block, so that only a few hundred numbers a row are cumulated, and those in float64: a float32 sum over 50,000 tokens loses the small ones.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from prefloop.errors import InputError

_NUCLEUS = 1024
"""Tokens among which top-p first looks for its set."""

_BLOCK = 256
"""Tokens a block: the square root of a large vocabulary, so that both searches are short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnTokens:
    """One token for every row, and what the model thought of it."""

    tokens: Int64[Tensor, " B"]
    """Token ids."""
    logprobs: Float[Tensor, " B"]
    """Float32 log-probability of the token among *all* tokens, at the temperature (at 1 if the temperature is 0). Top-k and top-p
    choose what can be drawn but do not enter here, so a later full forward pass gives the same number."""


def row_uniforms(*, seed: int, key: int, sample: int, count: int) -> NDArray[np.float64]:
    """The uniform numbers in [0, 1) of one completion, [count], a function of the four arguments alone.

    A counter-based generator (Philox, doi:10.1145/2063384.2063405) is keyed by `seed` and the prompt's `key`; every `sample` of a prompt starts in
    its own part of the counter, 2**64 blocks away from the next. So what is drawn does not depend on the batch a completion is in, on which
    others finished before, or on how many processes share the work, and no two completions share numbers. Each is below 2**64.
    """
    generator = np.random.Philox(
        key=np.array([seed, key], dtype=np.uint64), counter=np.array([0, sample, 0, 0], dtype=np.uint64)
    )
    return np.random.Generator(generator).random(count)


def draw(
    logits: Float[Tensor, "B V"],
    uniforms: Float[Tensor, " B"],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
) -> DrawnTokens:
    """One token a row from softmax(logits / temperature), cut to the top-k and then the top-p tokens if asked, and renormalised.

    `uniforms` are float64 in [0, 1). A temperature of 0 takes the most probable token. Top-k keeps exactly k tokens; top-p keeps the smallest
    set of what top-k left that has at least this share of its probability. Of equally probable tokens at the border those with lower ids stay.
    A token of probability 0 is never drawn. Raises `InputError` if a row's logits are NaN or infinite.
    """
    logits = logits.float()
    if temperature not in (0.0, 1.0):
        # The largest is taken off first: a small temperature then sends the others to -inf, never any to +inf.
        logits = (logits - logits.amax(-1, keepdim=True)).div_(temperature)
    probabilities = torch.softmax(logits, dim=-1)
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        keep = support(logits, top_k=top_k, top_p=top_p)
        weights = probabilities if keep is None else probabilities * keep
        tokens = inverse_cdf(weights, uniforms)
    logprobs = probabilities.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).log()
    # One operation a step: a sum of finite logarithms is finite, that of others never is.
    if not math.isfinite(logprobs.sum().item()):
        bad = int((~torch.isfinite(logprobs)).sum())
        raise InputError(
            f"the model's logits are NaN or infinite in {bad} of {len(logprobs)} rows; its weights are unusable: use an earlier checkpoint"
        )
    return DrawnTokens(tokens=tokens, logprobs=logprobs)


def inverse_cdf(weights: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """The token in whose part of [0, sum of weights) `uniforms * sum` falls; weights are >= 0 and some in each row are > 0."""
    rows, vocabulary = weights.shape
    whole, odd = divmod(vocabulary, _BLOCK)
    blocks = weights[:, : whole * _BLOCK].unflatten(-1, (whole, _BLOCK))
    sums = blocks.sum(-1)
    if odd:
        sums = torch.cat([sums, weights[:, whole * _BLOCK :].sum(-1, keepdim=True)], dim=-1)
    # [:, i] is what lies before block i.
    before = pad(sums, (1, 0)).cumsum(-1, dtype=torch.float64)
    # (1 - 2**-53) x rounds below x, so the target is below the total and the search always ends in a block with weight in it.
    target = uniforms.double().unsqueeze(-1) * before[:, -1:]
    block = (before[:, 1:] <= target).sum(-1, keepdim=True).clamp_(max=sums.shape[-1] - 1)

    if odd:
        ids = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
        inside = weights.gather(-1, ids.clamp(max=vocabulary - 1)).masked_fill_(ids >= vocabulary, 0.0)
    else:
        inside = blocks.gather(1, block.unsqueeze(-1).expand(rows, 1, _BLOCK)).squeeze(1)
    inside = inside.cumsum(-1, dtype=torch.float64)
    # The block was summed in float32, its tokens in float64: keep what is left of the target inside the latter.
    total = inside[:, -1:]
    left = torch.minimum(target - before.gather(-1, block), torch.nextafter(total, torch.zeros_like(total)))
    # `clamp_` only matters for rows of NaN, which the caller reports: they too get an id that exists.
    offset = (inside <= left).sum(-1, keepdim=True)
    return (block * _BLOCK + offset).clamp_(max=vocabulary - 1).squeeze(-1)


def support(logits: Float[Tensor, "B V"], *, top_k: int, top_p: float) -> Bool[Tensor, "B V"] | None:
    """Which tokens can be drawn under top-k and then top-p; None if that is all of them."""
    vocabulary = logits.shape[-1]
    top_k = min(top_k, vocabulary) if top_k else vocabulary
    if top_k == vocabulary and top_p == 1:
        return None
    if top_k < vocabulary:
        # One more than can be kept, to see whether the last one kept has equals.
        ordered = logits.topk(top_k + 1, dim=-1).values
        mass = torch.softmax(ordered[:, :top_k], dim=-1).double().cumsum(-1)
    else:
        # The most probable `_NUCLEUS` hold enough in nearly every row of a trained model; only if they do not, all are sorted.
        # A token's share of the whole is the same either way, so what a row keeps does not depend on its company.
        total = torch.logsumexp(logits, dim=-1, keepdim=True)
        for largest in (min(_NUCLEUS, vocabulary), vocabulary):
            ordered = _descending(logits, largest)
            mass = (ordered - total).exp_().double().cumsum(-1)
            if not bool((mass[:, -1] < top_p).any()):
                break
    if top_p == 1:
        count = torch.full_like(ordered[:, :1], top_k, dtype=torch.int64)
    else:
        # Tokens before the set is full, and the one that fills it; rounding may leave the sum of all just under top_p.
        count = ((mass < top_p).sum(-1, keepdim=True) + 1).clamp_(max=mass.shape[-1])
    smallest = ordered.gather(-1, count - 1)
    following = ordered.gather(-1, count.clamp(max=ordered.shape[-1] - 1))
    keep = logits >= smallest
    if bool(((following == smallest) & (count < vocabulary)).any()):
        above = logits > smallest
        equal = keep & ~above
        keep = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return keep


def _descending(logits: Float[Tensor, "B V"], count: int) -> Float[Tensor, "B count"]:
    """Each row's `count` largest, largest first. On CPU numpy's vectorised functions take a fourth of the time of PyTorch's."""
    if logits.device.type != "cpu":
        return logits.topk(count, dim=-1).values
    rows = logits.detach().numpy()
    if count < rows.shape[-1]:
        rows = np.partition(rows, -count, axis=-1)[:, -count:]
    return torch.from_numpy(np.sort(rows, axis=-1)).flip(-1)
