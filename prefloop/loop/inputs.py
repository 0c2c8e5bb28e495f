"""The training data of a stage: its records as tokens, split by prompt."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import STORE, Data, in_store, require_selects
from prefloop.configs.verifiers import verifiers_among
from prefloop.data import (
    content_hash,
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
from prefloop.data.load import NO_ONE_ORDER, is_strict
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.loop.reading import (
    Read,
    Reader,
    called,
    dataset_version,
    from_files,
    from_store,
    positive,
    read_records,
)
from prefloop.losses.quantities import Data as Kind
from prefloop.records import Comparison, Conversation, Demonstration, Label, Prompt, Ranking, Score, Text
from prefloop.runtime.world import World
from prefloop.text import encode_all, encode_prompts
from prefloop.text.groups import Group
from prefloop.verifiers import problem_with

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples(Generic[R]):
    """Records, and each one's tokens."""

    records: tuple[R, ...]
    groups: list[Group]

    def __len__(self) -> int:
        return len(self.records)

    def take(self, places: Sequence[int]) -> "Examples[R]":
        """Those at these places."""
        return Examples(
            records=tuple(self.records[i] for i in places), groups=[self.groups[i] for i in places]
        )


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
class Inputs(Generic[R]):
    """A stage's examples, split by the hash of their prompt."""

    train: Examples[R]
    heldout: Examples[R]
    read: Read


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
    data: Data, tokenizer: PreTrainedTokenizerBase, store: str, world: World
) -> Inputs[Demonstration | Conversation]:
    """Demonstrations and conversations from a file, a data set or the store."""

    def work() -> Inputs[Demonstration | Conversation]:
        records, read = read_records("demonstrations", data, store, load_demonstrations)
        return _part(records, read, data, tokenizer)

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
    With `swap_contexts` each that names an opposite context is there a second time, in that context and with the sides swapped.
    """

    def work() -> Inputs[Comparison]:
        if swap_contexts and in_store(data.source):
            raise InputError(
                "swap_contexts is on, but a store keeps no contexts; train on a file, or leave it out"
            )
        records, read = read_records("comparisons", data, store, load_comparisons)
        if not swap_contexts:
            return _part(records, read, data, tokenizer, to_train=to_train)
        swapped = [one.in_opposite_context() for one in records if one.opposite_context]
        if not swapped:
            raise InputError(
                f"{data.source}: swap_contexts is on, but no comparison has an opposite_context; add the column, or leave the setting out"
            )
        summary = f"{read.summary} Read once more in their opposite context, flipped: {len(swapped)}."
        return _part((*records, *swapped), replace(read, summary=summary), data, tokenizer)

    return world.on_main(work)


def plain_comparisons(data: Data, store: str) -> tuple[tuple[Comparison, ...], str]:
    """Comparisons that no model is to read, from a file, a data set or the store, with what became of the rows. On process 0 alone."""
    records, read = read_records("comparisons", data, store, load_comparisons)
    return tuple(records), read.summary


def examples(
    kind: Kind | Literal["steps"],
    data: Data,
    reader: Reader,
    *,
    from_comparisons: bool = False,
    swap_contexts: bool = False,
    step_separator: str = "\n",
    usable: Callable[[Ranking], bool] = is_strict,
) -> Inputs[Any]:
    """Comparisons, rankings, labels or scores of a file, a data set or the store; steps of a file; labels of comparisons where that is asked for.

    `usable` says which rankings the loss can train on; others are errors, or with `data.skip_bad` left out and counted.
    """
    tokenizer, store, world = reader.tokenizer, reader.store, reader.world
    if kind == "comparisons":
        return comparisons(data, tokenizer, store, world, swap_contexts=swap_contexts)
    if kind == "labels" and from_comparisons:
        return world.on_main(lambda: _labels_of_comparisons(data, tokenizer, store))

    def work() -> Inputs[Any]:
        if kind == "steps":
            loaded, read = from_files(data, load_steps)
            steps = [replace(record, separator=step_separator) for record in loaded.records]
            return _part(steps, read, data, tokenizer)
        if kind == "rankings":
            return _part(*_rankings(data, store, usable), data, tokenizer)
        loaders = {"labels": load_labels, "scores": load_scores}
        return _part(*read_records(kind, data, store, loaders[kind]), data, tokenizer)

    return world.on_main(work)


def _labels_of_comparisons(data: Data, tokenizer: PreTrainedTokenizerBase, store: str) -> Inputs[Label]:
    records, read = read_records("comparisons", data, store, load_comparisons)
    soft = next((pair for pair in records if pair.p_soft != 1), None)
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
        for pair in records
        for completion, good in ((pair.chosen, True), (pair.rejected, False))
    ]
    read = replace(read, summary=f"{read.summary} Chosen are taken as good, rejected as bad.")
    return _part(labels, read, data, tokenizer)


def _rankings(data: Data, store: str, usable: Callable[[Ranking], bool]) -> tuple[Sequence[Ranking], Read]:
    if not in_store(data.source):
        loaded, read = from_files(data, load_rankings, usable=usable)
        return loaded.records, read
    everything, read = from_store("rankings", store, data)
    records = [record for record in everything if usable(record)]
    if len(records) == len(everything):
        return records, read
    loose = next(record for record in everything if not usable(record))
    count = len(everything) - len(records)
    if not data.skip_bad:
        raise InputError(
            f"{loose.origin}: {NO_ONE_ORDER[0]} ({count} of {len(everything)} rankings do); {NO_ONE_ORDER[1]} with data.skip_bad"
        )
    return records, replace(
        read,
        sha256=content_hash(records),
        summary=f"{read.summary} Left out, because the loss cannot use ties or an unordered rest: {count}.",
        left_out={**read.left_out, "ties or an unordered rest": count},
    )


def demonstrations_in(data: Data) -> tuple[Demonstration | Conversation, ...]:
    """What a file's records answer themselves: demonstrations, chats, chosen completions and best of rankings; none if it holds prompts only."""
    try:
        loaded, _ = from_files(data, load_demonstrations, from_chosen=True)
    except InputError:  # whoever reads the prompts of it says what is wrong
        return ()
    return loaded.records


