"""Settings of `prefloop reward`."""

from dataclasses import dataclass, field

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """A reward model from comparisons: Bradley-Terry on the score of the last token."""

    run: RunSettings
    data: Data
    model: str
    """Model to start from, usually the SFT model: a hub name or a folder."""
    batch_size: int = 32
    """Comparisons a step."""
    epochs: float = 1.0
    """Passes over the comparisons; more than one overfits."""
    max_steps: int = 0
    """Stop after this many steps; 0 runs all epochs."""
    label_smoothing: float = 0.0
    """Assumed share of flipped labels."""
    margin: bool = False
    """Subtract each comparison's margin inside the sigmoid (arXiv:2307.09288)."""
    centring: float = 0.01
    """Weight of (chosen score + rejected score)^2, which keeps scores near zero (arXiv:2312.09244)."""
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
