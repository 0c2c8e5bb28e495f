"""The language-model head in chunks: log-probability, entropy, exact KL both ways and collision probability of each predicted token.

`[tokens, vocabulary]` never exists in full. Rows are taken a chunk at a time; the backward pass computes the chunk's logits again
instead of keeping them: 8 M V d floating-point operations forward and backward instead of 6, for M V numbers fewer in memory.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Logits per chunk: 4M float32 = 16 MiB, about what stays in the last-level cache of a small server core.
CHUNK_ELEMENTS = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """`logits = hidden @ weight.T * scale + bias`."""

    weight: Float[Tensor, "V d"]
    bias: Float[Tensor, " V_or_0"]
    """A tensor of no elements where the head has no bias."""
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStatistics:
    """Of each predicted token, float32, at the given temperature. What was not asked for has no elements."""

    logprobs: Float[Tensor, " M"]
    entropy: Float[Tensor, " _"]
    kl: Float[Tensor, " _"]
    """Sum over the vocabulary of p (log p - log p_reference)."""
    forward_kl: Float[Tensor, " _"]
    """Sum over the vocabulary of p_reference (log p_reference - log p)."""
    log_collision: Float[Tensor, " _"]
    """Log of the sum over the vocabulary of p², without gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """Which statistics to compute beside the log-probabilities. The KLs need a reference."""

    entropy: bool = False
    kl: bool = False
    forward_kl: bool = False
    log_collision: bool = False


