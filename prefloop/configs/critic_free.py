"""Settings of the policy gradients without a critic: one dataclass, and for each method a command that presets it."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require
from prefloop.configs.engine import Importance, OnlineSampling
from prefloop.configs.environments import EnvironmentSettings, require_played_here, require_rewarded
from prefloop.configs.ppo import KL, OldLogprobs, ScoreShaping, require_whole_distributions

Advantage = Literal["return", "leave_one_out", "group_mean", "group_std"]
Baseline = Literal["none", "running", "greedy"]
Ratio = Literal["token", "sequence_mean", "sequence_sum"]
Surrogate = Literal["score", "clipped", "weighted"]
Reduction = Literal["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticFreeConfig:
    """Policy gradient from sampled completions and their scores, without a critic."""

    STAGE: ClassVar[str] = ""
    """The command's name."""
    run: RunSettings
    data: Data
    """Prompts. Records with completions give their prompts."""
    model: str
    """Policy to start from, usually the SFT model: a hub name or a folder."""
    reward_model: str = ""
    """A reward model's folder or hub name, `module:function` for a Python function of (prompts, completions), a verifier such as `exact:answer`, or
    POLICY@REFERENCE; several with commas. With an environment its score is added to the environment's rewards, and it may be left out."""
    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    reference: str = ""
    """Reference model; empty uses the starting policy. With kl.coef 0 it is loaded, and the KL logged, only if you name it."""
    sampling: OnlineSampling = field(default_factory=OnlineSampling)
    steps: int = 100
    """Rounds of sampling and learning."""
    batch_prompts: int = 16
    """Prompts per step."""
    completions_per_prompt: int = 8
    """Completions of each prompt: its group."""
    epochs: int = 1
    """Passes over each step's completions."""
    minibatches: int = 1
    """Optimiser steps per epoch."""
    advantage: Advantage = "group_std"
    """Return minus `baseline`; or the whole reward minus the mean of the prompt's others, or of the whole group, or that divided by the standard deviation."""
    baseline: Baseline = "none"
    """For `advantage return`: nothing, the mean of all earlier rewards, or the score of the prompt's greedy completion."""
    whiten_advantages: bool = False
    """Advantages to mean 0 and variance 1 over the whole batch."""
    ratio: Ratio = "token"
    """Probability ratio of each token, of the completion per token, or of the completion."""
    surrogate: Surrogate = "clipped"
    """-A log π, PPO's clipped objective, or -A log π weighted by the clipped ratio."""
    clip_low: float = 0.2
    """The ratio is clipped to at least 1 minus this."""
    clip_high: float = 0.2
    """The ratio is clipped to at most 1 plus this."""
    reduction: Reduction = "token_mean"
    """Mean over tokens, over completions of token means, of token sums, or of token sums over sampling.max_new_tokens."""
    dynamic_sampling: int = 0
    """Drop prompts whose completions all score the same, and sample at most this many more rounds to fill the batch; 0 keeps them."""
    mask_truncated: bool = False
    """Do not learn from completions that the token limit truncated."""
    old_logprobs: OldLogprobs = "auto"
    """Denominator of the ratio: from a pass of the policy, or the sampler's. auto uses the sampler's in float32 on a CPU, where a pass would only repeat them."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    importance: Importance = field(default_factory=Importance)
    kl: KL = field(default_factory=lambda: KL(coef=0.0))
    kl_weighted: bool = False
    """Multiply a KL in the loss by the token's probability ratio: k3's gradient is then the KL's, also off-policy."""
    reward: ScoreShaping = field(default_factory=ScoreShaping)
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-6, schedule="constant"))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    @property
    def most_tokens(self) -> int:
        """The policy's tokens in a completion at most, over all its turns."""
        return self.environment.most_tokens(self.sampling.max_new_tokens)

    @property
    def watched(self) -> Literal["kl", "length"]:
        """What says how far the policy has gone. Without a KL no reference is loaded, unless one is named to be watched."""
        return "kl" if self.kl.coef > 0 or self.reference else "length"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_prompts", "completions_per_prompt", "epochs", "minibatches"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require_played_here(self.environment, self.sampling)
        require_rewarded(self.environment, self.reward_model, self.reward)
        require(
            self.minibatches <= self.batch_prompts,
            f"minibatches is {self.minibatches}, above batch_prompts = {self.batch_prompts}; every minibatch needs a prompt",
        )
        require(
            self.advantage == "return" or self.completions_per_prompt >= 2,
            f"completions_per_prompt is {self.completions_per_prompt}; advantage {self.advantage} compares the completions of a prompt, so set it to 2 or more",
        )
        require(
            self.advantage == "return" or self.baseline == "none",
            f"baseline is {self.baseline}, but advantage {self.advantage} has its own in the group; set it to none",
        )
        require(
            self.surrogate != "score" or self.epochs == self.minibatches == 1,
            f"surrogate score has no probability ratio, so it learns from its own samples only: epochs ({self.epochs}) and minibatches "
            f"({self.minibatches}) must be 1; or set surrogate to clipped",
        )
        require(
            self.surrogate != "score" or self.ratio == "token",
            f"ratio is {self.ratio}, but surrogate score has no ratio; set it to token",
        )
        require(0 < self.clip_low <= 1, f"clip_low is {self.clip_low}; it must be above 0 and at most 1")
        require(self.entropy_coef >= 0, f"entropy_coef is {self.entropy_coef}; it must be 0 (off) or more")
        require(self.clip_high > 0, f"clip_high is {self.clip_high}; it must be above 0")
        require(
            self.dynamic_sampling >= 0,
            f"dynamic_sampling is {self.dynamic_sampling}; it must be 0 (off) or more rounds",
        )
        require(
            self.dynamic_sampling == 0 or self.completions_per_prompt >= 2,
            "dynamic_sampling drops prompts whose completions all score the same; set completions_per_prompt to 2 or more",
        )
        require(
            self.dynamic_sampling == 0 or self.baseline != "greedy",
            "dynamic_sampling replaces prompts after the greedy completions are drawn; set baseline to none or running, or dynamic_sampling to 0",
        )
        self.importance.check(self.sampling, self.old_logprobs)
        require_whole_distributions(self.kl, self.old_logprobs)
        require(
            not self.kl_weighted or self.kl.placement == "loss",
            "kl_weighted is set, but the KL is in the reward, where it has no gradient to weigh; set kl.placement to loss",
        )
        require(
            self.sampling.top_p == 1 and self.sampling.top_k == 0,
            "sampling.top_p and sampling.top_k must be off: the ratio compares full distributions; use sampling.temperature",
        )
        require(
            self.sampling.temperature > 0,
            "sampling.temperature is 0 (greedy); a policy gradient must explore: set it above 0",
        )
        require(
            self.reward.overlong <= self.sampling.max_new_tokens,
            f"reward.overlong is {self.reward.overlong}, above sampling.max_new_tokens = {self.sampling.max_new_tokens}; it counts the last ones of them",
        )


