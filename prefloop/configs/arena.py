"""Settings of `prefloop arena`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require


@dataclass(frozen=True, kw_only=True, slots=True)
class ArenaConfig:
    """Rate the models whose completions were compared, across checkpoints and rounds: leaderboard with intervals and rank ranges."""

    store: str
    """Store that holds the judgements: a file or a database URL."""
    method: Literal["bradley_terry", "davidson", "rao_kupper", "plackett_luce", "elo"] = "bradley_terry"
    """How votes become ratings; plackett_luce reads rankings too, elo depends on the order of the votes and has no interval."""
    intervals: Literal["sandwich", "bootstrap"] = "sandwich"
    """How the 95 % intervals are made."""
    clusters: Literal["vote", "prompt", "annotator", "both"] = "prompt"
    """Votes that are kept together because they are not independent: those on one prompt, those of one annotator, or both."""
    anchor: str = ""
    """Model whose rating is 1000 by definition; none makes it the average of the models."""
    baseline: str = ""
    """Model to give every other one's win rate against, raw and at equal length, as AlpacaEval does; none leaves that out."""
    style: bool = False
    """Control for length, headings, lists and bold: ratings at equal style."""
    balance: bool = False
    """Weight votes so that every pair of models counts alike, however often it was asked."""
    each_round: bool = False
    """Add a leaderboard for every round."""
    rounds: tuple[int, ...] = ()
    """Votes of these rounds only; none means all."""
    annotators: tuple[str, ...] = ()
    """Votes of these annotators only; none means all."""
    kinds: tuple[Literal["human", "ai", "simulated"], ...] = ()
    """Votes of these kinds of annotators only; none means all."""
    prior: float = 0.01
    """Precision of the Gaussian prior on the strengths, which keeps undefeated models finite."""
    resamples: int = 200
    """Of the bootstrap."""
    seed: int = 0
    """Everything random derives from it."""
    out: str = ""
    """Folder to write arena.json and arena.html into; none only prints."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the judgements")
        require(
            self.prior > 0,
            f"prior is {self.prior}; it must be above 0, or an undefeated model has no finite rating",
        )
        require(self.resamples >= 2, f"resamples is {self.resamples}; it must be 2 or more")
        require(
            not self.style or self.method in ("bradley_terry", "davidson", "rao_kupper"),
            f"style is true and method is {self.method}; only bradley_terry, davidson and rao_kupper control for style",
        )
