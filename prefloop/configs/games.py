"""Settings of the preference games: `prefloop nash_md` and `prefloop sppo`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, Sampling, require
from prefloop.configs.ppo import ScoreShaping


@dataclass(frozen=True, kw_only=True, slots=True)
class GameConfig:
    """What methods that train on a preference instead of a score have in common."""

    STAGE: ClassVar[str] = ""
    """The command's name."""
    run: RunSettings
    data: Data
    """Prompts. Records with completions give their prompts."""
    model: str
    """Policy to start from, usually the SFT model: a hub name or a folder."""
    reward_model: str = ""
    """Scores that decide comparisons, P = σ(difference): a reward model's folder or hub name, or `module:function`. Or give `preference`."""
    preference: str = ""
    """`module:function` of (prompts, completions, other completions): for each the probability that the first completion is preferred."""
    sampling: Sampling = field(default_factory=Sampling)
    steps: int = 100
    """Rounds of sampling and learning."""
    batch_prompts: int = 64
    """Prompts per step."""
    reward: ScoreShaping = field(default_factory=ScoreShaping)
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-7, schedule="linear"))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_prompts"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(
            bool(self.reward_model) != bool(self.preference),
            f"reward_model is {self.reward_model!r} and preference {self.preference!r}; give only one of them",
        )
        require(
            not self.preference or ":" in self.preference,
            f"preference is {self.preference!r}; it must name a Python function as module:function",
        )
        require(
            self.sampling.temperature > 0,
            "sampling.temperature is 0 (greedy), so all completions of a prompt are the same; set it above 0",
        )
        require(
            self.sampling.top_p == 1 and self.sampling.top_k == 0,
            "sampling.top_p and sampling.top_k must be off: log-probabilities are of full distributions; use sampling.temperature",
        )
        require(
            self.reward.overlong <= self.sampling.max_new_tokens,
            f"reward.overlong is {self.reward.overlong}, above sampling.max_new_tokens = {self.sampling.max_new_tokens}; it counts the last ones of them",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NashMDConfig(GameConfig):
    """Nash mirror descent (arXiv:2312.00886): policy gradient on being preferred to a mixture of the policy and the reference."""

    STAGE: ClassVar[str] = "nash_md"
    reference: str = ""
    """Reference model, which is also mixed into the opponent; empty uses the starting policy."""
    mixture: float = 0.25
    """Share of the reference in the opponent: 0 is the policy itself (self-play), 1 the reference."""
    beta: float = 0.1
    """Price of a nat of KL to the reference, in units of preference (0.5 is the largest possible gain)."""

    def __post_init__(self) -> None:
        GameConfig.__post_init__(self)
        require(0 <= self.mixture <= 1, f"mixture is {self.mixture}; it must be a share, between 0 and 1")
        require(self.beta >= 0, f"beta is {self.beta}; it must be 0 (off) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class SPPOConfig(GameConfig):
    """Self-play preference optimisation (arXiv:2405.00675): rounds of regressing log-ratios to soft win rates among the policy's own samples."""

    STAGE: ClassVar[str] = "sppo"
    steps: int = 3
    """Rounds; each samples from the newest policy."""
    batch_prompts: int = 512
    """Prompts per round."""
    completions_per_prompt: int = 5
    """Completions of each prompt, compared with each other."""
    keep: Literal["all", "extremes"] = "extremes"
    """Learn from all of them, or from the two of highest and lowest win rate, as the paper does."""
    epochs: int = 1
    """Passes over each round's completions."""
    minibatches: int = 8
    """Optimiser steps per epoch."""
    eta: float = 10.0
    """Step of a round: a completion preferred to all others gains eta / 2 nats. No round comes near the target of the paper's 1000 (1 / beta)."""

    def __post_init__(self) -> None:
        GameConfig.__post_init__(self)
        for name in ("epochs", "minibatches"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(
            self.completions_per_prompt >= 2,
            f"completions_per_prompt is {self.completions_per_prompt}; a win rate needs another completion: set it to 2 or more",
        )
        require(
            self.minibatches <= self.batch_prompts,
            f"minibatches is {self.minibatches}, above batch_prompts = {self.batch_prompts}; every minibatch needs a prompt",
        )
        require(self.eta > 0, f"eta is {self.eta}; it must be above 0")