def _kl(coef: float, placement: Literal["reward", "loss"], estimator: Literal["k1", "k2", "k3"]) -> KL:
    return KL(coef=coef, placement=placement, estimator=estimator)


@dataclass(frozen=True, kw_only=True, slots=True)
class REINFORCEConfig(CriticFreeConfig):
    """REINFORCE (Williams 1992) with return-to-go and a running baseline; KL in the reward."""

    STAGE: ClassVar[str] = "reinforce"
    batch_prompts: int = 128
    completions_per_prompt: int = 1
    """Completions of each prompt."""
    advantage: Advantage = "return"
    baseline: Baseline = "running"
    surrogate: Surrogate = "score"
    reduction: Reduction = "sequence_sum"
    kl: KL = field(default_factory=lambda: _kl(0.03, "reward", "k1"))


@dataclass(frozen=True, kw_only=True, slots=True)
class RLOOConfig(CriticFreeConfig):
    """RLOO (arXiv:2402.14740): REINFORCE on whole completions, each against the mean of its prompt's others; KL in the reward."""

    STAGE: ClassVar[str] = "rloo"
    batch_prompts: int = 32
    completions_per_prompt: int = 4
    advantage: Advantage = "leave_one_out"
    surrogate: Surrogate = "score"
    reduction: Reduction = "sequence_sum"
    kl: KL = field(default_factory=lambda: _kl(0.03, "reward", "k1"))


