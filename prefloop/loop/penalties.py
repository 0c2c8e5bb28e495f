"""Terms of a policy's loss besides its surrogate: an entropy bonus, and the KL to the reference if it is in the loss."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from prefloop.loop.adaptive import KLCoefficient
from prefloop.losses import ESTIMATORS, probability_ratio
from prefloop.models.head import TokenStatistics, Want
from prefloop.models.packing import Batch
from prefloop.models.roles import scatter_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalties:
    """Terms of the loss; those that weigh nothing are not computed."""

    entropy_coef: float
    kl_coef: KLCoefficient
    estimator: str
    """Of the KL; `exact` is over the whole vocabulary."""
    kl_weighted: bool = False
    """Multiply the KL by the probability ratio, which gives it the gradient of the KL off policy too."""

    @property
    def want(self) -> Want:
        """What they need of the policy's pass."""
        exact = self.kl_coef.in_loss > 0 and self.estimator == "exact"
        return Want(entropy=self.entropy_coef > 0 or exact, kl=exact)

    def terms(
        self,
        statistics: TokenStatistics,
        batch: Batch,
        logprobs: Float[Tensor, "b t"],
        old_logprobs: Float[Tensor, "b t"],
        reference_logprobs: Float[Tensor, "b t"],
    ) -> Iterator[tuple[float, Float[Tensor, "b t"]]]:
        """(weight, per-token values) of each, to be reduced as the surrogate is and added."""
        if self.entropy_coef:
            yield -self.entropy_coef, scatter_tokens(statistics.entropy, batch)
        if self.kl_coef.in_loss:
            if self.want.kl:
                kl = scatter_tokens(statistics.kl, batch)
            else:
                kl = ESTIMATORS[self.estimator](logprobs, reference_logprobs)
            if self.kl_weighted:
                kl = probability_ratio(logprobs, old_logprobs) * kl
            yield self.kl_coef.in_loss, kl
