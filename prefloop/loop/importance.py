"""How a step's completions are weighted where what drew them is not the trainer's forward pass, and how far the two are apart."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.configs.ppo import ActorCriticConfig, PPOConfig
from prefloop.loop.tensors import sampler_logprobs
from prefloop.losses import importance_ratios, importance_weights, sum_and_count
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, World


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportanceRule:
    """How a run weights its tokens' losses."""

    rule: str
    """Of `IMPORTANCE_RULES`, or `off`."""
    level: str
    low: float
    high: float
    world: World

    @classmethod
    def of(cls, config: CriticFreeConfig | ActorCriticConfig, world: World) -> "ImportanceRule":
        """By a run's settings; those of TRPO have no weights."""
        if not isinstance(config, CriticFreeConfig | PPOConfig):
            return cls(rule="off", level="token", low=0.0, high=1.0, world=world)
        settings = config.importance
        rule = settings.rule_with(config.sampling, config.old_logprobs)
        return cls(rule=rule, level=settings.level, low=settings.low, high=settings.high, world=world)

    @property
    def on(self) -> bool:
        """Whether there are weights, for which the policy's own log-probabilities are needed."""
        return self.rule != "off"

    def weights(
        self, old_logprobs: Float[Tensor, "B T"], rollout: Rollout, mask: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T"], dict[str, float]]:
        """Weights of the tokens' losses, ones if there are none, and what to log of them. Collective: all processes call it."""
        if not self.on:
            return torch.ones_like(old_logprobs), {}
        theirs = sampler_logprobs(rollout, mask)
        ratio = importance_ratios(old_logprobs, theirs, mask, level=self.level)
        weights = importance_weights(ratio, mask, rule=self.rule, low=self.low, high=self.high)
        gap = (old_logprobs - theirs).abs() * mask
        metrics = Metrics()
        metrics.add("importance", *sum_and_count(weights, mask))
        metrics.add("importance_cut", *sum_and_count((weights != ratio).to(ratio.dtype), mask))
        metrics.add("sampler_gap", *sum_and_count(gap, mask))
        largest = self.world.max_float(gap.max().item() if gap.numel() else 0.0)
        return weights, {**metrics.reduce(self.world), "sampler_gap_max": largest}
