"""The small configurations that the stages compose. No torch here: the command line reads these to print help."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from prefloop.errors import InputError


def require(condition: bool, message: str) -> None:
    """Raise `InputError` unless a setting makes sense; the message names the field, its value and what would be right."""
    if not condition:
        raise InputError(message)


def require_effect(settings: Any, *rules: tuple[bool, Sequence[str], str]) -> None:
    """Raise `InputError` for the first setting that was given and has no effect.

    A rule is a condition, the settings that have no effect where it holds, and why, which goes on after `NAME is VALUE, `.
    """
    usual = {field.name: field.default for field in fields(settings)}
    for name, why in ((name, why) for applies, names, why in rules if applies for name in names):
        value = getattr(settings, name)
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        require(value == usual[name], f"{name} is {shown}, {why}; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """AdamW and its schedule."""

    lr: float = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the rate falls from its peak to zero at the last step."""
    warmup: float = 0.0
    """Share of all steps over which the rate rises from zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay, applied to matrices only, not to biases or norms."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the denominator."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 is off."""

    def __post_init__(self) -> None:
        require(self.lr >= 0, f"lr is {self.lr}; it must be 0 or more")
        require(
            0 <= self.warmup <= 1,
            f"warmup is {self.warmup}; it must be a share of all steps, between 0 and 1",
        )
        require(self.max_grad_norm >= 0, f"max_grad_norm is {self.max_grad_norm}; it must be 0 (off) or more")
        require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; it must be 0 (off) or more")
        for name in ("beta1", "beta2"):
            decay = getattr(self, name)
            require(0 <= decay < 1, f"{name} is {decay}; it must be at least 0 and below 1")
        require(self.eps > 0, f"eps is {self.eps}; it must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRA:
    """Low-rank adapters (arXiv:2106.09685) instead of training every weight."""

    rank: int = 0
    """Rank of the update; 0 trains all weights."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the layers to adapt; empty means every linear layer of the trunk."""
    adapter: Literal["merge", "train"] = "merge"
    """If the model is itself an adapter: merge it into its base first, or train it further, with its own rank and layers."""

    @property
    def on(self) -> bool:
        """Whether an adapter is trained, and not every weight."""
        return self.rank > 0 or self.adapter == "train"

    def __post_init__(self) -> None:
        require(self.rank >= 0, f"lora.rank is {self.rank}; it must be 0 (off) or more")
        require(self.alpha > 0, f"lora.alpha is {self.alpha}; it must be above 0")
        require(
            self.on or (self.alpha == 16.0 and not self.targets),
            "lora.alpha or lora.targets is set, but lora.rank is 0, so no adapter is trained; set lora.rank, or leave them out",
        )
        own = not (self.rank or self.targets)
        require(
            self.adapter == "merge" or own,
            f"lora.adapter is train with lora.rank {self.rank} and targets {list(self.targets)}, but the adapter has its own; leave both out",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How completions are drawn."""

    max_new_tokens: int = 64
    """Maximum number of completion tokens, stop token included."""
    temperature: float = 1.0
    """Logits are divided by it, here and wherever these completions' log-probabilities are computed again."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this much probability; 1 keeps all."""
    top_k: int = 0
    """Keep this many tokens; 0 keeps all."""
    batch_size: int = 64
    """Sequences decoded together. Affects speed and memory, never the samples."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more")
        require(self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1")
        require(self.top_k >= 0, f"top_k is {self.top_k}; it must be 0 (off) or more")
        require(
            self.temperature > 0 or (self.top_p == 1 and self.top_k == 0),
            f"temperature is 0, which always takes the most likely token, so top_p {self.top_p} and top_k {self.top_k} have no effect; "
            "leave them out, or raise temperature",
        )
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What to read, and what its rows are."""

    source: str = ""
    """A file (.jsonl .json .csv .tsv .parquet, also .gz and .zst), a folder, or a Hugging Face data set's name."""
    split: str = "train"
    """Split of a data set that has several."""
    format: str = ""
    """Format of the rows: a format or layout of docs/data.md, such as comparison, alpaca or shp; empty recognises it by the columns."""
    columns: tuple[str, ...] = ()
    """Names of the file's columns, as NAME=COLUMN: prompt=instruction,completion=output. Columns not listed keep their names."""
    chat: bool = False
    """Turn a plain-text prompt into a user's message, so that the model's chat template is applied to it."""
    max_gb: float = 16.0
    """Gigabytes that a compressed file may expand to; reading stops beyond that."""

    def __post_init__(self) -> None:
        require_rows(self)


def require_rows(rows: Rows) -> None:
    """The checks of `Rows`, for the classes that add to it."""
    require(rows.max_gb > 0, f"max_gb is {rows.max_gb}; it must be above 0")
    require(
        not (rows.format or rows.columns or rows.chat or rows.split != "train") or not in_store(rows.source),
        "split, format, columns and chat describe the rows of a file, but source is the store; leave them out",
    )


STORE = "store"
"""A source that means the project's store; `store:NAME` and `store:NAME@3` mean a dataset version saved in it."""


def in_store(source: str) -> bool:
    """Whether a source is the project's store, or a dataset version in it."""
    return source == STORE or source.startswith(f"{STORE}:")


JudgedBy = Literal["all", "human", "ai", "simulated"]
JUDGED_BY: tuple[str, ...] = get_args(JudgedBy)
Aggregate = Literal["each", "majority", "dawid_skene", "one_coin"]
AGGREGATES: tuple[str, ...] = get_args(Aggregate)
GOLD_ANSWERED = 5
"""Known answers that an annotator must have been asked, if nothing is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selecting:
    """Which judgements of a store to use; all by default."""

    projects: tuple[str, ...] = ()
    """Judgements made in these projects of the studio only."""
    annotators: tuple[str, ...] = ()
    """Judgements of these annotators only."""
    judged_by: JudgedBy = "all"
    """Judgements of one kind of annotator only."""
    rounds: tuple[int, ...] = ()
    """Judgements of these rounds only."""
    strategies: tuple[str, ...] = ()
    """Judgements of items picked by these strategies only: `uniform` for what `label select` drew uniformly, to measure on."""
    since: str = ""
    """Judgements made at this time or later, for example 2026-11-29 or 2026-11-29T18:30+01:00; UTC if it has no time zone."""
    adjudicated: bool = False
    """Where people disagreed and an adjudicator decided, take the decision instead of their answers; otherwise decisions are left out. Of comparisons
    and labels."""
    aggregate: Aggregate = "each"
    """Of comparisons: every judgement by itself; or one comparison per pair, with the probability that it is right (`p_soft`): the majority's share, or
    the probability under an annotator model."""
    min_agreement: float = 0.0
    """Items on which at least this share of annotators give the commonest answer; 0 uses all. Of comparisons and labels."""
    gold_passed: float = 0.0
    """Judgements of annotators who got at least this share of their project's known answers right; 0 uses everybody's."""
    gold_answered: int = GOLD_ANSWERED
    """How many known answers an annotator must have been asked for `gold_passed`; whoever was asked fewer has not passed."""

    def __post_init__(self) -> None:
        require_selecting(self)

    @property
    def stated(self) -> dict[str, object]:
        """The settings that are not as they are by default, by name."""
        return {
            setting.name: getattr(self, setting.name)
            for setting in fields(Selecting)
            if getattr(self, setting.name) != setting.default
        }

    @property
    def moment(self) -> datetime | None:
        """`since` as a moment; None if it is empty."""
        return moment_of(self.since)


def moment_of(since: str) -> datetime | None:
    """A time as ISO 8601 writes it, in UTC if it has no time zone; None for an empty text. Raises `InputError` for another one."""
    if not since:
        return None
    try:
        read = datetime.fromisoformat(since)
    except ValueError:
        raise InputError(f"since is {since!r}; write it as 2026-11-29 or 2026-11-29T18:30+01:00") from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def require_selecting(chosen: Selecting) -> None:
    """The checks of `Selecting`, for the classes that add to it."""
    moment_of(chosen.since)
    for name, known in (("judged_by", JUDGED_BY), ("aggregate", AGGREGATES)):
        value = getattr(chosen, name)
        require(value in known, f"{name} is {value!r}; it must be one of {', '.join(known)}")
    for name in ("min_agreement", "gold_passed"):
        share = getattr(chosen, name)
        require(0 <= share <= 1, f"{name} is {share}; it must be a share, 0 (off) to 1")
    require(chosen.gold_answered >= 1, f"gold_answered is {chosen.gold_answered}; it must be 1 or more")
    require(
        chosen.gold_passed > 0 or chosen.gold_answered == GOLD_ANSWERED,
        f"gold_answered is {chosen.gold_answered}, but gold_passed is 0, so nobody has to pass; set gold_passed, or leave it out",
    )
    require(
        all(number >= 0 for number in chosen.rounds), f"rounds are {list(chosen.rounds)}; each is 0 or more"
    )


OF_SOME_KINDS = {
    "adjudicated": (("comparisons", "labels"), "are decided by adjudicators"),
    "aggregate": (("comparisons",), "are aggregated"),
    "min_agreement": (("comparisons", "labels"), "have a commonest answer"),
}
"""Settings of `Selecting` that not every kind of record has a use for: those that have, and what they are."""


def require_selects(chosen: Selecting, kind: str, *, prefix: str = "") -> None:
    """Raise `InputError` if a kind of record has no use for a setting. `prefix` stands before the setting's name in what is said."""
    for name, value in chosen.stated.items():
        kinds, what = OF_SOME_KINDS.get(name, ((kind,), ""))
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        require(
            kind != "prompts", f"{prefix}{name} is {shown}, but prompts are not judged; leave it out for them"
        )
        require(
            kind in kinds,
            f"{prefix}{name} is {shown}, but kind is {kind}; only {' and '.join(kinds)} {what}, so leave it out",
        )


HELDOUT = 0.1
"""Share of prompts held out, if nothing is said."""


def require_part(part: str, heldout: float) -> None:
    """The checks of settings that read a part of the prompts."""
    require(0 <= heldout < 1, f"heldout is {heldout}; it must be a share, at least 0 and below 1")
    require(
        part != "all" or heldout == HELDOUT,
        f"heldout is {heldout}, but part is all, which ignores it; set part to train or heldout, or leave heldout out",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Data(Rows):
    """What to read, and which part of it is held out."""

    source: str = ""
    """A file (.jsonl .json .csv .tsv .parquet, also .gz and .zst), a folder, a Hugging Face data set's name, `store` for the project's store, or `store:NAME@3` for version 3 of a dataset saved in it (`store:NAME` for the newest)."""
    select: Selecting = field(default_factory=Selecting)
    """Which judgements to read, if the source is `store`."""
    heldout: float = 0.1
    """Share of prompts, chosen by hash, that is never trained on and is used for evaluation."""
    limit: int = 0
    """Use this many records at most, the first ones; 0 uses all. What is left out is counted in the summary."""
    max_prompt_tokens: int = 512
    """A longer prompt is an error unless `overlong` says otherwise."""
    max_completion_tokens: int = 512
    """A longer completion is an error unless `overlong` says otherwise."""
    overlong: Literal["error", "drop", "truncate"] = "error"
    """What to do with longer ones: stop, drop the record, or truncate (keep a prompt's end and a completion's start). They are counted."""
    skip_bad: bool = False
    """Leave malformed rows out, count and list them, instead of stopping at them."""

    def __post_init__(self) -> None:
        require_rows(self)
        require(
            0 <= self.heldout < 1, f"heldout is {self.heldout}; it must be a share, at least 0 and below 1"
        )
        require(self.limit >= 0, f"limit is {self.limit}; it must be 0 (all) or more")
        require(
            self.max_prompt_tokens >= 1,
            f"max_prompt_tokens is {self.max_prompt_tokens}; it must be 1 or more",
        )
        require(
            self.max_completion_tokens >= 1,
            f"max_completion_tokens is {self.max_completion_tokens}; it must be 1 or more",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """Device, precision and memory. Affects speed and memory, and results only by float noise (`quantize`: by rounding)."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations; log-probabilities, losses, heads and optimiser sums stay float32."""
    quantize: Literal["none", "nf4", "int8"] = "none"
    """nf4 keeps the frozen weights under an adapter in 4 bits (QLoRA), a quarter of bfloat16's memory; int8 in 8 bits, half of it, rounded less."""
    attention: Literal["auto", "packed", "padded"] = "auto"
    """packed computes no padding and each prompt once; auto falls back to padded, with a warning, if a model cannot be packed."""
    shard: Literal["none", "full", "hybrid"] = "none"
    """Shard weights, gradients and optimiser state over all processes (full), or over those of each machine, with machines as replicas (hybrid)."""
    offload: bool = False
    """Keep sharded weights, gradients and optimiser state in the machine's memory, not the GPU's; AdamW runs on the CPU. Needs `shard`."""
    micro_batch_tokens: int = 8192
    """Tokens per forward and backward pass; a step runs as many as it needs."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python. Off unless you have read that code."""
    wait_minutes: float = 30.0
    """Minutes that a process waits for the others before the run stops and names the missing ones."""

    def __post_init__(self) -> None:
        require(
            self.micro_batch_tokens >= 1,
            f"micro_batch_tokens is {self.micro_batch_tokens}; it must be 1 or more",
        )
        require(
            0 < self.wait_minutes <= 60 * 24 * 7,
            f"compute.wait_minutes is {self.wait_minutes}; it must be above 0, and at most a week",
        )
        require(
            not self.offload or self.shard != "none",
            "compute.offload is true, but only a sharded model is offloaded; set compute.shard to full or hybrid",
        )
        require(
            self.quantize == "none" or self.shard == "none",
            f"compute.quantize is {self.quantize} and compute.shard {self.shard}, which do not go together; leave one of them out",
        )


def require_whole(compute: Compute, why: str) -> None:
    """Raise `InputError` for quantised weights where there is a use for whole ones only."""
    require(
        compute.quantize == "none",
        f"compute.quantize is {compute.quantize}, but {why}, which quantised weights do not allow; leave it out",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """The run folder: what is written there, how often, and what stops a run."""

    out: str = ""
    """Run folder. Its parent is the project folder, which holds the store."""
    store: str = ""
    """Store to record the run in: a file or a database URL; empty uses prefloop.db in the project folder."""
    seed: int = 0
    """Everything random derives from it."""
    resume: bool = False
    """Continue from the last checkpoint in the run folder."""
    save_every: int = 0
    """Steps between checkpoints; 0 saves at the end, and when interrupted."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    log_every: int = 1
    """Steps between lines in metrics.jsonl."""
    track: Literal["tensorboard", "wandb", "mlflow", "trackio"] = "tensorboard"
    """Where metrics are shown, besides metrics.jsonl. A resumed run continues the same run there. Each but TensorBoard is an extra of its name."""
    max_nonfinite: int = 5
    """Stop after this many steps in a row with a loss or gradient that is not finite."""
    tune: bool = True
    """Set up memory allocator, threads and matrix products for this machine; `--no-tune` is `--run.tune false`."""

    def __post_init__(self) -> None:
        require(bool(self.out), "run.out is empty; name the run folder, for example --run.out runs/first")
        require(
            self.save_every >= 0,
            f"run.save_every is {self.save_every}; it must be 0 (only at the end) or more",
        )
        require(self.keep >= 1, f"run.keep is {self.keep}; it must be 1 or more")
        require(self.log_every >= 1, f"run.log_every is {self.log_every}; it must be 1 or more")
        require(self.max_nonfinite >= 1, f"run.max_nonfinite is {self.max_nonfinite}; it must be 1 or more")