@dataclass(frozen=True, kw_only=True, slots=True)
class REINFORCEPlusConfig(CriticFreeConfig):
    """REINFORCE++ (arXiv:2501.03262): return-to-go of token rewards with the KL in them, whitened over the whole batch, PPO's clip."""

    STAGE: ClassVar[str] = "reinforce++"
    batch_prompts: int = 128
    completions_per_prompt: int = 1
    """Completions of each prompt. With 4 or more, `advantage group_mean` is the paper's variant with a group baseline."""
    advantage: Advantage = "return"
    whiten_advantages: bool = True
    kl: KL = field(default_factory=lambda: _kl(0.01, "reward", "k1"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReMaxConfig(CriticFreeConfig):
    """ReMax (arXiv:2310.10505): REINFORCE with the score of the prompt's greedy completion as its baseline; KL in the reward."""

    STAGE: ClassVar[str] = "remax"
    batch_prompts: int = 128
    completions_per_prompt: int = 1
    """Completions of each prompt, beside the greedy one."""
    advantage: Advantage = "return"
    baseline: Baseline = "greedy"
    surrogate: Surrogate = "score"
    reduction: Reduction = "sequence_sum"
    kl: KL = field(default_factory=lambda: _kl(0.05, "reward", "k1"))


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOConfig(CriticFreeConfig):
    """GRPO (arXiv:2402.03300): rewards standardised within each prompt's group, PPO's clip, k3 in the loss."""

    STAGE: ClassVar[str] = "grpo"
    reduction: Reduction = "sequence_mean"
    kl: KL = field(default_factory=lambda: _kl(0.04, "loss", "k3"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DrGRPOConfig(CriticFreeConfig):
    """Dr. GRPO (arXiv:2503.20783): GRPO without the two divisions that bias it, by the group's deviation and by the completion's length."""

    STAGE: ClassVar[str] = "dr_grpo"
    advantage: Advantage = "group_mean"
    reduction: Reduction = "fixed_length"


@dataclass(frozen=True, kw_only=True, slots=True)
class DAPOConfig(CriticFreeConfig):
    """DAPO (arXiv:2503.14476): GRPO with a higher upper clip, mean over tokens, dynamic sampling, and no KL."""

    STAGE: ClassVar[str] = "dapo"
    clip_high: float = 0.28
    dynamic_sampling: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class GSPOConfig(CriticFreeConfig):
    """GSPO (arXiv:2507.18071): GRPO with one ratio for the whole completion, clipped as one."""

    STAGE: ClassVar[str] = "gspo"
    ratio: Ratio = "sequence_mean"
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    reduction: Reduction = "sequence_mean"


@dataclass(frozen=True, kw_only=True, slots=True)
class CISPOConfig(CriticFreeConfig):
    """CISPO (arXiv:2506.13585): the clipped ratio as a constant weight of -A log π, so that every token keeps its gradient."""

    STAGE: ClassVar[str] = "cispo"
    surrogate: Surrogate = "weighted"
    clip_low: float = 1.0
    """The ratio is clipped to at least 1 minus this; 1 is off."""
    clip_high: float = 4.0


METHODS: tuple[type[CriticFreeConfig], ...] = (
    REINFORCEConfig,
    RLOOConfig,
    REINFORCEPlusConfig,
    ReMaxConfig,
    GRPOConfig,
    DrGRPOConfig,
    DAPOConfig,
    GSPOConfig,
    CISPOConfig,
)
"""A command each, named by its `STAGE`."""
