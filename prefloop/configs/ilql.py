"""Settings of `prefloop ilql`."""

from dataclasses import dataclass, field
from typing import ClassVar

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ILQLConfig:
    """Implicit language Q-learning (arXiv:2206.11871): offline reinforcement learning from scored completions, with Q heads that steer decoding."""

    STAGE: ClassVar[str] = "ilql"
    """The command's name."""
    run: RunSettings
    data: Data
    """Completions with scores: a record's score is the reward of its completion's last token."""
    model: str
    """Policy to start from: a hub name or a folder."""
    batch_size: int = 32
    """Completions per step."""
    epochs: float = 1.0
    """Passes over the data; a fraction is allowed."""
    max_steps: int = 0
    """Stop after this many steps; 0 goes by `epochs`."""
    gamma: float = 0.99
    """Discount: below 1, the shorter of two ways to the same reward is worth more."""
    tau: float = 0.7
    """Expectile that V takes of Q over the data's actions: 0.5 is their mean, towards 1 the best of them."""
    cql_coef: float = 0.1
    """Weight of the conservative term, which keeps Q of tokens outside the data below those in it."""
    likelihood_coef: float = 1.0
    """Weight of the likelihood of the data's tokens, which keeps the policy a language model; 0 trains no policy."""
    advantage_weight: float = 0.0
    """Weights tokens by exp(this * (Q - V)) in the likelihood (advantage-weighted); 0 weights all equally."""
    target_rate: float = 0.005
    """How far the target heads move towards the Q heads at each sync."""
    target_every: int = 1
    """Steps between syncs."""
    whiten_scores: bool = True
    """Scores to mean 0 and variance 1 over the training data, so that losses and the decoding beta mean the same for every score."""
    eval_every: int = 0
    """Steps between evaluations on held-out completions; 0 evaluates at the end."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, schedule="linear"))
    heads_optim: Optim = field(default_factory=lambda: Optim(lr=1e-3, schedule="linear"))
    """Optimiser of the Q and value heads, which start at zero."""
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be 1 or more")
        require(self.epochs > 0, f"epochs is {self.epochs}; it must be above 0")
        require(0 < self.gamma <= 1, f"gamma is {self.gamma}; it must be above 0 and at most 1")
        require(0 < self.tau < 1, f"tau is {self.tau}; it must be above 0 and below 1")
        for name in ("cql_coef", "likelihood_coef", "advantage_weight", "max_steps", "eval_every"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 (off) or more")
        require(
            0 < self.target_rate <= 1,
            f"target_rate is {self.target_rate}; it must be above 0 and at most 1 (a copy)",
        )
        require(self.target_every >= 1, f"target_every is {self.target_every}; it must be 1 or more")
        require(
            self.optim.max_grad_norm == self.heads_optim.max_grad_norm,
            f"optim.max_grad_norm is {self.optim.max_grad_norm} and heads_optim.max_grad_norm {self.heads_optim.max_grad_norm}; "
            "they are updated together: give both the same",
        )
