"""What a stage trains on: records read from a file or the store, split by prompt, as tokens, with a hash that says exactly what they were."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Data
from prefloop.data import (
    content_hash,
    how,
    load_comparisons,
    load_demonstrations,
    load_labels,
    load_prompts,
    load_rankings,
    load_scores,
    load_steps,
    load_texts,
    split,
)
from prefloop.data.load import NO_ONE_ORDER, Loaded, is_strict
from prefloop.data.store import Filters, Source, Store
from prefloop.errors import InputError
from prefloop.losses.quantities import Data as Kind
from prefloop.records import Comparison, Conversation, Demonstration, Label, Prompt, Ranking, Score, Text
from prefloop.runtime.checkpoint import Content
from prefloop.runtime.world import World
from prefloop.text import encode_all, encode_prompts
from prefloop.text.encode import Tally
from prefloop.text.groups import Group

R = TypeVar("R")
STORE = "store"
"""`data.source` that means: what people (or judges, or simulated annotators) left in the project's store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples(Generic[R]):
    """Records, and each one's tokens."""

    records: tuple[R, ...]
    groups: list[Group]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Prompts, each one's tokens, and where it stands."""

    records: tuple[Prompt, ...]
    ids: list[list[int]]
    origins: tuple[str, ...]
    """`file:line`, or the store and the place in it."""

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Where data came from, for the run's log and for the store."""

    sources: tuple[Source, ...]
    exports: tuple[int, ...]
    sha256: str
    """Of all records read, trained on and held out."""
    summary: str
    rows: int = 0
    """Rows read, good or bad; of a store the records of the export."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why rows or records are not used, and how many."""
    truncated: int = 0
    """Records that were cut to the budgets."""

    def as_tokens(self, encoded: Tally, train: int, heldout: int) -> "Read":
        """The same with what became of the records once they were tokens, and how they were parted."""
        counts = {"over the token budgets": len(encoded.dropped), "not encodable": len(encoded.bad)}
        return replace(
            self,
            summary=f"{self.summary} As tokens: {encoded.describe()}. Train {train}, held out {heldout}.",
            left_out={**self.left_out, **_positive(counts)},
            truncated=len(encoded.truncated),
        )

    @property
    def content(self) -> Content:
        """For the fingerprint of a run that reads it."""
        names = ", ".join(source.name for source in self.sources) or STORE
        return Content(what=f"the data of {names}", sha256=self.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs(Generic[R]):
    """A stage's examples, parted by the hash of their prompt."""

    train: Examples[R]
    heldout: Examples[R]
    read: Read


def _from_files(data: Data, load: Callable[..., Loaded[R]], **options: Any) -> tuple[Loaded[R], Read]:
    if not data.source:
        raise InputError("data.source is empty; name a file, a folder or a data set")
    if data.source == STORE:
        raise InputError(
            "data.source is `store`, which holds prompts and comparisons; name a file, a folder or a data set here"
        )
    if data.judged_by != "all":
        raise InputError(
            f"data.judged_by is {data.judged_by}, but {data.source} is not the store, where annotators are known; leave it out, or read data.source store"
        )
    loaded = load(data.source, skip_bad=data.skip_bad, limit=data.limit, **how(data), **options)
    digest = content_hash(loaded.records)
    source = Source(name=data.source, sha256=digest, rows=len(loaded.records))
    left_out = {"bad rows": len(loaded.summary.bad), "beyond data.limit": loaded.summary.beyond_limit}
    return loaded, Read(
        sources=(source,),
        exports=(),
        sha256=digest,
        summary=str(loaded.summary),
        rows=loaded.summary.read,
        left_out=_positive(left_out),
    )


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _judged(data: Data) -> Filters:
    """The judgements to take from the store."""
    return Filters(kinds=() if data.judged_by == "all" else (data.judged_by,))


def _part(
    records: Sequence[R],
    read: Read,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    to_train: bool = True,
) -> Inputs[R]:
    """Encode all records and part them; a run with nothing to train on is an error, not a run."""
    encoded = encode_all(
        tokenizer,
        records,  # pyright: ignore[reportArgumentType]
        max_prompt_tokens=data.max_prompt_tokens,
        max_completion_tokens=data.max_completion_tokens,
        overlong=data.overlong,
        skip_bad=data.skip_bad,
    )
    kept = [records[place] for place in encoded.kept]
    train, heldout = split(kept, heldout=data.heldout)  # pyright: ignore[reportArgumentType]
    is_heldout = {id(record) for record in heldout}
    groups = {True: [], False: []}
    for record, group in zip(kept, encoded.groups, strict=True):
        groups[id(record) in is_heldout].append(group)
    if to_train and not train:
        raise InputError(
            f"{data.source}: no record to train on ({encoded.describe()}; {len(heldout)} held out); lower data.heldout, or give more data"
        )
    return Inputs(
        train=Examples(records=tuple(train), groups=groups[False]),  # pyright: ignore[reportArgumentType]
        heldout=Examples(records=tuple(heldout), groups=groups[True]),  # pyright: ignore[reportArgumentType]
        read=read.as_tokens(encoded, len(train), len(heldout)),
    )


def demonstrations(
    data: Data, tokenizer: PreTrainedTokenizerBase, world: World
) -> Inputs[Demonstration | Conversation]:
    """Demonstrations and conversations from a file or data set."""

    def work() -> Inputs[Demonstration | Conversation]:
        loaded, read = _from_files(data, load_demonstrations)
        return _part(loaded.records, read, data, tokenizer)

    return world.on_main(work)


def comparisons(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    store: str,
    world: World,
    *,
    swap_contexts: bool = False,
    to_train: bool = True,
) -> Inputs[Comparison]:
    """Comparisons from a file, a data set or the store; group completions are (chosen, rejected).

    Without `to_train` all of them may be held out.
    With `swap_contexts` each that names an opposite context is there a second time, in that context and the other way round.
    """

    def work() -> Inputs[Comparison]:
        if data.source != STORE:
            loaded, read = _from_files(data, load_comparisons)
            if not swap_contexts:
                return _part(loaded.records, read, data, tokenizer, to_train=to_train)
            swapped = [one.in_opposite_context() for one in loaded.records if one.opposite_context]
            if not swapped:
                raise InputError(
                    f"{data.source}: swap_contexts is on, but no comparison has an opposite_context; add the column, or leave the setting out"
                )
            said = f"{read.summary} Read once more in their opposite context, flipped: {len(swapped)}."
            return _part((*loaded.records, *swapped), replace(read, summary=said), data, tokenizer)
        if swap_contexts:
            raise InputError(
                "swap_contexts is on, but a store keeps no contexts; train on a file, or leave it out"
            )
        used, read = _comparisons_in_store(store, data)
        return _part(used, read, data, tokenizer, to_train=to_train)

    return world.on_main(work)


def _comparisons_in_store(store: str, data: Data) -> tuple[list[Comparison], Read]:
    with Store.open(store, create=False) as opened:
        export = opened.export("comparisons", _judged(data), skip_bad=data.skip_bad)
        everything, where = opened.exported(export.id), opened.label
    records = [record for record in everything if isinstance(record, Comparison)]
    used = records[: data.limit] if data.limit else records
    left_out = ", ".join(f"{count} {reason}" for reason, count in export.left_out.items() if count)
    summary = f"{where}: {export.rows} comparisons (export {export.id}, sha256 {export.sha256[:12]})"
    summary += f"; not comparisons: {left_out}" if left_out else ""
    summary += f"; {len(records) - len(used)} beyond data.limit" if len(used) < len(records) else ""
    counts = {**export.left_out, "beyond data.limit": len(records) - len(used)}
    return used, Read(
        sources=(),
        exports=(export.id,),
        sha256=content_hash(used),
        summary=summary + ".",
        rows=export.rows,
        left_out=_positive(counts),
    )


def plain_comparisons(data: Data, store: str) -> tuple[tuple[Comparison, ...], str]:
    """Comparisons that no model is to read, from a file, a data set or the store, with what became of the rows. On process 0 alone."""
    if data.source != STORE:
        loaded, read = _from_files(data, load_comparisons)
        return loaded.records, read.summary
    used, read = _comparisons_in_store(store, data)
    return tuple(used), read.summary


def examples(
    kind: Kind | Literal["steps"],
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    store: str,
    world: World,
    *,
    from_comparisons: bool = False,
    swap_contexts: bool = False,
    step_separator: str = "\n",
    usable: Callable[[Ranking], bool] = is_strict,
) -> Inputs[Any]:
    """Comparisons, rankings, labels, scores or steps. Rankings may come from the store too; labels from comparisons where that is asked for.

    `usable` says which rankings the loss can train on; others are errors, or with `data.skip_bad` left out and counted.
    """
    if kind == "comparisons":
        return comparisons(data, tokenizer, store, world, swap_contexts=swap_contexts)
    if kind == "labels" and from_comparisons:
        return world.on_main(lambda: _labels_of_comparisons(data, tokenizer))

    def work() -> Inputs[Any]:
        if kind == "rankings" and data.source == STORE:
            records, read = _rankings_in_store(store, data, usable)
            return _part(records, read, data, tokenizer)
        if kind == "steps":
            loaded, read = _from_files(data, load_steps)
            records = [replace(record, separator=step_separator) for record in loaded.records]
            return _part(records, read, data, tokenizer)
        if kind == "rankings":
            loaded, read = _from_files(data, load_rankings, usable=usable)
            return _part(loaded.records, read, data, tokenizer)
        loaders = {"labels": load_labels, "scores": load_scores}
        loaded, read = _from_files(data, loaders[kind])
        return _part(loaded.records, read, data, tokenizer)

    return world.on_main(work)


def _labels_of_comparisons(data: Data, tokenizer: PreTrainedTokenizerBase) -> Inputs[Label]:
    loaded, read = _from_files(data, load_comparisons)
    soft = next((pair for pair in loaded.records if pair.p_soft != 1), None)
    if soft is not None:
        raise InputError(
            f"{soft.origin}: p_soft is {soft.p_soft:g}, but from_comparisons makes good and bad of chosen and rejected; leave the column p_soft out"
        )
    labels = [
        Label(
            prompt=pair.prompt,
            completion=completion,
            good=good,
            annotator=pair.annotator,
            origin=pair.origin,
        )
        for pair in loaded.records
        for completion, good in ((pair.chosen, True), (pair.rejected, False))
    ]
    said = replace(read, summary=f"{read.summary} Chosen are taken as good, rejected as bad.")
    return _part(labels, said, data, tokenizer)


def _rankings_in_store(
    store: str, data: Data, usable: Callable[[Ranking], bool]
) -> tuple[list[Ranking], Read]:
    with Store.open(store, create=False) as opened:
        export = opened.export("rankings", _judged(data), skip_bad=data.skip_bad)
        records = [record for record in opened.exported(export.id) if isinstance(record, Ranking)]
        where = opened.label
    loose = [record for record in records if not usable(record)]
    if loose and not data.skip_bad:
        raise InputError(
            f"{loose[0].origin}: {NO_ONE_ORDER[0]} ({len(loose)} of {len(records)} rankings do); {NO_ONE_ORDER[1]} with data.skip_bad"
        )
    records = [record for record in records if usable(record)]
    used = records[: data.limit] if data.limit else records
    summary = (
        f"{where}: {len(used)} of {export.rows} rankings (export {export.id}, sha256 {export.sha256[:12]})."
    )
    if loose:
        summary += f" Left out, for the loss cannot use ties or an unordered rest: {len(loose)}."
    return used, Read(sources=(), exports=(export.id,), sha256=content_hash(used), summary=summary)


def prompts(data: Data, tokenizer: PreTrainedTokenizerBase, store: str) -> tuple[Prompts, Prompts, Read]:
    """Prompts of a file's records, a data set or the store: (train, held out, where they came from)."""
    if data.source == STORE:
        if data.judged_by != "all":
            raise InputError(f"data.judged_by is {data.judged_by}, but prompts are not judged; leave it out")
        with Store.open(store, create=False) as opened:
            export = opened.export("prompts", Filters())
            records = tuple(record for record in opened.exported(export.id) if isinstance(record, Prompt))
            where = opened.label
        records = records[: data.limit] if data.limit else records
        summary = f"{where}: {len(records)} of {export.rows} prompts (export {export.id})."
        read = Read(
            sources=(),
            exports=(export.id,),
            sha256=content_hash(records),
            summary=summary,
            rows=export.rows,
            left_out=_positive({"beyond data.limit": export.rows - len(records)}),
        )
        origins = tuple(f"{where}: prompt {place + 1}" for place in range(len(records)))
    else:
        loaded, read = _from_files(data, load_prompts)
        records, origins = loaded.records, loaded.origins
    encoded = encode_prompts(
        tokenizer,
        records,
        max_prompt_tokens=data.max_prompt_tokens,
        overlong=data.overlong,
        skip_bad=data.skip_bad,
        origins=origins,
    )
    kept = [records[place] for place in encoded.kept]
    train, heldout = split(kept, heldout=data.heldout)
    known = {
        prompt.sha256: (ids, origins[place])
        for prompt, ids, place in zip(kept, encoded.prompts, encoded.kept, strict=True)
    }

    def part(some: Sequence[Prompt]) -> Prompts:
        found = [known[prompt.sha256] for prompt in some]
        return Prompts(
            records=tuple(some),
            ids=[ids for ids, _ in found],
            origins=tuple(origin for _, origin in found),
        )

    return part(train), part(heldout), read.as_tokens(encoded, len(train), len(heldout))


def texts(data: Data) -> tuple[tuple[Text, ...], tuple[Text, ...], Read]:
    """Documents: (train, held out, where they came from)."""
    loaded, read = _from_files(data, load_texts)
    train, heldout = split(loaded.records, heldout=data.heldout)
    if not train:
        raise InputError(f"{data.source}: no text to train on; lower data.heldout, or give more data")
    summary = f"{read.summary} Train {len(train)}, held out {len(heldout)}."
    return (
        tuple(train),
        tuple(heldout),
        Read(sources=read.sources, exports=read.exports, sha256=read.sha256, summary=summary),
    )


def refuse_one_kind(inputs: Inputs[Any], what: str) -> None:
    """Raise `InputError` where all labels, or all scores, are the same: then there is no difference to learn from."""
    records = inputs.train.records
    goods = {record.good for record in records if isinstance(record, Label)}
    values = {record.value for record in records if isinstance(record, Score)}
    if len(goods) == 1:
        raise InputError(
            f"{what} learns from the difference between good and bad completions, but all {len(records)} are "
            f"{'good' if goods.pop() else 'bad'}; give both kinds"
        )
    if len(values) == 1:
        raise InputError(
            f"{what} learns from the difference between scores, but all {len(records)} are {values.pop():g}; "
            "give completions with different scores"
        )


def refuse_soft_labels(inputs: Inputs[Any], what: str, way_out: str) -> None:
    """`InputError` if a comparison says how likely its label is (`p_soft`); `what` cannot use that."""
    soft = [
        record
        for record in (*inputs.train.records, *inputs.heldout.records)
        if isinstance(record, Comparison) and record.p_soft != 1
    ]
    if soft:
        where = f"{soft[0].origin}: " if soft[0].origin else ""
        raise InputError(
            f"{where}p_soft is {soft[0].p_soft:g} ({len(soft)} comparisons have a soft label), and {what} has no meaning for one; {way_out}, "
            "or leave the column p_soft out to take every label as certain"
        )


def store_of(out: str, store: str) -> str:
    """The project's store: as configured, else `prefloop.db` beside the run folder."""
    return store or str(Path(out).resolve().parent / "prefloop.db")
