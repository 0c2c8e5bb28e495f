"""The quantities that objectives name as parameters, from per-token numbers of a micro-batch.

An objective says what it needs by its parameters' names; here each name is one line. What has to be computed for it follows from the name:
`reference*` needs a reference's log-probabilities, `*_kl` a reference model beside the policy, `*_weight` and `*_contrast` the policy's whole next-token
distribution, `value` a head that predicts the score from the prompt, `prompt_odds` a classifier of the data set's prompts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.losses.reduce import keep, sequence_mean, sequence_sum, sequence_tokens

Data = Literal["comparisons", "rankings", "labels", "scores"]
"""What an objective trains on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenNumbers:
    """Of the B completions of a micro-batch, T tokens at most; None what was not asked for."""

    logprobs: Float[Tensor, "B T"]
    """log π of each token."""
    mask: Bool[Tensor, "B T"]
    """True on tokens that count."""
    group: Int[Tensor, " B"]
    """Which prompt each answers; completions of a prompt follow each other, chosen before rejected, best first."""
    labels: Float[Tensor, " B"]
    """What the data says of each completion: its score, 1 or 0 for good or bad, of a comparison how likely it is the better one, else 0."""
    reference: Float[Tensor, "B T"] | None = None
    """log π_ref of each token."""
    forward_kl: Float[Tensor, "B T"] | None = None
    """KL(π_ref ‖ π) of the next-token distributions."""
    log_collision: Float[Tensor, "B T"] | None = None
    """log Σ_v π(v)² of the next-token distribution, without gradient."""
    contrast: Float[Tensor, "B T"] | None = None
    """-log σ(s_k - s_y) of each token y against the likeliest others k, in the mean over them by their probabilities."""
    value: Float[Tensor, " B"] | None = None
    """Predicted score of each completion's prompt."""
    prompt_odds: Float[Tensor, " B"] | None = None
    """p(prompt | good) / p(prompt | bad) of each completion's prompt."""


Quantity = Callable[[TokenNumbers], Tensor]


def asked(numbers: Tensor | None) -> Tensor:
    """Numbers that were asked for."""
    assert numbers is not None, "an objective uses numbers that it does not name among its needs"
    return numbers


def _policy(numbers: TokenNumbers) -> Tensor:
    return sequence_sum(numbers.logprobs, numbers.mask)


def _reference(numbers: TokenNumbers) -> Tensor:
    return sequence_sum(asked(numbers.reference), numbers.mask)


def _tokens(numbers: TokenNumbers) -> Tensor:
    return sequence_tokens(numbers.mask)


def _forward_kl(numbers: TokenNumbers) -> Tensor:
    return sequence_sum(asked(numbers.forward_kl), numbers.mask)


def _own_likelihood(numbers: TokenNumbers) -> Tensor:
    """exp(mean_t [log π(y_t) - log Σ_v π(v)²]), without gradient."""
    return sequence_mean(numbers.logprobs.detach() - asked(numbers.log_collision), numbers.mask).exp()


def _contrast(numbers: TokenNumbers) -> Tensor:
    return sequence_mean(asked(numbers.contrast), numbers.mask)


def _shared(of: Callable[[TokenNumbers], Tensor]) -> Quantity:
    """Sums over each pair's first min(n_w, n_l) counted tokens."""

    def sums(numbers: TokenNumbers) -> Tensor:
        tokens = sequence_tokens(numbers.mask).view(-1, 2)
        shorter = tokens.min(dim=1, keepdim=True).values.expand_as(tokens).reshape(-1, 1)
        early = numbers.mask & (numbers.mask.cumsum(dim=1) <= shorter)
        return keep(of(numbers), early).sum(dim=1)

    return sums


_ONE_SIDED: Mapping[str, Quantity] = {
    "policy_{}": _policy,
    "reference_{}": _reference,
    "{}_tokens": _tokens,
    "{}_kl": _forward_kl,
    "{}_weight": _own_likelihood,
    "{}_contrast": _contrast,
}


def _side(of: Quantity, side: int) -> Quantity:
    return lambda numbers: of(numbers).view(-1, 2)[:, side]


