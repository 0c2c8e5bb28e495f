"""Direct preference optimisation (arXiv:2305.18290): `prefer` with the objective `dpo`, under its own name and settings.

The reference's log-probabilities are computed once, before the first update, and kept on disk by weights and tokens; no second model is held
in memory. Log-probabilities are summed over each completion's tokens, stop token included; the loss is a mean over comparisons.

Logged: loss; accuracy (share with the higher implicit reward for the chosen completion, ties half); margin (of implicit rewards, beta times the
difference of log-ratios); reward_chosen, reward_rejected (implicit); logp_chosen, logp_rejected (mean summed log-probability: both may fall,
which is worth watching); nll (of chosen completions, per token); lr, grad_norm, skipped; and the same of held-out comparisons as heldout_*.
"""

from pathlib import Path

from prefloop.algorithms.prefer import train_objective
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.prefer import PreferConfig


def train(config: DPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    same = PreferConfig(
        run=config.run,
        data=config.data,
        model=config.model,
        loss="dpo",
        settings=(f"beta={config.beta!r}", f"label_smoothing={config.label_smoothing!r}"),
        reference=config.reference,
        sft_coef=config.sft_coef,
        batch_size=config.batch_size,
        epochs=config.epochs,
        max_steps=config.max_steps,
        eval_every=config.eval_every,
        reference_cache=config.reference_cache,
        optim=config.optim,
        lora=config.lora,
        compute=config.compute,
    )
    return train_objective(same, stage="dpo", recorded=config)
