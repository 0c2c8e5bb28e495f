"""Records of a file into the store: prompts, completions by their author, and judgements by their annotators.

What a file does not say stays unsaid: sampling settings, log-probabilities and lengths of completions are not known, and neither is the order
in which they were shown, so completions take their slots by the hash of their text, which favours neither side.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.data.formats import Record
from prefloop.data.images import Image
from prefloop.data.load import Loaded
from prefloop.data.store import Choice, Judgement, Store
from prefloop.data.store.values import AnnotatorKind
from prefloop.errors import InputError
from prefloop.records import (
    Comparison,
    Completion,
    Conversation,
    Demonstration,
    Label,
    Prompt,
    Ranking,
    Score,
    Steps,
    Text,
)

HUMAN = "human"


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What an import found; what the store had already is counted too."""

    prompts: int
    completions: int
    comparisons: int
    rankings: int
    repeated: int
    """Judgements that say again what the same annotator said of the same completions."""
    bad: tuple[str, ...]
    """Judgements left out because they contradict an earlier one by the same annotator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """What one record says: completions of a prompt, best first."""

    prompt: Prompt
    texts: tuple[str, ...]
    annotator: str
    margin: float
    origin: str
    ranks: tuple[int, ...] = ()
    top: int = 0

    @property
    def key(self) -> tuple[str, str, frozenset[str]]:
        """Who judged what."""
        return self.annotator, self.prompt.sha256, frozenset(self.texts)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Groups of texts, best first, ties together; of a best of K the best alone."""
        if self.top:
            return (self.texts[:1],)
        if not self.ranks:
            return tuple((text,) for text in self.texts)
        groups: dict[int, tuple[str, ...]] = {}
        for text, rank in zip(self.texts, self.ranks, strict=True):
            groups[rank] = (*groups.get(rank, ()), text)
        return tuple(groups.values())

    @property
    def judgement(self) -> tuple[tuple[frozenset[str], ...], float, int]:
        """What is the same where a judgement is repeated."""
        return tuple(map(frozenset, self.groups)), self.margin, self.top


def import_records(
    store: Store,
    loaded: Loaded[Record],
    *,
    author: str = HUMAN,
    annotator: str = "",
    annotator_kind: AnnotatorKind = "human",
    round: int = 0,
    tags: Sequence[str] = (),
    skip_bad: bool = False,
    images: Iterable[Image] = (),
) -> Imported:
    """Write records into the store. Running it again adds nothing.

    `author` wrote the completions, `annotator` judged where a record does not say who did. Raises `InputError`, before anything is written, for
    records that a store has no place for (texts, labels, scores) and for an annotator who says the opposite of an earlier record;
    `skip_bad` leaves such a record out and lists it. `images`: those whose marks the records hold.
    """
    source = loaded.summary.source
    records = loaded.records
    if records and isinstance(records[0], Text | Steps | Label | Score):
        raise InputError(
            f"{source}: holds rows of format {loaded.summary.format}; a store takes prompts, demonstrations, chats, comparisons and rankings"
        )
    soft = [record for record in records if isinstance(record, Comparison) and record.p_soft != 1]
    if soft:
        raise InputError(
            f"{soft[0].origin or source}: p_soft is {soft[0].p_soft:g} ({len(soft)} rows have one); a store keeps single judgements and aggregates "
            "them itself (`prefloop label export --aggregate`): train on the file, or leave the column p_soft out"
        )
    in_context = [record for record in records if isinstance(record, Comparison) and record.context]
    if in_context:
        raise InputError(
            f"{in_context[0].origin or source}: it has a context ({len(in_context)} rows do), which a store does not keep; train on the file"
        )
    deep = [record for record in records if isinstance(record, Ranking) and record.top > 1]
    if deep:
        raise InputError(
            f"{deep[0].origin or source}: top is {deep[0].top} ({len(deep)} rows have more than 1); a store keeps whole rankings and the best of "
            "a list: train on the file, or write rows of top 1"
        )
    default = annotator or Path(source).name
    judged, repeated, bad = _settle(list(_judgements(records, default)))
    if bad and not skip_bad:
        raise InputError(
            f"{bad[0]}{f' (and {len(bad) - 1} more like it)' if len(bad) > 1 else ''}; "
            "correct it, name annotators in a column `annotator`, or set skip_bad to leave such rows out, counted and listed"
        )
    written = [*_written(records), *((j.prompt, text) for j in judged for text in j.texts)]
    store.add_images(images, records)
    named = {j.annotator for j in judged}
    whole = str(Path(source).resolve()) if Path(source).exists() else source
    annotators = {
        name: store.add_annotator(
            name,
            kind=annotator_kind,
            settings={"source": whole} if name == default and not annotator else {},
        )
        for name in sorted(named)
    }
    prompts = [*(r for r in records if isinstance(r, Prompt)), *(prompt for prompt, _ in written)]
    store.add_prompts(prompts, tags=tags, origin=source)
    ids = add_written(store, written, author)
    for kind in ("pair", "rank"):
        _judge(store, [j for j in judged if _kind(j, records) == kind], ids, annotators, kind, round)
    counts = {kind: sum(_kind(j, records) == kind for j in judged) for kind in ("pair", "rank")}
    return Imported(
        prompts=len(set(prompts)),
        completions=len(ids),
        comparisons=counts["pair"],
        rankings=counts["rank"],
        repeated=repeated,
        bad=tuple(bad),
    )


