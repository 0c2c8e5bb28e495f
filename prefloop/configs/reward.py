"""Settings of `prefloop reward`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """A reward model: Bradley-Terry on comparisons by default, or from rankings, labels or scores."""

    run: RunSettings
    data: Data
    model: str
    """Model to start from, usually the SFT model: a hub name or a folder."""
    loss: Literal[
        "bradley_terry",
        "token_level",
        "all_pairs",
        "plackett_luce",
        "best_of",
        "binary",
        "outcome",
        "regression",
    ] = "bradley_terry"
    """bradley_terry and token_level read comparisons; all_pairs, plackett_luce and best_of rankings; binary and outcome labels; regression
    scores."""
    keep_head: bool = False
    """Go on with the head of a reward model named by `model` (preference-model pretraining) instead of drawing a fresh one."""
    batch_size: int = 32
    """Comparisons, rankings or completions a step."""
    epochs: float = 1.0
    """Passes over the data; more than one overfits."""
    max_steps: int = 0
    """Stop after this many steps; 0 runs all epochs."""
    label_smoothing: float = 0.0
    """Assumed share of flipped labels; of bradley_terry."""
    margin: bool = False
    """Subtract each comparison's margin inside the sigmoid (arXiv:2307.09288); of bradley_terry."""
    centring: float = 0.01
    """Weight of (chosen score + rejected score)^2, or (2 x mean score)^2 of a ranking, which keeps scores near zero (arXiv:2312.09244).
    binary, outcome and regression leave no constant free, so they have no such term."""
    normalise: bool = True
    """After training, store the mean and standard deviation of scores on held-out completions, for PPO to use."""
    eval_every: int = 0
    """Steps between held-out accuracies; 0 computes it at the end only."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, schedule="linear", warmup=0.03))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be 1 or more")
        require(
            self.epochs > 0 or self.max_steps > 0,
            f"epochs is {self.epochs}; give epochs or max_steps, above 0",
        )
        require(
            0 <= self.label_smoothing < 0.5,
            f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 0.5",
        )
        require(self.centring >= 0, f"centring is {self.centring}; it must be 0 (off) or more")
        for name, off in (("margin", not self.margin), ("label_smoothing", self.label_smoothing == 0)):
            require(
                off or self.loss == "bradley_terry",
                f"{name} is {getattr(self, name)}, but loss {self.loss} has none; leave it out, or set loss to bradley_terry",
            )
        require(
            not (self.keep_head and self.lora.rank),
            "keep_head is on, but with lora.rank above 0 the head is part of what the adapter saves; set one of the two",
        )
