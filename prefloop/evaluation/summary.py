"""What an evaluation leaves behind: `summary.json`, the numbers that matter, and `evaluation.json`, what the report shows besides."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from prefloop.addresses import without_passwords
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.json_files import at, decode, decode_fields, encode, read_json, write_json
from prefloop.evaluation.reward_model_quality import BestOf, RewardModelQuality
from prefloop.evaluation.text_statistics import TextStatistics
from prefloop.evaluation.win_rate import WinMatrix
from prefloop.records import Prompt

UNITS: Mapping[str, str] = {
    "kl": "nats per completion",
    "length": "tokens",
    "repetition": "share of 3-grams",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySummary:
    """One policy on held-out prompts. Absent from the JSON where None: there was no such judge."""

    name: str
    """`sft`, `ppo`, `dpo`."""
    checkpoint: str
    """Folder it was loaded from, relative to the project folder."""
    kl: Estimate
    """KL to the reference (SFT), nats per completion."""
    length: Estimate
    """Tokens per completion, the stop token included."""
    repetition: Estimate
    """Share of repeated 3-grams."""
    gold: Estimate | None = None
    """Score of the gold judge."""
    proxy: Estimate | None = None
    """Score of the reward model."""
    win_rate_vs_sft: Estimate | None = None
    """Under the gold judge, on the same prompts, ties as a half; for SFT itself `exactly(0.5, n)`."""
    further: Mapping[str, Estimate] = field(default_factory=dict)
    """Any other estimate, such as `perplexity_under_sft` or `positive_share`; each is a further key of the policy's JSON."""

    def to_json(self) -> dict[str, Any]:
        """Keys as published: name, checkpoint, gold, proxy, kl, win_rate_vs_sft, length, repetition, then the further ones."""
        estimates = ("gold", "proxy", "kl", "win_rate_vs_sft", "length", "repetition")
        given = {name: getattr(self, name) for name in estimates if getattr(self, name) is not None}
        return {
            "name": self.name,
            "checkpoint": self.checkpoint,
            **encode(given),
            **encode(self.further),
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> "PolicySummary":
        """The opposite of `to_json`; any unknown key that holds an estimate is a further one."""
        known = {field.name for field in fields(cls)}
        others = value if isinstance(value, dict) else {}
        further = {
            key: decode(Estimate, item, at(where, key))
            for key, item in others.items()
            if key not in known and isinstance(item, dict)
        }
        return decode_fields(cls, value, where, further=further)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModelSummary:
    """The reward model in two numbers."""

    accuracy: Estimate
    """On held-out comparisons, ties as a half."""
    ceiling: float | None
    """What a perfect model would reach on labels as noisy as these; None if the noise is not known."""
    gold_accuracy: Estimate | None = None
    """Against noise-free gold utilities."""
    checkpoint: str = ""
    """Folder it was loaded from, relative to the project folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredData:
    """What was measured on, and what became of the other rows."""

    what: str
    """`prompts` or `comparisons`."""
    source: str
    rows: int
    """Rows read, good or bad."""
    measured: int
    """Records that the numbers are of."""
    part: str
    """`heldout`, `train` or `all`."""
    why: str = ""
    """Why this part, where it was not asked for."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What was not measured, by reason."""
    truncated: int = 0
    """Measured, but cut to the budgets of tokens."""

    def __str__(self) -> str:
        reason = f": {self.why}" if self.why else ""
        text = f"{self.measured} {self.what} of {self.rows} rows in {self.source} are measured (part {self.part}{reason})"
        left_out = ", ".join(f"{count} {why}" for why, count in self.left_out.items())
        text += f"; left out: {left_out}" if left_out else ""
        return text + (
            f"; {self.truncated} of the rows are truncated to the token budgets" if self.truncated else ""
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """How long one stage took."""

    stage: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """`summary.json`."""

    recipe: str
    seconds: float
    """Wall-clock time of the whole loop."""
    peak_rss_mb: float
    """Most memory the process held, MiB."""
    reward_model: RewardModelSummary | None
    policies: tuple[PolicySummary, ...]
    """The first is what the others started from, usually SFT."""
    alarms: tuple[str, ...] = ()
    """Sentences from `text_statistics.policy_alarms`."""
    notes: tuple[str, ...] = ()
    """What a reader must know to read the numbers rightly, one sentence each."""
    data: tuple[MeasuredData, ...] = ()
    """How many rows were measured, and what became of the others."""
    stages: tuple[StageTime, ...] = ()
    """In the order they ran."""
    seed: int | None = None
    commands: tuple[str, ...] = ()
    """Commands that make the same numbers again."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Resolved settings by stage, as they were written into the run folders."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of prefloop, Python, torch and the like, and the machine."""
    units: Mapping[str, str] = field(default_factory=lambda: dict(UNITS))
    """Unit of each estimate by name."""
    verdict: str = ""
    """What came of it in plain words: the first sentence of the report."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Further facts for the line under the title: the date, the model and its size."""
    start: str = "SFT"
    """What the first policy is called in sentences."""
    judge: str = "the gold judge"
    """Who the win rates are by, in sentences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedCompletion:
    """One completion as it was judged. A judge that there was not is None."""

    text: str
    gold: float | None
    proxy: float | None
    tokens: int
    ended: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedPolicy:
    """A policy's completions, for each prompt of the evaluation its K."""

    name: str
    completions: tuple[tuple[EvaluatedCompletion, ...], ...]
    """`[prompts][K]`."""
    text: TextStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierPoint:
    """One policy, or one stage of its training, on the plane of score against KL."""

    policy: str
    """Points of one policy are joined, in the order given."""
    label: str
    """What tells it apart: a step, a coefficient."""
    kl: Estimate
    score: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """`evaluation.json`: samples, tables and curves. Whatever was not measured is empty and left out of the report."""

    prompts: tuple[Prompt, ...]
    """Held-out prompts, in the order of every policy's completions."""
    policies: tuple[EvaluatedPolicy, ...]
    reward_model: RewardModelQuality | None = None
    wins: WinMatrix = field(default_factory=lambda: WinMatrix(names=(), rates=()))
    """Each policy against each other."""
    frontier: tuple[FrontierPoint, ...] = ()
    """Further points besides the policies of the summary: checkpoints, other settings."""
    best_of_n: tuple[BestOf, ...] = ()
    """The starting policy with best-of-n by the reward model."""
    lineage: str = ""
    """The tree that `prefloop lineage` prints."""


def write_summary(path: Path, summary: Summary) -> None:
    """Write `summary.json`, whole or not at all, without passwords of addresses."""
    write_json(path, replace(summary, settings=without_passwords(summary.settings)))


def read_summary(path: Path) -> Summary:
    """Read `summary.json`; `InputError` names the field that is wrong."""
    return decode(Summary, read_json(path), f"{path}: ")


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write `evaluation.json`, whole or not at all."""
    write_json(path, evaluation)


def read_evaluation(path: Path) -> Evaluation:
    """Read `evaluation.json`; `InputError` names the field that is wrong."""
    return decode(Evaluation, read_json(path), f"{path}: ")
