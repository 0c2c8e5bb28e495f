"""Settings of `prefloop data filter`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, Data, require


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """Leave out comparisons that reward models find ambiguous or wrong, or turn the wrong ones round."""

    data: Data
    reward_models: tuple[str, ...]
    """Folders of one reward model or more, as `prefloop reward` leaves them; their mean margin decides."""
    out: str
    """File to write, .jsonl or .jsonl.gz."""
    least_margin: float = 0.0
    """Comparisons whose mean margin is nearer to zero are ambiguous and left out; in standard deviations of each model's scores."""
    disagreed: Literal["drop", "flip", "keep"] = "drop"
    """What becomes of comparisons whose rejected completion scores higher by at least that much: left out, turned round, or kept as they are."""
    store: str = ""
    """Store to read where `data.source` is `store`."""
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.reward_models), "reward_models is empty; name the folder of one or more")
        require(bool(self.out), "out is empty; name a file to write, for example kept.jsonl")
        require(
            self.least_margin >= 0,
            f"least_margin is {self.least_margin}; it must be 0 (nothing is ambiguous) or more",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionConfig:
    """Comparisons from stored completions by statistical rejection sampling (RSO, arXiv:2309.06657)."""

    store: str
    """Store that holds completions, several of each prompt: a file or a database URL."""
    reward_models: tuple[str, ...]
    """Folders of one reward model or more; the mean of their normalised scores accepts completions and orders pairs."""
    out: str
    """File to write, .jsonl or .jsonl.gz."""
    beta: float = 0.5
    """Accepted completions look like draws of the policy that is optimal at this KL strength; smaller keeps nearer to the best."""
    keep: int = 8
    """Completions accepted of each prompt at most; they are paired two by two, so an even number."""
    checkpoints: tuple[str, ...] = ()
    """Completions of these policies only; none means all in the store."""
    seed: int = 0
    """Everything random derives from it."""
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(bool(self.reward_models), "reward_models is empty; name the folder of one or more")
        require(bool(self.out), "out is empty; name a file to write, for example pairs.jsonl")
        require(self.beta > 0, f"beta is {self.beta}; it must be above 0")
        require(
            self.keep >= 2 and self.keep % 2 == 0,
            f"keep is {self.keep}; it must be an even number, 2 or more",
        )
