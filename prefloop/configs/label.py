"""Settings of `prefloop label`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulateConfig:
    """Pair the completions in a store and let a simulated annotator, whose utility is known, compare them."""

    store: str
    """Store that holds the completions: a file or a database URL."""
    utility: str = "toy"
    """How good a completion truly is: `toy`, the folder of a fitted judge, or `module:function` for a Python function of (prompt, completion) that gives a number."""
    annotator: str = "simulated"
    """Name of the annotator. Other settings need another name."""
    temperature: float = 1.0
    """Bradley-Terry noise, in units of the utility: a is preferred to b with probability sigmoid((u_a - u_b) / temperature); 0 never errs so."""
    flip: float = 0.0
    """Share of judgements that are then turned round."""
    tie_width: float = 0.0
    """Says tie where the utilities differ by less than this."""
    pairs: Literal["all", "random"] = "all"
    """Pairs of each prompt's completions: every one of different texts, or one at random."""
    checkpoints: tuple[str, ...] = ()
    """Pair the completions of these policies only; none means all in the store."""
    round: int = 0
    """Which turn of the loop, from 0."""
    seed: int = 0
    """Everything random derives from it."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(bool(self.annotator), "annotator is empty; give a name")
        require(
            self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 (never errs) or more"
        )
        require(0 <= self.flip <= 1, f"flip is {self.flip}; it is a share, between 0 and 1")
        require(self.tie_width >= 0, f"tie_width is {self.tie_width}; it must be 0 (no ties) or more")
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")
