"""Settings of `prefloop reward`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """A reward model: Bradley-Terry on comparisons by default, or from rankings, labels, scores or steps."""

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
        "ordinal",
        "process",
        "segments",
    ] = "bradley_terry"
    """bradley_terry, token_level and segments read comparisons; all_pairs, plackett_luce and best_of rankings; binary and outcome labels;
    regression and ordinal scores; process steps."""
    keep_head: bool = False
    """Keep the head of the reward model named by `model` (preference-model pretraining) instead of drawing a new one."""
    batch_size: int = 32
    """Comparisons, rankings or completions per step."""
    epochs: float = 1.0
    """Passes over the data; more than one overfits."""
    max_steps: int = 0
    """Stop after this many steps; 0 runs all epochs."""
    label_smoothing: float = 0.0
    """Assumed share of flipped labels; for bradley_terry."""
    margin: bool = False
    """Subtract each comparison's margin inside the sigmoid (arXiv:2307.09288); for bradley_terry."""
    random_share: float = 0.0
    """How often people answer at random (0.1 in arXiv:1706.03741); for segments."""
    swap_contexts: bool = False
    """Train a second time on each comparison that names an `opposite_context`: in that context, with the sides swapped (arXiv:2407.14916)."""
    step_separator: str = "\n"
    """Separator between two steps of a completion; for process."""
    step_rule: Literal["minimum", "product", "last"] = "minimum"
    """How the model that process trains reads a completion: its lowest step, the log-probability that all are good, or its last step."""
    length_residual: bool = False
    """After training, fit a line of scores on lengths (held-out completions) and subtract it from every score from then on; stored with the model."""
    centring: float = 0.01
    """Weight of (chosen score + rejected score)^2, or (2 x mean score)^2 of a ranking, which keeps scores near zero (arXiv:2312.09244).
    The others leave no constant free, so they have no such term."""
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
        for name, off, only in (
            ("random_share", self.random_share == 0, "segments"),
            ("step_separator", self.step_separator == "\n", "process"),
            ("step_rule", self.step_rule == "minimum", "process"),
        ):
            require(
                off or self.loss == only,
                f"{name} is {getattr(self, name)!r}, but loss {self.loss} has none; leave it out, or set loss to {only}",
            )
        require(
            not self.swap_contexts or self.loss in ("bradley_terry", "token_level", "segments"),
            f"swap_contexts is on, but loss {self.loss} reads no comparisons; leave it out",
        )
        require(
            0 <= self.random_share < 1,
            f"random_share is {self.random_share}; it must be a share, at least 0 and below 1",
        )
        require(bool(self.step_separator), "step_separator is empty; give the text between two steps")
        require(
            not (self.keep_head and self.lora.rank),
            "keep_head is on, but with lora.rank above 0 the head is part of what the adapter saves; set one of the two, or lora.adapter to train",
        )
