"""Settings of `prefloop data filter`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, Data, in_store, require
from prefloop.configs.scorers import Combining


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """Leave out comparisons that are ambiguous by their own labels, or that reward models find ambiguous or wrong; or flip the wrong ones."""

    data: Data
    out: str
    """File to write, .jsonl or .jsonl.gz."""
    reward_models: tuple[str, ...] = ()
    """Scorers, as `--reward_model` names them elsewhere; the margin of their combined normalised scores decides. None: the labels alone decide."""
    reward: Combining = field(default_factory=Combining)
    least_margin: float = 0.0
    """Comparisons whose margin by the scorers is below this are ambiguous and left out; in standard deviations of each scorer's scores."""
    disagreed: Literal["drop", "flip", "keep"] = "drop"
    """What to do with comparisons whose rejected completion scores higher by at least that much: leave out, flip, or keep."""
    least_certainty: float = 0.0
    """Comparisons whose soft label `p_soft` is nearer to a half than this are ambiguous and left out; at most 0.5."""
    least_said_margin: float = 0.0
    """Comparisons whose own `margin` is smaller are ambiguous and left out. A margin of 0 means that none was given; such rows stay."""
    store: str = ""
    """Store to read where `data.source` is `store` or a dataset version in it."""
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.out), "out is empty; name a file to write, for example kept.jsonl")
        require(
            not self.store or in_store(self.data.source),
            f"store is {self.store!r}, but data.source is {self.data.source!r}; read data.source store, or leave store out",
        )
        require(
            self.least_margin >= 0,
            f"least_margin is {self.least_margin}; it must be 0 (nothing is ambiguous) or more",
        )
        require(
            0 <= self.least_certainty <= 0.5,
            f"least_certainty is {self.least_certainty}; it must be a distance from a half, 0 to 0.5",
        )
        require(
            self.least_said_margin >= 0,
            f"least_said_margin is {self.least_said_margin}; it must be 0 (nothing is ambiguous) or more",
        )
        require(
            bool(self.reward_models) or self.least_certainty > 0 or self.least_said_margin > 0,
            "no rule says what to leave out; give reward_models, least_certainty or least_said_margin",
        )
        require(
            bool(self.reward_models)
            or (self.least_margin == 0 and self.disagreed == "drop" and self.reward == Combining()),
            "least_margin, disagreed and reward need reward_models, but none is named; name one or more, or leave them out",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionConfig:
    """Comparisons from stored completions by statistical rejection sampling (RSO, arXiv:2309.06657)."""

    store: str
    """Store that holds completions, several of each prompt: a file or a database URL."""
    reward_models: tuple[str, ...]
    """Scorers, as `--reward_model` names them elsewhere; their normalised scores, combined, accept completions and order pairs."""
    reward: Combining = field(default_factory=Combining)
    out: str
    """File to write, .jsonl or .jsonl.gz."""
    beta: float = 0.5
    """Accepted completions look like draws from the policy that is optimal at this KL strength; smaller stays closer to the best."""
    keep: int = 8
    """Maximum number of accepted completions per prompt; they are paired, so an even number."""
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
