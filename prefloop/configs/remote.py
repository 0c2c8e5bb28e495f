"""Settings of `prefloop label remote`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require
from prefloop.configs.label import InviteTerms


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """Which studio. The token comes from the environment variable PREFLOOP_TOKEN; make one under Settings in the studio."""

    url: str = ""
    """Address of the studio, for example https://label.example.org; if empty, that of the environment variable PREFLOOP_URL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteProjectsConfig(Remote):
    """List the projects of a studio on another machine, and how far they are."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteImportConfig(Remote):
    """Send a file's completions to a project of a studio on another machine, to be judged."""

    source: str
    """File (.jsonl .json .csv .tsv .parquet, also .gz and .zst)."""
    project: str = "Comparisons"
    """Project, by name; a new name creates a project."""
    kind: Literal["", "pair", "rank", "best_worst", "rate", "binary", "edit", "clip"] = ""
    """What a new project asks; `pair` by default."""
    overlap: int = 0
    """How many annotators judge each item of a new project; 1 by default."""
    known: Literal["", "known", "practice", "qualification"] = ""
    """The file's answers are known to be right: such items are asked among the work (`known`), or before it."""
    format: str = ""
    """Format of the rows; empty recognises it by the columns."""
    columns: tuple[str, ...] = ()
    """Names of the file's columns, as NAME=COLUMN: prompt=instruction,completion=output."""

    def __post_init__(self) -> None:
        require(bool(self.source), "source is empty; name a file")
        require(bool(self.project.strip()), "project is empty; give a name")
        require(0 <= self.overlap <= 1000, f"overlap is {self.overlap}; it must be 1 to 1000")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteExportConfig(Remote):
    """Fetch what was judged in a project of a studio on another machine."""

    project: str
    """Project, by name or number."""
    out: str
    """File to write, .jsonl."""
    kind: Literal[
        "comparisons", "rankings", "labels", "scores", "demonstrations", "answers", "spans", "steps"
    ] = "comparisons"
    """Preference pairs, rankings, good and bad (unpaired), ratings, or rewritten replies; or answers to further questions, as in `label answers`."""
    adjudicated: bool = False
    """Use an adjudicator's decision instead of the answers it decides between."""

    def __post_init__(self) -> None:
        require(
            self.out.endswith(".jsonl"),
            f"out is {self.out!r}; name a file that ends in .jsonl, for example comparisons.jsonl",
        )
        require(
            not self.adjudicated or self.kind not in ("answers", "spans", "steps"),
            f"adjudicated is set, but kind is {self.kind}, which has every answer; leave adjudicated out",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteInviteConfig(InviteTerms):
    """Make an invitation link of a studio on another machine."""

    url: str = ""
    """Address of the studio, as for the other commands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteCallConfig(Remote):
    """Send any request of the API to a studio on another machine, and print the answer."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    """Method of the request."""
    path: str
    """What follows /api/v1 in its address; /api-docs of the studio lists them all."""
    body: str = ""
    """JSON to send, or @FILE."""
    query: tuple[str, ...] = ()
    """Parameters, as NAME=VALUE."""

    def __post_init__(self) -> None:
        require(
            self.path.startswith("/"), f"path is {self.path!r}; begin it with a slash, for example /projects"
        )
        for word in self.query:
            require("=" in word.strip("="), f"query has {word!r}; write NAME=VALUE, for example limit=10")
