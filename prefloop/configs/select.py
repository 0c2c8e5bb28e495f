"""Settings of `prefloop label select` and `prefloop data score`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, require, require_effect


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """Choose which pairs of stored completions to ask next, and make items of them: a share drawn uniformly, the rest by a strategy."""

    store: str
    """Store that holds the completions: a file or a database URL."""
    strategy: Literal["uniform", "disagreement", "information", "margin", "conflict"] = "uniform"
    """uniform; disagreement of an ensemble's scores; information about the models' ratings by the Bradley-Terry fit of all votes; the margin of the
    scores (a DPO policy's log-ratios) nearest to 0; conflict between people and an AI judge, whose pairs are asked again."""
    count: int = 100
    """Pairs to ask."""
    uniform: float = 0.2
    """Share that is drawn uniformly and marked. Measurements on these are not biased by the strategy."""
    scores: str = ""
    """File of `prefloop data score`, for disagreement and margin."""
    checkpoints: tuple[str, ...] = ()
    """Pair the completions of these policies only; none means all in the store."""
    round: int = 0
    """Round of the loop of the pairs, from 0."""
    project: str = ""
    """Project of the studio to put them into, by name or number; a new name makes a new one. Empty only makes items, for `label simulate
    --pairs none` and `label judge`."""
    overlap: int = 1
    """How many annotators judge each item of a new project."""
    prior: float = 0.01
    """Precision of the prior on the ratings, as in `arena`; for information."""
    seed: int = 0
    """Everything random derives from it."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(self.count >= 1, f"count is {self.count}; it must be 1 or more")
        require(
            0 < self.uniform <= 1,
            f"uniform is {self.uniform}; it must be a share above 0: without uniform pairs, accuracies measured on the labels are biased",
        )
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")
        require(self.overlap >= 1, f"overlap is {self.overlap}; it must be 1 or more")
        require(self.prior > 0, f"prior is {self.prior}; it must be above 0")
        strategy = self.strategy
        require_effect(
            self,
            (not self.project, ("overlap",), "but project is empty: it is for a new project"),
            (strategy == "uniform", ("uniform",), "but strategy is uniform, which draws all pairs uniformly"),
            (
                strategy != "information",
                ("prior",),
                f"but strategy is {strategy}, which fits no ratings (information does)",
            ),
            (strategy == "conflict", ("checkpoints",), "but conflict takes pairs that were judged already"),
        )
        needs = self.strategy in ("disagreement", "margin")
        require(
            bool(self.scores) == needs,
            f"strategy is {self.strategy}, which reads {'scores; name a file of `prefloop data score`' if needs else 'no scores; leave scores out'}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Score stored completions by one model or several, for `prefloop label select`."""

    store: str
    """Store that holds the completions: a file or a database URL."""
    reward_model: str
    """Scorers, as `ppo` names them: reward models (several with commas between them are an ensemble), POLICY@REFERENCE for a DPO policy's log-ratio,
    or module:function."""
    out: str
    """File to write: JSON lines, a completion each, named by hashes."""
    beta: float = 1.0
    """Factor of a log-ratio: the beta that the DPO policy was trained with."""
    checkpoints: tuple[str, ...] = ()
    """Completions of these policies only; none means all in the store."""
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(bool(self.reward_model), "reward_model is empty; name one or more")
        require(bool(self.out), "out is empty; name a file to write, for example scores.jsonl")
        require(self.beta > 0, f"beta is {self.beta}; it must be above 0")
