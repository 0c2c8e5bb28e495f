"""Settings of `prefloop dpo`."""

from dataclasses import dataclass, field

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class DPOConfig:
    """Direct preference optimisation (arXiv:2305.18290)."""

    run: RunSettings
    data: Data
    model: str
    """Policy to start from, usually the SFT model: a hub name or a folder."""
    reference: str = ""
    """Reference model; empty uses the starting policy."""
    beta: float = 0.1
    """Larger stays closer to the reference; the implicit reward is beta times the log-ratio."""
    label_smoothing: float = 0.0
    """Assumed share of flipped labels (conservative DPO)."""
    sft_coef: float = 0.0
    """Weight of the mean negative log-likelihood of chosen completions, added to the loss."""
    batch_size: int = 32
    """Comparisons per step."""
    epochs: float = 1.0
    """Passes over the comparisons."""
    max_steps: int = 0
    """Stop after this many steps; 0 runs all epochs."""
    eval_every: int = 0
    """Steps between held-out losses and accuracies; 0 computes them at the end only."""
    reference_cache: str = ""
    """Folder where reference log-probabilities are kept between runs; empty uses `cache` in the project folder."""
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-7, schedule="linear", warmup=0.1))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta is {self.beta}; it must be above 0")
        require(
            0 <= self.label_smoothing < 0.5,
            f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 0.5",
        )
        require(self.sft_coef >= 0, f"sft_coef is {self.sft_coef}; it must be 0 (off) or more")
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be 1 or more")
        require(
            self.epochs > 0 or self.max_steps > 0,
            f"epochs is {self.epochs}; give epochs or max_steps, above 0",
        )
