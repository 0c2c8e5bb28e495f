"""Settings of `prefloop sample`."""

from dataclasses import dataclass, field

from prefloop.configs.common import Compute, Data, Sampling, require


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Draw completions from a checkpoint into the store."""

    model: str
    """Policy: a hub name or a folder."""
    data: Data
    """Prompts. Records with completions give their prompts."""
    store: str
    """Store to write to: a file or a database URL."""
    completions_per_prompt: int = 2
    """Completions of each prompt."""
    part: str = "train"
    """Which prompts: `train`, `heldout` or `all`."""
    seed: int = 0
    """Everything random derives from it."""
    ilql_beta: float = 0.0
    """How strongly the Q heads of a policy trained by `prefloop ilql` steer it: tokens are drawn from log π + this * (Q - V); 0 ignores them."""
    sampling: Sampling = field(default_factory=Sampling)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(
            self.completions_per_prompt >= 1,
            f"completions_per_prompt is {self.completions_per_prompt}; it must be 1 or more",
        )
        require(
            self.sampling.temperature > 0 or self.completions_per_prompt == 1,
            f"completions_per_prompt is {self.completions_per_prompt}, but at sampling.temperature 0 a prompt's completions are all the same; "
            "set it to 1, or raise the temperature",
        )
        require(self.ilql_beta >= 0, f"ilql_beta is {self.ilql_beta}; it must be 0 (off) or more")
        require(
            self.part in ("train", "heldout", "all"),
            f"part is {self.part!r}; it must be train, heldout or all",
        )
