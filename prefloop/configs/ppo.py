"""Settings of `prefloop ppo`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, Sampling, require, require_whole
from prefloop.configs.engine import PROCESS, Importance, OnlineSampling, engine_of
from prefloop.configs.environments import EnvironmentSettings, require_played_here, require_rewarded
from prefloop.configs.scorers import Combining, first_is_model

OldLogprobs = Literal["auto", "policy", "sampler"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KL:
    """The KL penalty that keeps the policy near the reference."""

    coef: float = 0.05
    """Weight of the KL penalty."""
    placement: Literal["reward", "loss"] = "reward"
    """Subtract it from each token's reward, or add it to the loss. Never both."""
    estimator: Literal["k1", "k2", "k3", "exact"] = "k1"
    """Per token, r = log-ratio: r, r^2/2, exp(-r)-1+r, or the exact sum over the vocabulary."""
    target: float = 0.0
    """KL per completion that an adaptive controller (arXiv:1909.08593) steers to by changing `coef`; 0 keeps `coef` fixed."""
    horizon: int = 10000
    """Completions over which the controller would double or halve `coef` at full error."""

    def __post_init__(self) -> None:
        require(self.coef >= 0, f"kl.coef is {self.coef}; it must be 0 (off) or more")
        require(self.target >= 0, f"kl.target is {self.target}; it must be 0 (fixed coefficient) or more")
        require(
            self.target == 0 or self.coef > 0,
            "kl.target is set but kl.coef is 0; the controller multiplies kl.coef: start above 0",
        )
        require(
            self.target > 0 or self.horizon == 10000,
            f"kl.horizon is {self.horizon}, but kl.target is 0, so kl.coef is fixed; set kl.target, or leave it out",
        )
        require(
            self.placement == "reward" or self.estimator != "k1",
            "kl.estimator k1 has no gradient in expectation as a loss; use k2 or exact with kl.placement loss",
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of these settings."""
        if self.placement == "loss" or self.estimator == "k1":
            return ()
        return (
            f"kl.estimator {self.estimator} in the reward does not pull to the reference as a KL does; k1 does (docs/ppo.md)",
        )


def require_whole_distributions(kl: KL, old_logprobs: OldLogprobs) -> None:
    """An exact KL cannot be had from the sampler's log-probabilities."""
    require(
        kl.estimator != "exact" or old_logprobs != "sampler",
        "an exact KL needs the policy's whole distributions, which the sampler does not keep; set old_logprobs to policy or auto",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreShaping(Combining):
    """How scorers are read, and what happens to a score before it becomes the reward of the last token, in this order."""

    normalise: bool = True
    """Subtract the mean and divide by the standard deviation stored with the reward model."""
    scale: bool = False
    """Divide by the running standard deviation of scores."""
    clip: float = 0.0
    """Clip scores to plus or minus this; 0 is off."""
    residual: bool = False
    """Subtract what a line fitted to this step's scores and lengths explains, so that length is neither better nor worse on average."""
    length_penalty: float = 0.0
    """Subtracted for every completion token."""
    overlong: int = 0
    """Last tokens of sampling.max_new_tokens over which up to 1 is subtracted, evenly (arXiv:2503.14476); 0 is off."""
    missing_eos: float = 0.0
    """Subtracted from the score of a completion that does not end with a stop token."""

    def __post_init__(self) -> None:
        Combining.__post_init__(self)
        require(self.clip >= 0, f"reward.clip is {self.clip}; it must be 0 (off) or more")
        require(self.overlong >= 0, f"reward.overlong is {self.overlong}; it must be 0 (off) or more tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardShaping(ScoreShaping):
    """What happens to a score before it becomes the reward of the last token, in this order; then to the rewards."""

    whiten: bool = False
    """Whiten per-token rewards over the batch, keeping their mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticSettings:
    """The value function."""

    start: Literal["reward", "policy", "shared"] = "reward"
    """Start from the reward model or the policy, or share the policy's trunk with a head of its own."""
    warmup_steps: int = 0
    """First steps in which only the critic learns."""
    coef: float = 0.1
    """Weight of the value loss if the trunk is shared with the policy; a separate critic has its own optimiser."""
    clip: float = 0.2
    """Values may move this far from the old ones before their loss is clipped; 0 does not clip."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, schedule="constant"))

    def __post_init__(self) -> None:
        require(self.coef >= 0, f"critic.coef is {self.coef}; it must be 0 or more")
        require(self.clip >= 0, f"critic.clip is {self.clip}; it must be 0 (off) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorCriticConfig:
    """What the algorithms with policy, reference, critic and reward model have in common."""

    STAGE: ClassVar[str] = ""
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
    sampling: Sampling = field(default_factory=Sampling)
    steps: int = 100
    """Rounds of sampling and learning."""
    batch_prompts: int = 64
    """Prompts per step."""
    completions_per_prompt: int = 1
    """Completions of each prompt."""
    gamma: float = 1.0
    """Discount."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation (arXiv:1506.02438)."""
    whiten_advantages: bool = True
    """Advantages to mean 0 and variance 1 over the whole batch."""
    old_logprobs: OldLogprobs = "auto"
    """Denominator of the ratio: from a pass of the policy, or the sampler's. auto uses the sampler's in float32 on a CPU, where a pass would only repeat them."""
    kl: KL = field(default_factory=KL)
    reward: RewardShaping = field(default_factory=RewardShaping)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_prompts", "completions_per_prompt"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(0 < self.gamma <= 1, f"gamma is {self.gamma}; it must be above 0 and at most 1")
        require(0 <= self.lam <= 1, f"lam is {self.lam}; it must be between 0 and 1")
        require(
            self.sampling.top_p == 1 and self.sampling.top_k == 0,
            f"sampling.top_p and sampling.top_k must be off in {self.STAGE.upper()}: the ratio compares full distributions; use sampling.temperature",
        )
        require(
            self.sampling.temperature > 0,
            f"sampling.temperature is 0 (greedy); {self.STAGE.upper()} must explore: set it above 0",
        )
        require(
            self.reward.overlong <= self.sampling.max_new_tokens,
            f"reward.overlong is {self.reward.overlong}, above sampling.max_new_tokens = {self.sampling.max_new_tokens}; it counts the last ones of them",
        )
        require_whole_distributions(self.kl, self.old_logprobs)


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOConfig(ActorCriticConfig):
    """Proximal policy optimisation (arXiv:1707.06347) with policy, reference, critic and reward model."""

    STAGE: ClassVar[str] = "ppo"
    reward_model: str = ""
    """A reward model's folder or hub name, `module:function` for a Python function of (prompts, completions), a verifier such as `exact:answer`, or
    POLICY@REFERENCE; several with commas. With an environment its score is added to the environment's rewards, and it may be left out."""
    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    sampling: OnlineSampling = field(default_factory=OnlineSampling)
    epochs: int = 4
    """Passes over each step's completions."""
    minibatches: int = 1
    """Optimiser steps per epoch."""
    clip: float = 0.2
    """The probability ratio is clipped to 1 plus or minus this."""
    dual_clip: float = 0.0
    """Bound on the loss of a bad action whose ratio exploded (arXiv:1912.09729), above 1; 0 is off."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    importance: Importance = field(default_factory=Importance)
    critic: CriticSettings = field(default_factory=CriticSettings)
    ptx: str = ""
    """Texts or demonstrations mixed into the policy's updates, against forgetting (arXiv:2203.02155); empty is off."""
    ptx_coef: float = 0.0
    """Weight of that data's mean negative log-likelihood."""
    ema: float = 0.0
    """Decay of an exponential moving average of the policy, saved beside it; 0 is off."""
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6, schedule="linear"))
    lora: LoRA = field(default_factory=LoRA)
    """With a rank, all roles share one frozen trunk and each has its own adapter."""

    @property
    def most_tokens(self) -> int:
        """The policy's tokens in a completion at most, over all its turns."""
        return self.environment.most_tokens(self.sampling.max_new_tokens)

    def __post_init__(self) -> None:
        ActorCriticConfig.__post_init__(self)
        require_played_here(self.environment, self.sampling)
        require_rewarded(self.environment, self.reward_model, self.reward)
        for name in ("epochs", "minibatches"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(
            self.minibatches <= self.batch_prompts,
            f"minibatches is {self.minibatches}, above batch_prompts = {self.batch_prompts}; every minibatch needs a prompt",
        )
        require(self.clip > 0, f"clip is {self.clip}; it must be above 0")
        self.importance.check(self.sampling, self.old_logprobs)
        require(
            self.dual_clip == 0 or self.dual_clip > 1,
            f"dual_clip is {self.dual_clip}; it must be 0 (off) or above 1",
        )
        for name in ("entropy_coef", "ptx_coef"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 (off) or more")
        require(0 <= self.ema < 1, f"ema is {self.ema}; it must be at least 0 and below 1")
        require(
            bool(self.ptx) == (self.ptx_coef > 0),
            f"ptx is {self.ptx!r} and ptx_coef {self.ptx_coef}; set both, or neither",
        )
        require(
            self.ema == 0 or not self.lora.on,
            f"ema is {self.ema}, an average of full weights, but an adapter is trained (lora.rank {self.lora.rank}, lora.adapter {self.lora.adapter}); set one of them to 0",
        )
        require(
            self.critic.warmup_steps == 0 or self.critic.start != "shared",
            f"critic.warmup_steps is {self.critic.warmup_steps}, but a critic on the policy's trunk cannot learn before the policy; set it to 0",
        )
        require(
            0 <= self.critic.warmup_steps < self.steps,
            f"critic.warmup_steps is {self.critic.warmup_steps}; it must be 0 or more and below steps = {self.steps}",
        )
        require(
            self.critic.start != "reward" or bool(self.reward_model),
            "critic.start is `reward`, but there is no reward_model beside the environment; set critic.start to `policy` or `shared`",
        )
        require(
            self.critic.start != "reward" or first_is_model(self.reward_model),
            "critic.start is `reward` but reward_model is a Python function or a log-ratio; set critic.start to `policy` or `shared`",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class A2CConfig(PPOConfig):
    """Advantage actor-critic (arXiv:1602.01783): one update from each batch. PPO's surrogate then has ratio 1, and its gradient is A2C's."""

    STAGE: ClassVar[str] = "a2c"
    epochs: int = 1
    """Passes over each step's completions; more than one is no longer A2C."""
    lam: float = 1.0
    """Lambda of generalised advantage estimation; 1 is the return minus the value."""
    whiten_advantages: bool = False
    """Advantages to mean 0 and variance 1 over the whole batch."""
    critic: CriticSettings = field(default_factory=lambda: CriticSettings(start="shared", coef=0.5, clip=0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class NLPOConfig(PPOConfig):
    """Natural language policy optimisation (arXiv:2210.01241): PPO restricted to the likely tokens of a masking policy, a delayed copy of the policy."""

    STAGE: ClassVar[str] = "nlpo"
    top_p: float = 0.9
    """Probability mass of the allowed tokens under the masking policy; 1 allows all, which is PPO."""
    mask_least: int = 1
    """Number of likeliest tokens that are always allowed; the paper's code has 100 of 50,000."""
    mask_every: int = 5
    """Steps between copies of the policy into the masking policy."""

    def __post_init__(self) -> None:
        PPOConfig.__post_init__(self)
        require(
            not self.environment.name,
            f"environment is {self.environment.name}, but NLPO draws completions of one turn; use ppo",
        )
        require(
            engine_of(self.sampling) == PROCESS,
            f"sampling.engine is {engine_of(self.sampling)}, which cannot mask tokens as NLPO does; leave it out",
        )
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        require(self.mask_least >= 1, f"mask_least is {self.mask_least}; it must be 1 or more")
        require(self.mask_every >= 1, f"mask_every is {self.mask_every}; it must be 1 or more")
        require(
            self.old_logprobs != "sampler" or self.top_p == 1,
            "the sampler's log-probabilities are among the allowed tokens only, and the KL is of the whole distributions; set old_logprobs to policy or auto",
        )
        require(
            not self.lora.on or self.top_p == 1,
            f"lora.rank is {self.lora.rank} and lora.adapter {self.lora.adapter}, but the masking policy is a copy of all weights; set them to 0 and merge",
        )
        require(
            self.kl.placement == "reward" or self.top_p == 1,
            "kl.placement is loss, but the KL is of the unmasked policy, which is not what the updates compute; set it to reward",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TRPOConfig(ActorCriticConfig):
    """Trust-region policy optimisation (arXiv:1502.05477): a natural-gradient step of bounded KL, and a critic."""

    STAGE: ClassVar[str] = "trpo"
    max_kl: float = 0.01
    """Maximum mean KL per token from the old policy to the new one."""
    cg_iterations: int = 10
    """Iterations of conjugate gradients; each is two forward and backward passes over the step's completions."""
    cg_damping: float = 0.1
    """Added to the Fisher matrix's diagonal."""
    backtracks: int = 10
    """Step lengths to try, each 0.8 of the previous one."""
    critic: CriticSettings = field(default_factory=CriticSettings)
    critic_epochs: int = 10
    """Passes of the critic over each step's completions."""

    def __post_init__(self) -> None:
        ActorCriticConfig.__post_init__(self)
        for name in ("cg_iterations", "backtracks", "critic_epochs"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(self.max_kl > 0, f"max_kl is {self.max_kl}; it must be above 0")
        require(self.cg_damping >= 0, f"cg_damping is {self.cg_damping}; it must be 0 or more")
        require(
            self.kl.placement == "reward",
            "kl.placement is loss, but TRPO's step follows the surrogate alone; set it to reward",
        )
        require(
            self.compute.dtype == "float32",
            f"compute.dtype is {self.compute.dtype}; TRPO differentiates twice and needs float32",
        )
        require_whole(self.compute, "TRPO moves all weights")
        require(
            self.critic.start != "shared",
            "critic.start is shared, but TRPO's step moves the policy alone; set it to reward or policy",
        )
        require(
            self.critic.start != "reward" or first_is_model(self.reward_model),
            "critic.start is `reward` but reward_model is a Python function or a log-ratio; set critic.start to `policy`",
        )
        require(
            0 <= self.critic.warmup_steps < self.steps,
            f"critic.warmup_steps is {self.critic.warmup_steps}; it must be 0 or more and below steps = {self.steps}",
        )
