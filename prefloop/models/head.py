"""The language-model head in chunks: log-probability, entropy, exact KL both ways and collision probability of each predicted token.

`[tokens, vocabulary]` never exists in full. Rows are taken a chunk at a time; the backward pass computes the chunk's logits again
instead of keeping them: 8 M V d floating-point operations forward and backward instead of 6, for M V numbers fewer in memory. Where only
log-probabilities are asked for, the last rows' probabilities are kept, up to `KEPT_ELEMENTS`, and those need the 6.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from prefloop.runtime.products import filling, large_products

# Logits per chunk: 4M float32 = 16 MiB, about what stays in the last-level cache of a small server core.
CHUNK_ELEMENTS = 4 << 20

# Probabilities that wait for the backward pass at most: 64 MiB. What is kept is not computed again.
KEPT_ELEMENTS = 16 << 20


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


def _chunks(begin: int, end: int, weight: Float[Tensor, "V d"]) -> list[slice]:
    """Rows `begin` to `end` in parts of one chunk's logits each."""
    size = _whole(CHUNK_ELEMENTS // weight.shape[0])
    return [slice(start, min(start + size, end)) for start in range(begin, end, size)]


def _room(rows: int, weight: Tensor, elements: int) -> Float[Tensor, "c V"]:
    """Room for so many logits, used again for every chunk: fresh memory would cost a page fault every 4 KiB."""
    vocabulary = weight.shape[0]
    return weight.new_empty(min(rows, _whole(elements // vocabulary)), vocabulary, dtype=torch.float32)


def _whole(rows: int) -> int:
    """As many or fewer; of those that `filling` leaves where there are so many."""
    return rows // 64 * 64 if rows >= 64 else max(1, rows)


def _logits(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "V d"],
    bias: Tensor,
    factor: float,
    room: Float[Tensor, "c V"],
) -> Float[Tensor, "n V"]:
    """Float32 logits of one chunk, in the room's memory."""
    logits = room[: hidden.shape[0]]
    if hidden.dtype == torch.float32:
        torch.mm(hidden, weight.T, out=logits)
    else:
        logits.copy_(hidden @ weight.T)
    if factor != 1.0:
        logits.mul_(factor)
    if bias.numel():
        logits.add_(bias.float())
    return logits


def _log_softmax(logits: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
    """In place."""
    return torch.log_softmax(logits, dim=-1, out=logits)


def _softmax_and_logprobs(
    logits: Float[Tensor, "n V"], targets: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "n V"], Float[Tensor, " n"]]:
    """Probabilities, in place, and the targets' log-probabilities; cheaper than a log-softmax followed by an exponential."""
    largest = logits.amax(dim=-1)
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    torch.softmax(logits, dim=-1, out=logits)
    # The largest probability is 1 / sum(exp(logits - largest)).
    return logits, chosen.sub_(largest).add_(logits.amax(dim=-1).log_())


class _Logprobs(torch.autograd.Function):
    """Log-probabilities alone, the common case. The last rows' probabilities wait for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, factor: float
    ) -> Tensor:
        rows = hidden.shape[0]
        logprobs = torch.empty(rows, dtype=torch.float32, device=hidden.device)
        learns = any(ctx.needs_input_grad[:3])
        room = _room(rows, weight, max(KEPT_ELEMENTS, CHUNK_ELEMENTS) if learns else CHUNK_ELEMENTS)
        begin = rows - len(room) if learns else rows
        for chunk in _chunks(0, begin, weight):
            logits = _logits(hidden[chunk], weight, bias, factor, room)
            logprobs[chunk] = _softmax_and_logprobs(logits, targets[chunk])[1]
        for chunk in _chunks(begin, rows, weight):
            logits = _logits(hidden[chunk], weight, bias, factor, room[chunk.start - begin :])
            logprobs[chunk] = _softmax_and_logprobs(logits, targets[chunk])[1]
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.factor, ctx.kept = factor, (room,) if learns else ()
        return logprobs

    @staticmethod
    @large_products()
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        (grad,) = grads
        rows = hidden.shape[0]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] and bias.numel() else None
        kept, ctx.kept = ctx.kept, ()  # a second backward pass computes them again
        room = kept[0] if kept else _room(rows, weight, CHUNK_ELEMENTS)
        begin = rows - len(room) if kept else rows
        for chunk in (*_chunks(begin, rows, weight), *_chunks(0, begin, weight)):
            if chunk.start >= begin:
                p = room[chunk.start - begin : chunk.stop - begin]
            else:
                logits = _logits(hidden[chunk], weight, bias, ctx.factor, room)
                p = torch.softmax(logits, dim=-1, out=logits)
            # With z the tempered logits: d logprob/dz = onehot - p. The row's factor goes to the narrow side of each product.
            p[torch.arange(len(p), device=p.device), targets[chunk]] -= 1.0
            scale = grad[chunk, None].neg()
            if grad_bias is not None:
                grad_bias += torch.mv(p.T, scale[:, 0]).to(bias.dtype)
            scale = (scale * ctx.factor).to(hidden.dtype)
            p = p.to(hidden.dtype)
            torch.mm(p, weight, out=grad_hidden[chunk])
            if grad_weight is not None:
                grad_weight.addmm_(p.T, hidden[chunk] * scale)
            grad_hidden[chunk] *= scale
        return grad_hidden, grad_weight, grad_bias, None, None


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A reference's rows and head, detached, at the temperature. Of no elements where it is not asked for."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    factor: float

    def logits(self, chunk: slice, room: Float[Tensor, "c V"]) -> Float[Tensor, "n V"]:
        """Float32 logits of some rows, in the room's memory."""
        return _logits(self.hidden[chunk], self.weight, self.bias, self.factor, room)


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
        reference: _Frozen,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rows = hidden.shape[0]
        logprobs = torch.empty(rows, dtype=torch.float32, device=hidden.device)
        entropy, kl, forward_kl, log_collision = (
            torch.empty_like(logprobs) if wanted else logprobs.new_empty(0)
            for wanted in (want.entropy, want.kl, want.forward_kl, want.log_collision)
        )
        room, other = (_room(rows, weight, CHUNK_ELEMENTS) for _ in range(2))
        against = want.kl or want.forward_kl
        theirs = torch.empty_like(room) if against else room
        for chunk in _chunks(0, rows, weight):
            logp = _log_softmax(_logits(hidden[chunk], weight, bias, factor, room))
            scratch = other[: len(logp)]
            logprobs[chunk] = logp.gather(1, targets[chunk, None]).squeeze(1)
            if want.log_collision:
                log_collision[chunk] = torch.logsumexp(2 * logp, dim=-1)
            if against:
                logq = _log_softmax(reference.logits(chunk, theirs))
                if want.forward_kl:
                    q = torch.exp(logq, out=scratch)
                    forward_kl[chunk] = q.mul_(logq - logp).sum(-1)
                if want.kl:
                    p = torch.exp(logp, out=scratch)
                    kl[chunk] = p.mul_(logq.sub_(logp)).sum(-1).neg_()
            if want.entropy:
                entropy[chunk] = torch.exp(logp, out=scratch).mul_(logp).sum(-1).neg_()
        frozen = (reference.hidden, reference.weight, reference.bias)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, kl, *frozen)
        ctx.factor, ctx.reference_factor, ctx.want = factor, reference.factor, want
        ctx.mark_non_differentiable(log_collision)
        return logprobs, entropy, kl, forward_kl, log_collision

    @staticmethod
    @large_products()
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy, kl, rows, matrix, row = ctx.saved_tensors
        reference = _Frozen(rows, matrix, row, ctx.reference_factor)
        grad_logprobs, grad_entropy, grad_kl, grad_forward_kl, _ = grads
        want: Want = ctx.want
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        room = _room(hidden.shape[0], weight, CHUNK_ELEMENTS)
        theirs = torch.empty_like(room) if want.kl or want.forward_kl else room
        for chunk in _chunks(0, hidden.shape[0], weight):
            logp = _log_softmax(_logits(hidden[chunk], weight, bias, ctx.factor, room))
            # With z the tempered logits: d logprob/dz = onehot - p; d entropy/dz = -p (log p + entropy); d kl/dz = p (log p - log q - kl);
            # d forward_kl/dz = p - q.
            coefficient = -grad_logprobs[chunk, None]
            logq = None
            if want.kl or want.forward_kl:
                logq = _log_softmax(reference.logits(chunk, theirs))
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
        return grad_hidden, grad_weight, grad_bias, *(None,) * 4


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


@large_products()
def _statistics(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    temperature: float,
    want: Want,
    reference_hidden: Tensor,
    reference_head: Head,
) -> TokenStatistics:
    rows = len(hidden)
    fill = filling(rows, hidden.device)
    if fill:
        hidden, targets = pad(hidden, (0, 0, 0, fill)), pad(targets, (0, fill))
        reference_hidden = (
            pad(reference_hidden, (0, 0, 0, fill)) if len(reference_hidden) else reference_hidden
        )
    bare = head.bias / temperature
    if not (want.entropy or want.kl or want.forward_kl or want.log_collision):
        logprobs = _Logprobs.apply(hidden, head.weight, bare, targets, head.scale / temperature)
        nothing = hidden.new_empty(0, dtype=torch.float32)
        return TokenStatistics(
            logprobs=logprobs[:rows],  # pyright: ignore[reportIndexIssue, reportOptionalSubscript, reportArgumentType]
            entropy=nothing,
            kl=nothing,
            forward_kl=nothing,
            log_collision=nothing,
        )
    logprobs, entropies, kl, forward_kl, log_collision = _Statistics.apply(
        hidden,
        head.weight,
        bare,
        targets,
        head.scale / temperature,
        want,
        _Frozen(
            reference_hidden,
            reference_head.weight.detach(),
            reference_head.bias.detach() / temperature,
            reference_head.scale / temperature,
        ),
    )  # pyright: ignore[reportGeneralTypeIssues]
    return TokenStatistics(
        logprobs=logprobs[:rows],
        entropy=entropies[:rows],
        kl=kl[:rows],
        forward_kl=forward_kl[:rows],
        log_collision=log_collision[:rows],
    )
