"""Settings of `prefloop label annotate`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, require
from prefloop.configs.judge import SCORER
from prefloop.configs.scorers import Combining, scorers_named


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorePairsConfig:
    """Pair the completions in a store and let a scorer compare them: a reward model, or a strong model's density over a weak one's."""

    store: str
    """Store that holds the completions: a file or a database URL."""
    reward_model: str
    """The scorer: STRONG@WEAK for a density ratio (arXiv:2411.02481), a reward model's folder, or `module:function`; several with commas."""
    annotator: str = "scorer"
    """Name of the annotator. Use another name for other settings."""
    tie_width: float = 0.0
    """The verdict is a tie if the scores differ by less than this; such a pair gives no comparison."""
    pairs: Literal["all", "random"] = "all"
    """Pairs of each prompt's completions: all with different texts, or one at random."""
    checkpoints: tuple[str, ...] = ()
    """Pair the completions of these policies only; none means all in the store."""
    round: int = 0
    """Round of the loop, from 0."""
    seed: int = 0
    """Seed of `pairs random`."""
    reward: Combining = field(default_factory=Combining)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(bool(self.annotator), "annotator is empty; give a name")
        require(
            not any(named.name.startswith(SCORER) for named in scorers_named(self.reward_model)),
            f"reward_model is {self.reward_model!r}; a judge compares pairs itself, with `prefloop label judge`",
        )
        require(self.tie_width >= 0, f"tie_width is {self.tie_width}; it must be 0 (no ties) or more")
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")