def _kind(judged: _Judged, records: Sequence[Record]) -> Any:
    """A file holds one kind of record, so the first one tells."""
    return "rank" if isinstance(records[0], Ranking) else "pair"


def _judgements(records: Sequence[Record], default: str) -> Iterator[_Judged]:
    for record in records:
        if isinstance(record, Comparison | Ranking):
            pair = isinstance(record, Comparison)
            yield _Judged(
                prompt=record.prompt,
                texts=(record.chosen, record.rejected) if pair else record.completions,
                annotator=record.annotator or default,
                margin=record.margin if pair else 0.0,
                origin=record.origin,
                ranks=() if pair else record.ranks,
                top=0 if pair else record.top,
            )


def _written(records: Sequence[Record]) -> Iterator[tuple[Prompt, str]]:
    """Prompt and completion of demonstrations, and of every assistant's turn in chats."""
    for record in records:
        if isinstance(record, Demonstration):
            yield record.prompt, record.completion
        elif isinstance(record, Conversation):
            for place, turn in enumerate(record.messages):
                if turn.role == "assistant" and place:
                    yield Prompt(content=record.messages[:place]), turn.content


def _settle(judgements: Sequence[_Judged]) -> tuple[list[_Judged], int, list[str]]:
    """One judgement for what an annotator judged: repeats are counted, contradictions named."""
    first: dict[tuple[str, str, frozenset[str]], _Judged] = {}
    repeated, bad = 0, []
    for judged in judgements:
        known = first.setdefault(judged.key, judged)
        if known is judged:
            continue
        if known.judgement == judged.judgement:
            repeated += 1
        else:
            bad.append(
                f"{judged.origin}: {judged.annotator} judges this differently in {known.origin}: {judged.texts[0]!r:.60} is best here"
            )
    return list(first.values()), repeated, bad


def add_written(
    store: Store, written: Sequence[tuple[Prompt, str]], author: str
) -> dict[tuple[Prompt, str], int]:
    """Add what an author wrote, of which nothing else is known; (prompt, text) -> id."""
    distinct = list(dict.fromkeys(written))
    if not distinct:
        return {}
    checkpoint = store.add_checkpoint(author, kind=HUMAN if author == HUMAN else "policy")
    completions = [
        Completion(
            prompt=prompt,
            text=text,
            policy=author,
            logprob=0.0,
            tokens=0,
            ended=True,
            temperature=0.0,
            top_p=1.0,
            top_k=0,
            seed=0,
            index=0,
        )
        for prompt, text in distinct
    ]
    return dict(zip(distinct, store.add_completions(completions, checkpoint), strict=True))


def _judge(
    store: Store,
    judged: Sequence[_Judged],
    ids: dict[tuple[Prompt, str], int],
    annotators: dict[str, int],
    kind: Any,
    round: int,
) -> None:
    """Make the items and judge them."""
    if not judged:
        return
    groups = [[ids[j.prompt, text] for text in sorted(j.texts, key=_hash)] for j in judged]
    items = store.add_items(groups, kind=kind, strategy="import", round=round)
    slots = {item.id: item.completions for item in store.items()}
    judgements = []
    for judgement, item in zip(judged, items, strict=True):
        best = slots[item].index(judgement.texts[0])
        choice: Choice = "a" if best == 0 else "b"
        if kind == "rank":
            choice = "best" if judgement.top else "ranking"
        who = annotators[judgement.annotator]
        judgements.append(
            Judgement(
                item=item,
                annotator=who,
                choice=choice,
                order_shown=tuple(range(len(judgement.texts))),
                ranking=tuple(
                    tuple(sorted(slots[item].index(text) for text in group)) for group in judgement.groups
                )
                if kind == "rank"
                else (),
                margin=judgement.margin,
                idempotency_key=f"import {who} {item}",
            )
        )
    store.add_judgements(judgements)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
