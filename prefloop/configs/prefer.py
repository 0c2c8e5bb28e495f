"""Settings of `prefloop prefer`."""

from dataclasses import dataclass, field

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowPolicy:
    """Let the reference follow the policy (TR-DPO, arXiv:2404.09656)."""

    every: int = 0
    """Steps between updates of the reference; 0 keeps it fixed."""
    rate: float = 1.0
    """The reference becomes rate x policy + (1 - rate) x reference; 1 copies the policy."""

    def __post_init__(self) -> None:
        require(self.every >= 0, f"follow.every is {self.every}; it must be 0 (off) or more")
        require(0 < self.rate <= 1, f"follow.rate is {self.rate}; it must be a share, above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferConfig:
    """Train a policy directly on preferences: comparisons, rankings, labels or scores, by the objective that `loss` names."""

    run: RunSettings
    data: Data
    model: str
    """Policy to start from, usually the SFT model: a hub name or a folder."""
    loss: str = "dpo"
    """Objective: a name of docs/objectives.md, or `module:function` for your own."""
    settings: tuple[str, ...] = ()
    """Settings of the objective as name=value, for example beta=0.2 alpha=0.5; the others keep the objective's default."""
    from_comparisons: bool = False
    """For objectives on labels: read comparisons, and take chosen completions as good and rejected ones as bad."""
    reference: str = ""
    """Reference model; empty uses the starting policy. Not read by objectives without a reference."""
    reference_last: str = ""
    """Reference model of a ranking's last completion, for `d2o`: the paper's π_ref+, a more harmless one than its π_ref-; empty uses the reference."""
    follow: FollowPolicy = field(default_factory=FollowPolicy)
    sft_coef: float = 0.0
    """Weight of the mean negative log-likelihood per token of chosen (or best) completions, added to the loss."""
    batch_size: int = 32
    """Comparisons, rankings or completions per step."""
    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int = 0
    """Stop after this many steps; 0 runs all epochs."""
    eval_every: int = 0
    """Steps between held-out metrics; 0 computes them at the end only."""
    reference_cache: str = ""
    """Folder where reference log-probabilities are kept between runs; empty uses `cache` in the project folder."""
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-7, schedule="linear", warmup=0.1))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.loss), "loss is empty; name an objective, for example dpo")
        require(self.sft_coef >= 0, f"sft_coef is {self.sft_coef}; it must be 0 (off) or more")
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be 1 or more")
        require(
            self.epochs > 0 or self.max_steps > 0,
            f"epochs is {self.epochs}; give epochs or max_steps, above 0",
        )
        require(
            not (self.follow.every and self.lora.on),
            "follow.every is set, but with lora the reference is the model without its adapter and cannot move; "
            "set lora.rank to 0, or follow.every to 0",
        )