def _chunks(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _buffer(rows: int, weight: Tensor) -> Float[Tensor, "c V"]:
    """Room for one chunk's logits, used again for every chunk: fresh memory would cost a page fault every 4 KiB."""
    vocabulary = weight.shape[0]
    return weight.new_empty(max(1, min(rows, CHUNK_ELEMENTS // vocabulary)), vocabulary, dtype=torch.float32)


def _log_softmax(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "V d"],
    bias: Tensor,
    factor: float,
    buffer: Float[Tensor, "c V"],
) -> Float[Tensor, "n V"]:
    """Float32 log-softmax of one chunk, in the buffer's memory."""
    logits = buffer[: hidden.shape[0]]
    if hidden.dtype == torch.float32:
        torch.mm(hidden, weight.T, out=logits)
    else:
        logits.copy_(hidden @ weight.T)
    if factor != 1.0:
        logits.mul_(factor)
    if bias.numel():
        logits.add_(bias.float())
    return logits.sub_(torch.logsumexp(logits, dim=-1, keepdim=True))


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        factor: float,
        want: Want,
        reference_hidden: Tensor,
        reference_weight: Tensor,
        reference_bias: Tensor,
        reference_factor: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rows = hidden.shape[0]
        logprobs = torch.empty(rows, dtype=torch.float32, device=hidden.device)
        entropy, kl, forward_kl, log_collision = (
            torch.empty_like(logprobs) if wanted else logprobs.new_empty(0)
            for wanted in (want.entropy, want.kl, want.forward_kl, want.log_collision)
        )
        buffer = _buffer(rows, weight)
        reference_buffer = torch.empty_like(buffer) if want.kl or want.forward_kl else buffer
        for chunk in _chunks(rows, len(buffer)):
            logp = _log_softmax(hidden[chunk], weight, bias, factor, buffer)
            logprobs[chunk] = logp.gather(1, targets[chunk, None]).squeeze(1)
            if want.kl or want.forward_kl:
                logq = _log_softmax(
                    reference_hidden[chunk],
                    reference_weight,
                    reference_bias,
                    reference_factor,
                    reference_buffer,
                )
                if want.kl:
                    kl[chunk] = (logp.exp() * (logp - logq)).sum(-1)
                if want.forward_kl:
                    forward_kl[chunk] = (logq.exp() * (logq - logp)).sum(-1)
            if want.entropy:
                entropy[chunk] = -(logp.exp() * logp).sum(-1)
            if want.log_collision:
                log_collision[chunk] = torch.logsumexp(2 * logp, dim=-1)
        ctx.save_for_backward(
            hidden, weight, bias, targets, entropy, kl, reference_hidden, reference_weight, reference_bias
        )
        ctx.factor, ctx.reference_factor, ctx.want = factor, reference_factor, want
        ctx.mark_non_differentiable(log_collision)
        return logprobs, entropy, kl, forward_kl, log_collision

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy, kl, reference_hidden, reference_weight, reference_bias = (
            ctx.saved_tensors
        )
        grad_logprobs, grad_entropy, grad_kl, grad_forward_kl, _ = grads
        want: Want = ctx.want
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        buffer = _buffer(hidden.shape[0], weight)
        reference_buffer = torch.empty_like(buffer) if want.kl or want.forward_kl else buffer
        for chunk in _chunks(hidden.shape[0], len(buffer)):
            logp = _log_softmax(hidden[chunk], weight, bias, ctx.factor, buffer)
            # With z the tempered logits: d logprob/dz = onehot - p; d entropy/dz = -p (log p + entropy); d kl/dz = p (log p - log q - kl);
            # d forward_kl/dz = p - q.
            coefficient = -grad_logprobs[chunk, None]
            logq = None
            if want.kl or want.forward_kl:
                logq = _log_softmax(
                    reference_hidden[chunk],
                    reference_weight,
                    reference_bias,
                    ctx.reference_factor,
                    reference_buffer,
                )
                if want.kl:
                    coefficient = coefficient + grad_kl[chunk, None] * (logp - logq - kl[chunk, None])
                if want.forward_kl:
                    coefficient = coefficient + grad_forward_kl[chunk, None]
            if want.entropy:
                coefficient = coefficient - grad_entropy[chunk, None] * (logp + entropy[chunk, None])
            grad_logits = logp.exp_().mul_(coefficient)
            if want.forward_kl and logq is not None:
                grad_logits.sub_(logq.exp_().mul_(grad_forward_kl[chunk, None]))
            grad_logits.scatter_add_(1, targets[chunk, None], grad_logprobs[chunk, None])
            if grad_bias is not None and bias.numel():
                grad_bias += grad_logits.sum(0).to(bias.dtype)
            if ctx.factor != 1.0:
                grad_logits.mul_(ctx.factor)
            grad_logits = grad_logits.to(hidden.dtype)
            torch.mm(grad_logits, weight, out=grad_hidden[chunk])
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[chunk])
        return grad_hidden, grad_weight, grad_bias, *(None,) * 7


def token_statistics(
    hidden: Float[Tensor, "M d"],
    head: Head,
    targets: Int[Tensor, " M"],
    *,
    temperature: float,
    entropy: bool = False,
    log_collision: bool = False,
) -> TokenStatistics:
    """Log-probability (and entropy and collision probability, if asked) of each target under softmax(logits / temperature).

    `hidden[i]` is the final hidden state of the token that target i is predicted from.
    """
    nothing = hidden.new_empty(0)
    return _statistics(
        hidden,
        head,
        targets,
        temperature,
        Want(entropy=entropy, log_collision=log_collision),
        nothing,
        Head(weight=hidden.new_empty(0, hidden.shape[1]), bias=nothing),
    )


def token_statistics_with_kl(
    hidden: Float[Tensor, "M d"],
    head: Head,
    targets: Int[Tensor, " M"],
    *,
    temperature: float,
    reference_hidden: Float[Tensor, "M d"],
    reference_head: Head,
    want: Want = Want(entropy=True, kl=True),
) -> TokenStatistics:
    """As `token_statistics`, with what is wanted: by default entropy and the exact KL to a frozen reference at the same temperature."""
    return _statistics(hidden, head, targets, temperature, want, reference_hidden.detach(), reference_head)


def _statistics(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    temperature: float,
    want: Want,
    reference_hidden: Tensor,
    reference_head: Head,
) -> TokenStatistics:
    logprobs, entropies, kl, forward_kl, log_collision = _Statistics.apply(
        hidden,
        head.weight,
        head.bias / temperature,
        targets,
        head.scale / temperature,
        want,
        reference_hidden,
        reference_head.weight.detach(),
        reference_head.bias.detach() / temperature,
        reference_head.scale / temperature,
    )  # pyright: ignore[reportGeneralTypeIssues]
    return TokenStatistics(
        logprobs=logprobs, entropy=entropies, kl=kl, forward_kl=forward_kl, log_collision=log_collision
    )
