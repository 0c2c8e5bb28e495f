"""Settings of `prefloop data`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import (
    HELDOUT,
    Rows,
    Selecting,
    require,
    require_part,
    require_rows,
    require_selecting,
    require_selects,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig(Rows):
    """Report what a source holds: format, lengths, duplicates, leaks between its parts, and every bad row. Exit code 1 if there are any."""

    source: str  # pyright: ignore[reportGeneralTypeIssues]  # required here
    """A file (.jsonl .json .csv .tsv .parquet, also .gz and .zst), a folder, or a Hugging Face data set's name."""
    heldout: float = 0.1
    """Share of prompts, chosen by hash, that training would hold out."""
    against: str = ""
    """A second source that should share nothing with the first, such as its test split."""
    against_split: str = "test"
    """Its split."""
    tokenizer: str = ""
    """Count tokens too, with this model's tokenizer: a hub name or a folder."""
    json: bool = False
    """Print the report as JSON."""

    def __post_init__(self) -> None:
        require(bool(self.source), "source is empty; name a file, a folder or a data set")
        require_rows(self)
        require(
            bool(self.against) or self.against_split == "test",
            f"against_split is {self.against_split!r}, but against names no second source; name one, or leave it out",
        )
        require(
            0 <= self.heldout < 1, f"heldout is {self.heldout}; it must be a share, at least 0 and below 1"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig(Rows):
    """Put the records of a source into a store: prompts, what people answered to them, and which answers they preferred."""

    source: str  # pyright: ignore[reportGeneralTypeIssues]  # required here
    """A file (.jsonl .json .csv .tsv .parquet, also .gz and .zst), a folder, or a Hugging Face data set's name."""
    store: str
    """Store to write to: a file or a database URL."""
    outputs: str = ""
    """For votes: file of the answers they are about (prompt_id or prompt, model, completion), if the votes' own file lacks them."""
    author: str = "human"
    """Who wrote the completions: `human`, or the name of a model."""
    annotator: str = ""
    """Annotator of rows that name none; empty uses the source's name."""
    annotator_kind: Literal["human", "ai", "simulated"] = "human"
    """Kind of these annotators."""
    round: int = 0
    """Round of the loop of the judgements, from 0."""
    tags: tuple[str, ...] = ()
    """Tags of the prompts."""
    limit: int = 0
    """Use this many records at most, the first ones; 0 uses all. What is left out is counted."""
    skip_bad: bool = False
    """Leave malformed rows out, count and list them, instead of stopping at them."""

    def __post_init__(self) -> None:
        require(bool(self.source), "source is empty; name a file, a folder or a data set")
        require_rows(self)
        require(
            bool(self.store),
            "store is empty; name a file, for example runs/first/prefloop.db, or a database URL",
        )
        require(
            bool(self.author), "author is empty; say `human`, or name the model that wrote the completions"
        )
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")
        require(self.limit >= 0, f"limit is {self.limit}; it must be 0 (all) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Selecting):
    """Write a store's records of one kind to a file, with a content hash that training runs refer to."""

    store: str
    """Store to read: a file or a database URL."""
    out: str
    """File to write, .jsonl or .jsonl.gz."""
    kind: Literal["comparisons", "rankings", "labels", "scores", "demonstrations", "prompts"] = "comparisons"
    """What to export."""
    part: Literal["all", "train", "heldout"] = "all"
    """Which prompts, by hash."""
    heldout: float = HELDOUT
    """Share of prompts held out; it says what `part` means."""
    skip_bad: bool = False
    """Leave out and count what files cannot hold: empty completions."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store to read")
        require(bool(self.out), "out is empty; name a file to write, for example comparisons.jsonl")
        require_part(self.part, self.heldout)
        require_selecting(self)
        require_selects(self, self.kind)
        require(
            self.kind != "prompts" or not self.skip_bad,
            "skip_bad is true, but kind is prompts, which have no completion that could be empty; leave it out",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveConfig(Selecting):
    """Save the judgements as the next version of a dataset, to train on by name. If nothing new was judged, no version is added."""

    name: str
    """Name of the dataset. Its versions are NAME@1, NAME@2 and so on."""
    store: str
    """Store that holds it: a file or a database URL."""
    kind: Literal["comparisons", "rankings", "labels", "scores", "demonstrations", "prompts"] = "comparisons"
    """Kind of its records."""
    skip_bad: bool = False
    """Leave out, and count, what cannot be trained on: empty completions."""
    note: str = ""
    """A note about this version."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store to read")
        require_selecting(self)
        require_selects(self, self.kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionsConfig:
    """List the dataset versions in a store."""

    store: str
    """Store that holds them: a file or a database URL."""
    name: str = ""
    """Dataset to list; empty lists all."""
    json: bool = False
    """Print them as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffConfig:
    """Say how two dataset versions differ: records that were added, removed or relabelled."""

    before: str
    """The older one, as NAME@2."""
    after: str
    """The newer one, as NAME@3."""
    store: str
    """Store that holds them: a file or a database URL."""
    examples: int = 3
    """Records of each sort to show."""
    json: bool = False
    """Print all records as JSON."""

    def __post_init__(self) -> None:
        require(self.examples >= 0, f"examples is {self.examples}; it must be 0 or more")
        require(
            not self.json or self.examples == 3,
            f"examples is {self.examples}, but json is true, which prints every record; leave it out",
        )
