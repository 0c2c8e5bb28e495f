"""Settings of `prefloop sft`."""

from dataclasses import dataclass, field

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class SFTConfig:
    """Supervised fine-tuning: cross-entropy on completion tokens only, the stop token included."""

    run: RunSettings
    data: Data
    model: str
    """Base model: a hub name or a folder."""
    batch_size: int = 32
    """Conversations per step."""
    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int = 0
    """Stop after this many steps; 0 runs all epochs."""
    eval_every: int = 0
    """Steps between held-out losses; 0 computes it at the end only."""
    l1: float = 0.0
    """Penalty on changes (PAFT, arXiv:2406.17923): after each update every weight moves lr x l1 back towards its starting value, and stops there. 0 is off."""
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-5, schedule="cosine", warmup=0.03))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be 1 or more")
        require(
            self.epochs > 0 or self.max_steps > 0,
            f"epochs is {self.epochs}; give epochs or max_steps, above 0",
        )
        require(self.l1 >= 0, f"l1 is {self.l1}; it must be 0 (off) or more")
        require(
            not (self.l1 and self.lora.on),
            f"l1 is {self.l1}, which penalises changes of the model's weights, but with lora.rank {self.lora.rank} and lora.adapter {self.lora.adapter} none of them is trained; set one of them to 0",
        )
