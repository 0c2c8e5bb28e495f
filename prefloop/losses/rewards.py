"""From one score per completion to one reward per token, and what may happen to scores on the way."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.losses.reduce import Moments, keep

SMALLEST_SPREAD = 1e-6
"""Scores that vary less than this, relative to their mean, are equal as far as float32 can tell."""


def shape_rewards(
    scores: Float[Tensor, " B"], kl: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, kl_coef: float
) -> Float[Tensor, "B T"]:
    """-kl_coef KL_t on every token, and the score on the policy's last one: the stop token, or where the completion was cut off.

    Section 2.2 of arXiv:1909.08593. They sum to score - kl_coef Σ_t KL_t over each completion. Zeros outside the mask. A completion
    without any token that counts gets no reward at all: nothing was chosen.
    """
    from_here = mask.flip(1).cumsum(1).flip(1)
    is_last = mask & (from_here == 1)
    return keep(-kl_coef * kl, mask) + keep(scores.unsqueeze(1).expand_as(kl), is_last)


def normalise_scores(scores: Float[Tensor, " B"], *, mean: float, std: float) -> Float[Tensor, " B"]:
    """(scores - mean) / std, with the moments kept beside a reward model."""
    assert std > 0, f"std is {std}"
    return (scores - mean) / std


def clip_scores(scores: Float[Tensor, " B"], *, limit: float) -> Float[Tensor, " B"]:
    """Scores held within ±limit; 0 leaves them."""
    assert limit >= 0, f"limit is {limit}"
    return scores.clamp(-limit, limit) if limit else scores


def penalise_missing_eos(
    scores: Float[Tensor, " B"], ended: Bool[Tensor, " B"], *, penalty: float
) -> Float[Tensor, " B"]:
    """Scores less `penalty` where the completion did not stop by itself."""
    return torch.where(ended, scores, scores - penalty)


def length_slope(
    scores: Float[Tensor, " B"], lengths: Float[Tensor, " B"], over: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """Slope of the least-squares line of scores on lengths, and the mean length, of all processes; the slope is 0 where lengths are equal.

    `over` sums a tensor over the processes.
    """
    s, n = scores.double(), lengths.double()
    sums = torch.stack((torch.ones_like(s).sum(), s.sum(), n.sum(), (s * n).sum(), n.square().sum()))
    count, of_s, of_n, of_sn, of_nn = over(sums).tolist()
    if not count:
        return 0.0, 0.0
    mean = of_n / count
    variance = of_nn / count - mean**2
    return ((of_sn / count - of_s / count * mean) / variance if variance > 1e-9 else 0.0), mean


def residual_scores(
    scores: Float[Tensor, " B"], lengths: Float[Tensor, " B"], *, slope: float, mean_length: float
) -> Float[Tensor, " B"]:
    """Scores less what length explains of them, slope (length - mean length): afterwards longer is neither better nor worse on average."""
    return scores - slope * (lengths - mean_length)


def soft_overlong_penalty(lengths: Float[Tensor, " B"], *, longest: int, zone: int) -> Float[Tensor, " B"]:
    """DAPO's soft overlong punishment, eq. 13 of arXiv:2503.14476: 0 up to `longest - zone` tokens, then falling to -1 at `longest`."""
    assert 0 < zone <= longest, f"zone is {zone} of {longest} tokens"
    return ((longest - zone - lengths) / zone).clamp(-1, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningMoments:
    """Moments of all scores seen so far in a run, as plain numbers that a checkpoint holds.

    Sums in float64, so seeing the scores in any order, batches or processes gives the same moments.
    """

    count: float = 0.0
    sum: float = 0.0
    sum_of_squares: float = 0.0

    def update(self, moments: Moments) -> "RunningMoments":
        """With a step's scores added; `moments` are those of all processes."""
        return RunningMoments(
            count=self.count + float(moments.count),
            sum=self.sum + float(moments.sum),
            sum_of_squares=self.sum_of_squares + float(moments.sum_of_squares),
        )

    @property
    def mean(self) -> float:
        """Mean, 0 before the first score."""
        return self.sum / self.count if self.count else 0.0

    @property
    def std(self) -> float:
        """Standard deviation (unbiased), 1 until two different scores have been seen."""
        if self.count < 2:
            return 1.0
        variance = (self.sum_of_squares - self.sum * self.mean) / (self.count - 1)
        return math.sqrt(variance) if variance > (SMALLEST_SPREAD * self.mean) ** 2 else 1.0


def scale_scores(scores: Float[Tensor, " B"], moments: RunningMoments) -> Float[Tensor, " B"]:
    """Scores over their running standard deviation, the mean left as it is; update the moments with these scores first."""
    return scores / moments.std
