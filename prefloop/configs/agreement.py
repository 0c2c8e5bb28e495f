"""Settings of `prefloop label agreement`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementConfig:
    """Say how far labels can be trusted: agreement beyond chance, figures for each annotator, the noise ceiling, disputed items."""

    store: str
    """Store that holds the judgements: a file or a database URL."""
    rounds: tuple[int, ...] = ()
    """Judgements of these rounds only; none means all."""
    annotators: tuple[str, ...] = ()
    """Judgements of these annotators only; none means all."""
    kinds: tuple[Literal["human", "ai", "simulated"], ...] = ()
    """Judgements of these kinds of annotators only; none means all."""
    gold: str = ""
    """Annotator of the store whose judgements count as right answers, in addition to the studio's gold items."""
    disputed: int = 5
    """Disputed items to print, the most disputed first."""
    aggregate: Literal["each", "majority", "dawid_skene", "one_coin"] = "dawid_skene"
    """How `labels` makes several judgements of an item into one: every one by itself, the majority's, or the probability of the true
    answer under an annotator model."""
    labels: str = ""
    """File to write the aggregated comparisons to, .jsonl or .jsonl.gz."""
    soft: bool = True
    """Write how likely each label is (`p_soft`), for `reward` and the objectives that train on it; if false, every label counts as certain."""
    out: str = ""
    """File to write all numbers to, as JSON."""
    resamples: int = 1000
    """Resamples of the bootstrap over prompts, for the intervals of Krippendorff's alpha."""
    seed: int = 0
    """Everything random derives from it."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the judgements")
        require(
            bool(self.labels) or (self.aggregate == "dawid_skene" and self.soft),
            "aggregate or soft is set, but labels names no file to write; name one, or leave them out",
        )
        require(
            self.soft or self.aggregate != "each",
            "soft is off, but aggregate is each, which writes every judgement as certain anyway; leave soft out",
        )
        require(self.resamples >= 2, f"resamples is {self.resamples}; it must be 2 or more")
        require(self.disputed >= 0, f"disputed is {self.disputed}; it must be 0 (none) or more")
