"""Settings of `prefloop arena`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require, require_effect


@dataclass(frozen=True, kw_only=True, slots=True)
class ArenaConfig:
    """Rate the models whose completions were compared, across checkpoints and rounds: leaderboard with intervals and rank ranges."""

    files: tuple[str, ...] = ()
    """Files of votes (.csv .tsv .jsonl .json .parquet, also .gz): two models and who won in each row. No store is needed then."""
    store: str = ""
    """Store that holds the judgements: a file or a database URL."""
    columns: tuple[str, ...] = ()
    """Names of the files' columns, where they are not recognised: model_a=COLUMN,model_b=COLUMN,winner=COLUMN, and so on."""
    outputs: str = ""
    """File of the answers that the votes are about (prompt_id or prompt, model, completion), for --style and lengths."""
    split: str = "train"
    """Split of a data set that has several."""
    skip_bad: bool = False
    """Leave malformed rows of the files out, count and list them, instead of stopping at them."""
    turns: tuple[str, ...] = ()
    """Votes of the files on these turns only; none means all."""
    languages: tuple[str, ...] = ()
    """Votes of the files in these languages only; none means all."""
    by: Literal["", "turn", "language", "judge"] = ""
    """Add a leaderboard for every turn, language or judge of the files."""
    method: Literal["bradley_terry", "davidson", "rao_kupper", "plackett_luce", "elo"] = "bradley_terry"
    """How votes become ratings; plackett_luce reads rankings too, elo depends on the order of the votes and has no interval."""
    intervals: Literal["posterior", "sandwich", "bootstrap"] = "posterior"
    """How the 95 % intervals are made: posterior holds with few votes, undefeated models and ties too; sandwich and bootstrap need many votes."""
    clusters: Literal["vote", "prompt", "annotator", "both"] = "prompt"
    """Votes that are not independent: those on one prompt, those of one annotator, or both."""
    anchor: str = ""
    """Model whose rating is 1000 by definition; none makes it the average of the models."""
    baseline: str = ""
    """Model to compute every other model's win rate against, raw and at equal length, as AlpacaEval does; empty for none."""
    style: bool = False
    """Control for length, headings, lists and bold: ratings at equal style."""
    balance: bool = False
    """Weight votes so that every pair of models counts equally, however often it was compared."""
    each_round: bool = False
    """Add a leaderboard for every round."""
    rounds: tuple[int, ...] = ()
    """Votes of these rounds only; none means all."""
    annotators: tuple[str, ...] = ()
    """Votes of these annotators only; none means all."""
    kinds: tuple[Literal["human", "ai", "simulated"], ...] = ()
    """Votes of these kinds of annotators only; none means all."""
    prior: float | None = None
    """Precision of the Gaussian prior on the strengths, in log-odds; by default the votes choose it, 0 is maximum likelihood, which is not
    finite if a model is undefeated."""
    resamples: int = 200
    """Resamples of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap."""
    out: str = ""
    """Folder to write arena.json and arena.html into; none only prints."""

    def __post_init__(self) -> None:
        require(
            bool(self.store) != bool(self.files),
            "name files of votes (prefloop arena battles.csv) or the store that holds the judgements (--store)"
            + (
                f", not both: files are {' '.join(self.files)}, store is {self.store!r}" if self.store else ""
            ),
        )
        of_files = ("columns", "outputs", "skip_bad", "turns", "languages", "by", "split")
        of_store = ("each_round", "rounds", "kinds")
        require_effect(
            self,
            (bool(self.files), of_store, "which applies to votes of a store; these are of files"),
            (not self.files, of_files, "which applies to votes of files; these are of a store"),
            (
                self.method == "elo",
                ("intervals", "clusters", "prior"),
                "but method is elo, which has no interval and no prior",
            ),
            (
                self.intervals != "bootstrap",
                ("resamples", "seed"),
                f"but intervals is {self.intervals}, which draws nothing (bootstrap does)",
            ),
        )
        require(
            self.prior is None or 0 <= self.prior < float("inf"),
            f"prior is {self.prior}; it must be a precision, 0 (maximum likelihood) or more",
        )
        require(self.resamples >= 2, f"resamples is {self.resamples}; it must be 2 or more")
        require(
            not self.style or self.method in ("bradley_terry", "davidson", "rao_kupper"),
            f"style is true and method is {self.method}; only bradley_terry, davidson and rao_kupper control for style",
        )