def prompts(
    data: Data, tokenizer: PreTrainedTokenizerBase, store: str, *, scorers: Sequence[str] = ()
) -> tuple[Prompts, Prompts, Read]:
    """Prompts of a file's records, a data set or the store: (train, held out, where they came from).

    Every row must have what the verifiers among `scorers` read. It is part of the data's hash.
    """
    verifiers = verifiers_among(*scorers)
    if in_store(data.source):
        if verifiers:
            raise InputError(
                f"reward_model or gold reads the column {verifiers[0].column!r} of the prompts, but data.source is {data.source}, where prompts have no columns; "
                "read the prompts from a file"
            )
        records, origins, read = _prompts_in_store(data, store)
    else:
        needed = [(verifier.column, partial(problem_with, verifier)) for verifier in verifiers]
        loaded, read = from_files(data, load_prompts, needed=needed)
        records, origins = loaded.records, loaded.origins
        if needed:
            answers = [[record.columns[column] for column, _ in needed] for record in records]
            digest = hashlib.sha256((read.sha256 + json.dumps(answers)).encode()).hexdigest()
            read = replace(read, sha256=digest)
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


def _prompts_in_store(data: Data, store: str) -> tuple[tuple[Prompt, ...], tuple[str, ...], Read]:
    """All prompts of the store, or those that a dataset version's records answer, each once."""
    with Store.open(store, create=False) as opened:
        if data.source == STORE:
            require_selects(data.select, "prompts", prefix="data.select.")
            export, version = opened.export("prompts"), ""
        else:
            saved = dataset_version(opened, data)
            export, version = saved.export, saved.label
        found = opened.exported(export.id)
        where = opened.label
    everything = tuple(
        dict.fromkeys(record if isinstance(record, Prompt) else record.prompt for record in found)
    )
    records = everything[: data.limit] if data.limit else everything
    origins = tuple(f"{where}: prompt {place + 1}" for place in range(len(records)))
    return (
        records,
        origins,
        Read(
            sources=(),
            exports=(export.id,),
            sha256=content_hash(records),
            summary=f"{where}: {len(records)} of {len(everything)} prompts ({called(version)}export {export.id}).",
            rows=len(everything),
            left_out=positive({"beyond data.limit": len(everything) - len(records)}),
            version=version,
        ),
    )


def texts(data: Data) -> tuple[tuple[Text, ...], tuple[Text, ...], Read]:
    """Documents: (train, held out, where they came from)."""
    loaded, read = from_files(data, load_texts)
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
    """Raise `InputError` if all labels, or all scores, are the same: then there is no difference to learn from."""
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
            f"{where}p_soft is {soft[0].p_soft:g} ({len(soft)} comparisons have a soft label), and {what} cannot use one; {way_out}, "
            "or leave the column p_soft out to take every label as certain"
        )


def refuse_no_margins(inputs: Inputs[Any]) -> None:
    """`InputError` if margins are to be subtracted and no comparison has one."""
    records = (*inputs.train.records, *inputs.heldout.records)
    if not any(record.margin for record in records if isinstance(record, Comparison)):
        raise InputError(
            "margin is on, but no comparison has a margin above 0, so it would change nothing; give the rows a column margin, or set margin to false"
        )
