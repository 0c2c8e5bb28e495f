"""Direct preference optimisation (arXiv:2305.18290): `prefer` with the objective `dpo`, under its own name and settings.

The reference's log-probabilities are computed once, before the first update, and kept on disk by weights and tokens; no second model is held
in memory. Log-probabilities are summed over each completion's tokens, stop token included; the loss is a mean over comparisons.

Logged: loss; accuracy (share with the higher implicit reward for the chosen completion, ties half); margin (of implicit rewards, beta times the
difference of log-ratios); reward_chosen, reward_rejected (implicit); logp_chosen, logp_rejected (mean summed log-probability: both may fall,
which is worth watching); nll (of chosen completions, per token); lr, grad_norm, skipped; and the same of held-out comparisons as heldout_*.
"""

from dataclasses import fields
from pathlib import Path

from prefloop.algorithms.prefer import train_objective
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.losses.objectives import OBJECTIVES

OF_THE_LOSS = ("beta", "label_smoothing")
"""Settings that `prefer` has not, because they are the objective's."""


def train(config: DPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    settings = {name: given.pop(name) for name in OF_THE_LOSS}
    return train_objective(
        PreferConfig(loss="dpo", **given), OBJECTIVES["dpo"], settings, stage="dpo", recorded=config
    )
