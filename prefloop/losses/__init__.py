"""Pure functions of tensors: what is learned from log-probabilities, values, scores and rewards. Unreduced; `reduce` reduces."""

from prefloop.losses.advantages import gae, returns_to_go
from prefloop.losses.kl import ESTIMATORS, k1, k2, k3, next_coef
from prefloop.losses.policy_gradient import clipped_surrogate, clipped_value_loss, is_clipped
from prefloop.losses.preference import dpo_loss, implicit_reward
from prefloop.losses.ratio import probability_ratio
from prefloop.losses.reduce import (
    Moments,
    example_mean,
    explained_variance,
    fixed_length,
    keep,
    masked_sum,
    mean_over,
    sequence_count,
    sequence_mean,
    sequence_mean_of_token_mean,
    sequence_sum,
    sequence_tokens,
    sum_and_count,
    token_count,
    token_mean,
    whiten,
)
from prefloop.losses.reward_model import bradley_terry, centring, pairwise_accuracy
from prefloop.losses.rewards import (
    RunningMoments,
    clip_scores,
    normalise_scores,
    penalise_missing_eos,
    scale_scores,
    shape_rewards,
)
from prefloop.losses.start import EXPECTED_AT_START, check_start, expected_at_start

__all__ = [
    "ESTIMATORS",
    "EXPECTED_AT_START",
    "Moments",
    "RunningMoments",
    "bradley_terry",
    "centring",
    "check_start",
    "clip_scores",
    "clipped_surrogate",
    "clipped_value_loss",
    "dpo_loss",
    "example_mean",
    "expected_at_start",
    "explained_variance",
    "fixed_length",
    "gae",
    "implicit_reward",
    "is_clipped",
    "k1",
    "k2",
    "k3",
    "keep",
    "masked_sum",
    "mean_over",
    "next_coef",
    "normalise_scores",
    "pairwise_accuracy",
    "penalise_missing_eos",
    "probability_ratio",
    "returns_to_go",
    "scale_scores",
    "sequence_count",
    "sequence_mean",
    "sequence_mean_of_token_mean",
    "sequence_sum",
    "sequence_tokens",
    "shape_rewards",
    "sum_and_count",
    "token_count",
    "token_mean",
    "whiten",
]