def _margin(policy: Quantity, reference: Quantity) -> Quantity:
    """The chosen completion's log-ratio to the reference less the rejected one's."""

    def margins(numbers: TokenNumbers) -> Tensor:
        ratios = (policy(numbers) - reference(numbers)).view(-1, 2)
        return ratios[:, 0] - ratios[:, 1]

    return margins


def list_places(group: Int[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Row and column of each completion in `[G, K]`, from groups that follow each other."""
    counts = torch.unique_consecutive(group, return_counts=True)[1]
    rows = torch.repeat_interleave(torch.arange(len(counts), device=group.device), counts)
    starts = counts.cumsum(0) - counts
    return rows, torch.arange(len(group), device=group.device) - starts[rows]


def as_lists(values: Tensor, group: Int[Tensor, " B"]) -> Tensor:
    """`[B]` as `[G, K]`, 0 (False) where a prompt has fewer completions than another."""
    rows, columns = list_places(group)
    shape = (int(rows[-1]) + 1, int(columns.max()) + 1)
    return values.new_zeros(shape).index_put((rows, columns), values)


def _lists(of: Quantity) -> Quantity:
    return lambda numbers: as_lists(of(numbers), numbers.group)


def _present(numbers: TokenNumbers) -> Tensor:
    return as_lists(torch.ones_like(numbers.group, dtype=torch.bool), numbers.group)


def _relevance(numbers: TokenNumbers) -> Tensor:
    """From 1 for the best in equal steps to 0 for the worst: a ranking says no more."""
    present = _present(numbers)
    places = torch.arange(present.shape[1], device=present.device, dtype=numbers.logprobs.dtype)
    last = (present.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return torch.where(present, 1 - places / last, 0.0)


_EACH: Mapping[str, Quantity] = {
    "policy": _policy,
    "reference": _reference,
    "tokens": _tokens,
}

QUANTITIES: Mapping[Data, Mapping[str, Quantity]] = {
    "comparisons": {
        name.format(word): _side(of, side)
        for side, word in enumerate(("chosen", "rejected"))
        for name, of in _ONE_SIDED.items()
    }
    | {
        "p_soft": lambda numbers: numbers.labels.view(-1, 2)[:, 0],
        "reference_margin": _margin(_policy, _reference),
        "reference_margin_shared": _margin(
            _shared(lambda numbers: numbers.logprobs), _shared(lambda numbers: asked(numbers.reference))
        ),
    },
    "rankings": {
        **{name: _lists(of) for name, of in _EACH.items()},
        "present": _present,
        "relevance": _relevance,
    },
    "labels": {
        **_EACH,
        "good": lambda numbers: numbers.labels > 0,
        "prompt_odds": lambda numbers: asked(numbers.prompt_odds),
    },
    "scores": {
        **_EACH,
        "score": lambda numbers: numbers.labels,
        "value": lambda numbers: asked(numbers.value),
    },
}
"""Kind of data -> parameter name -> how it is made. `[B]` is a number a comparison or completion, `[G, K]` a ranking's."""

MISMATCHED = ("policy_mismatched", "reference_mismatched")
"""Of labels, in a `prepare` function only: summed log-probabilities of each example's prompt with the completion of another prompt."""


_OF_THE_STEP = ("reference_point", "reference_partner")
"""Made by a `prepare` function; what that one needs is named there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What must be computed for some names beside the policy's log-probabilities."""

    reference: bool
    forward_kl: bool
    log_collision: bool
    contrast: bool
    value: bool
    prompt_odds: bool
    mismatched: bool

    @classmethod
    def of(cls, names: Iterable[str]) -> "Needs":
        """The needs of quantities by name."""
        names = set(names)
        return cls(
            reference=any(name.startswith("reference") and name not in _OF_THE_STEP for name in names),
            forward_kl=any(name.endswith("_kl") for name in names),
            log_collision=any(name in ("chosen_weight", "rejected_weight") for name in names),
            contrast=any(name in ("chosen_contrast", "rejected_contrast") for name in names),
            value="value" in names,
            prompt_odds="prompt_odds" in names,
            mismatched=any(name in MISMATCHED for name in names),
        )


def quantities(data: Data, names: Iterable[str], numbers: TokenNumbers) -> dict[str, Tensor]:
    """The named quantities of a micro-batch."""
    known = QUANTITIES[data]
    return {name: known[name](numbers) for name in names}
