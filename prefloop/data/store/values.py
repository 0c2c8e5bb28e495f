"""What the store takes and gives besides the records: plain frozen data, no database behind it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_args
from uuid import uuid4

from prefloop.configs.common import GOLD_ANSWERED, HELDOUT, Selecting, require
from prefloop.errors import InputError
from prefloop.records import Comparison, Demonstration, Label, Prompt, Ranking, Score

Choice = Literal[
    "a",
    "b",
    "tie",
    "both_bad",
    "cant_tell",
    "ranking",
    "best",
    "good",
    "bad",
    "rated",
    "edited",
    "skip",
    "withdrawn",
]
CHOICES: tuple[str, ...] = get_args(Choice)
AnnotatorKind = Literal["human", "ai", "simulated"]
ANNOTATOR_KINDS: tuple[str, ...] = get_args(AnnotatorKind)
ItemKind = Literal["pair", "rank", "single"]
ITEM_KINDS: tuple[str, ...] = get_args(ItemKind)
ExportKind = Literal["comparisons", "rankings", "labels", "scores", "demonstrations", "prompts"]
EXPORT_KINDS: tuple[str, ...] = get_args(ExportKind)
Part = Literal["all", "train", "heldout"]
PARTS: tuple[str, ...] = get_args(Part)
PairStrategy = Literal["all", "random"]
PAIR_STRATEGIES: tuple[str, ...] = get_args(PairStrategy)

Record = TypeVar("Record", Comparison, Ranking, Label, Score, Demonstration, Prompt)


class Conflict(InputError):
    """The request contradicts what the store already holds. Nothing was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Something to judge. It holds no model name and no sampling setting, so annotators are blind to them."""

    id: int
    kind: ItemKind
    prompt: Prompt
    completions: tuple[str, ...]
    """By slot; of a pair, slot 0 is `a` and slot 1 is `b`."""
    round: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What an annotator says of an item, before it is written."""

    item: int
    annotator: int
    choice: Choice
    """`a` and `b` name slots 0 and 1 of a pair, whatever side they were shown on. A `withdrawn` judgement takes back the one it supersedes."""
    order_shown: tuple[int, ...]
    """Slots as the annotator saw them, first to last."""
    ranking: tuple[tuple[int, ...], ...] = ()
    """Groups of slots, best first, ties together; may leave slots out. With the choice `best` it is the one best slot, the others unordered below it; with no
    other choice."""
    strength: int = 0
    """How strongly, in the levels of the guideline; 0 = not given."""
    margin: float = 0.0
    """How much better, in units of the reward; 0 = not given."""
    duration_ms: int = 0
    guideline_version: str = ""
    supersedes: int | None = None
    """The judgement this one corrects."""
    idempotency_key: str = field(default_factory=lambda: uuid4().hex)
    """Sent again with the same judgement it changes nothing; with another one it is a `Conflict`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which judgements (or prompts) to take. Empty means all."""

    annotators: tuple[str, ...] = ()
    """Names."""
    kinds: tuple[str, ...] = ()
    """What the annotators are: `human`, `ai`, `simulated`."""
    projects: tuple[str, ...] = ()
    """Names of the studio's projects: what was said there, in whatever way it came in."""
    rounds: tuple[int, ...] = ()
    strategies: tuple[str, ...] = ()
    """How the items' completions were picked: `uniform` for what `prefloop label select` drew uniformly."""
    part: Part = "all"
    heldout: float = HELDOUT
    """Share of prompts held out, by hash; it says what `part` means."""
    since: datetime | None = None
    """Judged at this moment or later."""
    adjudicated: bool = False
    """Where people disagreed and somebody decided between them, take the decision alone; otherwise decisions are left out."""
    min_agreement: float = 0.0
    """Items on which at least this share of the annotators that are left gives the commonest answer."""
    gold_passed: float = 0.0
    """Share of their project's known answers that annotators must have right."""
    gold_answered: int = GOLD_ANSWERED
    """How many known answers they must have been asked."""

    @classmethod
    def of(cls, chosen: Selecting, *, part: Part = "all", heldout: float = HELDOUT) -> "Filters":
        """As settings say it. `aggregate` is no filter: it says what becomes of those that pass."""
        return cls(
            annotators=chosen.annotators,
            kinds=() if chosen.judged_by == "all" else (chosen.judged_by,),
            projects=chosen.projects,
            rounds=chosen.rounds,
            strategies=chosen.strategies,
            part=part,
            heldout=heldout,
            since=chosen.moment,
            adjudicated=chosen.adjudicated,
            min_agreement=chosen.min_agreement,
            gold_passed=chosen.gold_passed,
            gold_answered=chosen.gold_answered,
        )

    def __post_init__(self) -> None:
        require(self.part in PARTS, f"part is {self.part!r}; it must be one of {', '.join(PARTS)}")
        require(
            set(self.kinds) <= set(ANNOTATOR_KINDS),
            f"kinds are {', '.join(self.kinds)}; each must be one of {', '.join(ANNOTATOR_KINDS)}",
        )
        require(
            0 <= self.heldout < 1, f"heldout is {self.heldout}; it must be a share, at least 0 and below 1"
        )
        require(
            self.since is None or self.since.tzinfo is not None,
            f"since is {self.since}; give it a time zone, for example {self.since}+00:00",
        )

    def to_json(self) -> dict[str, Any]:
        """Only what is filtered by, as JSON types."""
        chosen: dict[str, Any] = {}
        if self.annotators:
            chosen["annotators"] = sorted(self.annotators)
        if self.kinds:
            chosen["kinds"] = sorted(self.kinds)
        if self.projects:
            chosen["projects"] = sorted(self.projects)
        if self.rounds:
            chosen["rounds"] = sorted(self.rounds)
        if self.strategies:
            chosen["strategies"] = sorted(self.strategies)
        if self.part != "all":
            chosen |= {"part": self.part, "heldout": self.heldout}
        if self.since is not None:
            chosen["since"] = self.since.isoformat()
        if self.adjudicated:
            chosen["adjudicated"] = True
        if self.min_agreement:
            chosen["min_agreement"] = self.min_agreement
        if self.gold_passed:
            chosen |= {"gold_passed": self.gold_passed, "gold_answered": self.gold_answered}
        return chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection(Generic[Record]):
    """Records taken from the store and what was left out on the way."""

    records: tuple[Record, ...]
    left_out: Mapping[str, int]
    """Reason (`tie`, `both_bad`, `skip`, ...: the choice; `superseded`; `adjudication` and `adjudicated`, `disagreement` and `known answers`, see `Filters`; `pair`, `rank` or `single`: an item of another kind; `empty`) -> judgements. What the filters exclude is not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A data set taken from the store, fixed by its content hash."""

    id: int
    kind: ExportKind
    sha256: str
    """`prefloop.data.hashing.content_hash` of its records."""
    rows: int
    left_out: Mapping[str, int]
    files: tuple[tuple[str, int], ...] = ()
    """What was written, and how many rows: two files where there are chats and plain texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregatedLabel:
    """One comparison that several judgements of a pair were made into."""

    item: int
    choice: Literal["a", "b"]
    """The slot that is chosen."""
    p_soft: float
    """How likely it is the better one."""
    judgements: tuple[int, ...]
    """Those that it was made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """How the records of a dataset version differ from those of the one before."""

    added: int
    removed: int
    changed: int
    """The same item and annotator with a different label."""
    same: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetVersion:
    """A saved data set. It never changes; the next one of its name is another version."""

    name: str
    version: int
    """From 1."""
    export: Export
    chosen: Mapping[str, Any]
    """What was asked for, as JSON types: the settings of `Selecting` that were set, and `skip_bad`."""
    changes: Changes
    """Against the version before; everything is added in the first."""
    note: str
    made_by: str
    """The annotator who saved it, by pseudonym; empty for the command line."""
    created_at: datetime

    @property
    def label(self) -> str:
        """`NAME@3`."""
        return f"{self.name}@{self.version}"

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "dataset": self.label,
            "kind": self.export.kind,
            "rows": self.export.rows,
            "sha256": self.export.sha256,
            "export": self.export.id,
            "chosen": dict(self.chosen),
            "left_out": dict(self.export.left_out),
            "changes": asdict(self.changes),
            "note": self.note,
            "made_by": self.made_by,
            "created_at": self.created_at.isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Data from outside the store that a run read."""

    name: str
    """File, folder or data set, as it was given."""
    sha256: str
    """Hash of the content that was read."""
    rows: int
    role: str = "train"
    """What it was read for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedItems:
    """Items made from stored completions."""

    ids: tuple[int, ...]
    """All of them, also those that were there before."""
    new: int
    identical: int
    """Pairs not made because both texts are the same: nobody can prefer one."""
    single: int
    """Prompts with fewer than two different texts, so without a pair."""
