"""Settings of the stages that learn from their own scored samples without a policy gradient: `prefloop expert` and `prefloop online_dpo`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require
from prefloop.configs.engine import OnlineSampling, engine_of, has_engine
from prefloop.configs.ppo import ScoreShaping


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertConfig:
    """Expert iteration, or rejection-sampling fine-tuning (RAFT, arXiv:2304.06767): sample, keep the best, raise their likelihood, again."""

    STAGE: ClassVar[str] = "expert"
    """The command's name."""
    run: RunSettings
    data: Data
    """Prompts. Records with completions give their prompts."""
    model: str
    """Policy to start from, usually the SFT model: a hub name or a folder."""
    reward_model: str
    """A reward model's folder or hub name, `module:function` for a Python function of (prompts, completions), a verifier such as `exact:answer`, or
    POLICY@REFERENCE; several with commas."""
    sampling: OnlineSampling = field(default_factory=OnlineSampling)
    steps: int = 20
    """Rounds of sampling and learning."""
    batch_prompts: int = 64
    """Prompts per step."""
    completions_per_prompt: int = 8
    """Completions of each prompt: n of best-of-n."""
    keep: Literal["best", "above"] = "best"
    """The best of each prompt (RAFT), or all of the step that reach its `quantile` (ReST, arXiv:2308.08998)."""
    quantile: float = 0.9
    """For `keep above`: share of the step's completions that are left out."""
    epochs: int = 1
    """Passes over each step's kept completions."""
    minibatches: int = 1
    """Optimiser steps per epoch."""
    reward: ScoreShaping = field(default_factory=ScoreShaping)
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-6, schedule="linear"))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_prompts", "epochs", "minibatches"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(
            self.completions_per_prompt >= 2,
            f"completions_per_prompt is {self.completions_per_prompt}; the best of one is no choice, so set it to 2 or more",
        )
        require(
            self.sampling.temperature > 0,
            "sampling.temperature is 0 (greedy), so all completions of a prompt are the same; set it above 0",
        )
        require(
            0 < self.quantile < 1, f"quantile is {self.quantile}; it must be a share, above 0 and below 1"
        )
        require(
            self.reward.overlong <= self.sampling.max_new_tokens,
            f"reward.overlong is {self.reward.overlong}, above sampling.max_new_tokens = {self.sampling.max_new_tokens}; it counts the last ones of them",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineDPOConfig:
    """Online DPO (arXiv:2402.04792): the policy draws two completions, the scorer says which is better, DPO learns from the pair."""

    STAGE: ClassVar[str] = "online_dpo"
    """The command's name."""
    run: RunSettings
    data: Data
    """Prompts. Records with completions give their prompts."""
    model: str
    """Policy to start from, usually the SFT model: a hub name or a folder."""
    reward_model: str
    """A reward model's folder or hub name, `module:function` for a Python function of (prompts, completions), a verifier such as `exact:answer`, or
    POLICY@REFERENCE; several with commas."""
    reference: str = ""
    """Reference model; empty uses the starting policy."""
    sampling: OnlineSampling = field(default_factory=OnlineSampling)
    steps: int = 100
    """Rounds of sampling and learning."""
    batch_prompts: int = 64
    """Prompts per step, one pair each."""
    epochs: int = 1
    """Passes over each step's pairs."""
    minibatches: int = 1
    """Optimiser steps per epoch."""
    beta: float = 0.1
    """Larger stays closer to the reference."""
    label_smoothing: float = 0.0
    """Assumed share of flipped judgements (conservative DPO)."""
    xpo_alpha: float = 0.0
    """XPO (arXiv:2405.21046): draw the second completion from the reference and add this times its log-probability to the loss; 0 is off."""
    reward: ScoreShaping = field(default_factory=ScoreShaping)
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-7, schedule="linear"))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_prompts", "epochs", "minibatches"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(self.beta > 0, f"beta is {self.beta}; it must be above 0")
        require(
            0 <= self.label_smoothing < 0.5,
            f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 0.5",
        )
        require(self.xpo_alpha >= 0, f"xpo_alpha is {self.xpo_alpha}; it must be 0 (off) or more")
        require(
            self.xpo_alpha == 0 or not has_engine(self.sampling),
            f"xpo_alpha is {self.xpo_alpha}, which draws from the reference, but sampling.engine {engine_of(self.sampling)} has the policy's weights only; "
            "leave one of them out",
        )
        require(
            self.sampling.temperature > 0,
            "sampling.temperature is 0 (greedy), so both completions of a prompt are the same; set it above 0",
        )
        require(
            self.reward.overlong <= self.sampling.max_new_tokens,
            f"reward.overlong is {self.reward.overlong}, above sampling.max_new_tokens = {self.sampling.max_new_tokens}; it counts the last ones of them",
        )
