"""The one place where losses and metrics are summed.

Every other function in `prefloop.losses` returns unreduced tensors: `[B, T]` per completion token or `[B]` per completion or pair. Here
they become sums, given `mask` (True on what counts) and, where a mean is wanted, the *global* count: over all micro-batches of the step and
all processes. A mean is then a sum over micro-batches, so cutting a batch differently changes nothing but float noise.

Masked positions may hold anything, NaN and infinity included: they are replaced before the sum, never multiplied by zero. A function that
exponentiates its input still sends `0 * inf` into the gradient of a masked position that overflowed; pass such input through `keep` first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def keep(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values where the mask is True and zero elsewhere, in the value and in the gradient, whatever the rest holds."""
    assert values.shape == mask.shape, (
        f"values have shape {tuple(values.shape)}, their mask {tuple(mask.shape)}"
    )
    return torch.where(mask, values, 0.0)


def masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Sum of the values where the mask is True, in float32 or wider."""
    return keep(values, mask).sum(dtype=_accumulator(values))


def mean_over(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, count: float
) -> Float[Tensor, ""]:
    """This micro-batch's part of a mean: the masked sum over the global count.

    Raises ValueError if the count is not above 0: nothing in the whole step is trained on, and a loss of zero would hide it.
    """
    return masked_sum(values, mask) / _counted(count, "count")


def sequence_sum(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Sum over each completion's tokens; a completion without any gives 0."""
    return keep(values, mask).sum(dim=1, dtype=_accumulator(values))


def sequence_mean(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Mean over each completion's tokens; a completion without any gives 0."""
    return sequence_sum(values, mask) / sequence_tokens(mask).clamp(min=1)


def sum_and_count(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """A metric as the pair that is merged over micro-batches and processes before it is divided."""
    return masked_sum(values, mask), mask.sum()


def sequence_tokens(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Tokens that count in each completion."""
    return mask.sum(dim=1)


def token_count(mask: Bool[Tensor, "B T"]) -> Int[Tensor, ""]:
    """Tokens that count in this micro-batch: what `token_mean` divides by, once summed over the step."""
    return mask.sum()


def sequence_count(mask: Bool[Tensor, "B T"]) -> Int[Tensor, ""]:
    """Completions with a token that counts: what the means over completions divide by, once summed over the step."""
    return mask.any(dim=1).sum()


# Ways to turn per-token losses into one number. They differ in how much a token of a long completion weighs.


def token_mean(
    losses: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, tokens: float
) -> Float[Tensor, ""]:
    """Every token weighs the same: sum over all tokens / `tokens` of the step. Long completions weigh more."""
    return masked_sum(losses, mask) / _counted(tokens, "tokens")


def sequence_mean_of_token_mean(
    losses: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, sequences: float
) -> Float[Tensor, ""]:
    """Every completion weighs the same: sum of each one's token mean / `sequences` of the step. Tokens of long ones weigh less."""
    return sequence_mean(losses, mask).sum() / _counted(sequences, "sequences")


def fixed_length(
    losses: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, length: int, sequences: float
) -> Float[Tensor, ""]:
    """Each completion's token sum / a constant `length` (arXiv:2503.20783), averaged over the step's `sequences`.

    Every token weighs the same whatever else is in the step; `length` is usually the most tokens a completion may have.
    """
    return masked_sum(losses, mask) / (_counted(length, "length") * _counted(sequences, "sequences"))


def example_mean(losses: Float[Tensor, " B"], *, examples: float) -> Float[Tensor, ""]:
    """Per-example losses (pairs, completions): their sum / `examples` of the step."""
    return losses.sum(dtype=_accumulator(losses)) / _counted(examples, "examples")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Count, sum and sum of squares of masked values, in float64, from which means and variances of any union follow.

    One `Moments` per micro-batch and process; merged, they are those of the ragged list of all values that count.
    """

    count: Float[Tensor, ""]
    sum: Float[Tensor, ""]
    sum_of_squares: Float[Tensor, ""]

    @classmethod
    def of(cls, values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> "Moments":
        """Moments of the values where the mask is True, without gradient."""
        kept = keep(values.detach(), mask).double()
        return cls(count=mask.sum().double(), sum=kept.sum(), sum_of_squares=kept.square().sum())

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets of values together."""
        return Moments(
            count=self.count + other.count,
            sum=self.sum + other.sum,
            sum_of_squares=self.sum_of_squares + other.sum_of_squares,
        )

    def summed(self, over: Callable[[Tensor], Tensor]) -> "Moments":
        """Moments of all processes, given the function that sums a tensor over them."""
        count, total, squares = over(torch.stack((self.count, self.sum, self.sum_of_squares))).unbind()
        return Moments(count=count, sum=total, sum_of_squares=squares)

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Mean, 0 of no values."""
        return self.sum / self.count.clamp(min=1)

    def variance(self, *, unbiased: bool = False) -> Float[Tensor, ""]:
        """Mean squared distance from the mean; unbiased divides by count - 1. Never below 0; 0 of one value or none."""
        squared_distances = (self.sum_of_squares - self.sum * self.mean).clamp(min=0)
        return squared_distances / (self.count - int(unbiased)).clamp(min=1)


def whiten(
    values: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    moments: Moments,
    *,
    keep_mean: bool = False,
    eps: float = 1e-8,
) -> Float[Tensor, "*shape"]:
    """(values - mean) / sqrt(variance + eps) where the mask is True, 0 elsewhere; `keep_mean` adds the mean back.

    The variance is the biased one, as in the code of arXiv:1909.08593. `moments` are those of the whole step, over all
    micro-batches and processes; moments of this micro-batch alone would make the result depend on how the step was cut.
    """
    mean = moments.mean.to(values.dtype)
    whitened = (values - mean) * (moments.variance() + eps).rsqrt().to(values.dtype)
    return keep(whitened + mean if keep_mean else whitened, mask)


def explained_variance(returns: Moments, errors: Moments) -> Float[Tensor, ""]:
    """Share of the returns' variance that the critic's values explain: 1 - var(returns - values) / var(returns).

    1 is perfect, 0 no better than a constant, below 0 worse. 0 if the returns do not vary.
    """
    variance = returns.variance()
    share = 1 - errors.variance() / torch.where(variance > 0, variance, 1.0)
    return torch.where(variance > 0, share, 0.0)


def _accumulator(values: Tensor) -> torch.dtype:
    """Half-precision values are summed in float32."""
    return torch.promote_types(values.dtype, torch.float32)


def _counted(count: float, name: str) -> float:
    if not count > 0:
        raise ValueError(f"{name} is {count:g}; it must be above 0: nothing in this step would be trained on")
    return count
