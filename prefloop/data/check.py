"""`prefloop data check`: what a source holds, how long it is, what is in it twice, what leaks between its parts, and every bad row."""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Unpack

from prefloop.data.contradictions import contradictions
from prefloop.data.formats import Record
from prefloop.data.load import HowLoaded, HowRead, Loaded, LoadSummary, load_records
from prefloop.data.near import near_pairs
from prefloop.data.row_images import Images
from prefloop.data.rows import names
from prefloop.data.split import opening, part_of, split_key
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Label,
    Message,
    Prompt,
    Ranking,
    Score,
    Steps,
    Text,
)

Counter = Callable[[str], int]

EXAMPLES = 5
"""Places shown for each finding; all are counted."""

_SPEAKER = re.compile(r"(?:^|\s)(?:Human|Assistant|User):(?:\s|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldLengths:
    """How long a field is, in one unit, over all rows."""

    field: str
    unit: str
    count: int
    min: int
    median: float
    p95: int
    """The smallest length that at least 95 % of the values do not exceed."""
    max: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something to know about the rows: how many, and where the first of them are."""

    name: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that `check` found. `str()` is the page that people read."""

    summary: LoadSummary
    against: LoadSummary | None
    """The second source, where one was given."""
    heldout: float
    parts: dict[str, int]
    """Records in `train` and `heldout`, by the hash of the prompt."""
    distinct_prompts: int
    facts: dict[str, float]
    """Counts and shares that depend on the format, such as how often the chosen completion is the longer one."""
    lengths: tuple[FieldLengths, ...]
    duplicates: tuple[Finding, ...]
    leaks: tuple[Finding, ...]
    odd: tuple[Finding, ...]
    """Rows that are kept and deserve a look."""

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "summary": self.summary.to_json(),
            "against": self.against.to_json() if self.against else None,
            "heldout": self.heldout,
            "parts": dict(self.parts),
            "distinct_prompts": self.distinct_prompts,
            "facts": dict(self.facts),
            "lengths": [asdict(row) for row in self.lengths],
            "duplicates": [asdict(found) | {"examples": list(found.examples)} for found in self.duplicates],
            "leaks": [asdict(found) | {"examples": list(found.examples)} for found in self.leaks],
            "odd": [asdict(found) | {"examples": list(found.examples)} for found in self.odd],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """What is compared of a record."""

    prompt: Prompt
    """Of a text the text, of a whole chat its opening."""
    completions: tuple[tuple[str, str], ...]
    """Name of the field, and the text."""
    record: Record
    origin: str


def check(
    source: str | Path,
    *,
    heldout: float = 0.1,
    against: str | Path = "",
    against_split: str = "test",
    tokenizer: Counter | None = None,
    **reading: Unpack[HowRead],
) -> Report:
    """Read all of a source and report on it; bad rows are listed, not raised.

    `against` is a second source that should share nothing with the first, such as its test split, and is read alike; `tokenizer` counts the
    tokens of a text.
    Raises `InputError` if the source cannot be read or its format not told.
    """
    first: HowLoaded = {**reading, "skip_bad": True}
    with Images() as images:  # each is looked at as an import would
        loaded = load_records(source, allow_none=True, images=images, **first)
        other = _other(against, images, {**first, "split": against_split}) if against else None
    items = _items(loaded)
    parts: dict[str, list[_Item]] = {"train": [], "heldout": []}
    for item in items:
        parts[part_of(split_key(item.record), heldout=heldout)].append(item)
    leaks = list(_leaks(parts["train"], parts["heldout"], "in train and heldout"))
    if other:
        leaks += _leaks(items, _items(other), f"in {source} and {against}")
    return Report(
        summary=loaded.summary,
        against=other.summary if other else None,
        heldout=heldout,
        parts={name: len(part) for name, part in parts.items()},
        distinct_prompts=len({item.prompt for item in items}),
        facts=_facts([item.record for item in items]),
        lengths=tuple(_lengths(items, tokenizer)),
        duplicates=tuple(_duplicates(items)),
        leaks=tuple(leaks),
        odd=tuple(_odd(items)),
    )


def _other(against: str | Path, images: Images, reading: HowLoaded) -> Loaded[Record]:
    return load_records(against, allow_none=True, images=images, **reading)


def _items(loaded: Loaded[Record]) -> list[_Item]:
    return [
        _Item(
            prompt=opening(record) if isinstance(record, Text | Conversation) else _prompt(record),
            completions=tuple(_completions(record)),
            record=record,
            origin=origin,
        )
        for record, origin in zip(loaded.records, loaded.origins, strict=True)
    ]


def _prompt(record: Prompt | Demonstration | Comparison | Ranking | Steps | Label | Score) -> Prompt:
    return record if isinstance(record, Prompt) else record.prompt


def _completions(record: Record) -> Iterator[tuple[str, str]]:
    if isinstance(record, Comparison):
        yield "chosen", record.chosen
        yield "rejected", record.rejected
    elif isinstance(record, Ranking):
        yield from (("completion", text) for text in record.completions)
    elif isinstance(record, Conversation):
        yield from (("answer", turn.shown) for turn in record.messages if turn.role == "assistant")
    elif isinstance(record, Demonstration | Steps | Label | Score):
        yield "completion", record.completion


def _facts(records: Sequence[Record]) -> dict[str, float]:
    facts: dict[str, float] = {}
    comparisons = [record for record in records if isinstance(record, Comparison)]
    if comparisons:
        longer = [
            (len(pair.chosen) > len(pair.rejected), len(pair.chosen) == len(pair.rejected))
            for pair in comparisons
        ]
        facts["share with chosen longer (characters, equal counts half)"] = sum(
            1.0 if more else 0.5 * same for more, same in longer
        ) / len(longer)
        facts["with a margin"] = sum(pair.margin != 0 for pair in comparisons)
        if soft := sum(pair.p_soft != 1 for pair in comparisons):
            facts["with a soft label"] = soft
        if contexts := sum(bool(pair.context) for pair in comparisons):
            facts["with a context"] = contexts
    labels = [record.good for record in records if isinstance(record, Label)]
    if labels:
        facts["share labelled true"] = sum(labels) / len(labels)
    steps = [good for record in records if isinstance(record, Steps) for good in record.good]
    if steps:
        facts |= {"steps": len(steps), "share of steps labelled true": sum(steps) / len(steps)}
    scores = sorted(record.value for record in records if isinstance(record, Score))
    if scores:
        facts |= {"lowest score": scores[0], "median score": median(scores), "highest score": scores[-1]}
    rankings = [len(record.completions) for record in records if isinstance(record, Ranking)]
    if rankings:
        facts |= {"fewest completions": min(rankings), "most completions": max(rankings)}
    annotators = {name for record in records if (name := getattr(record, "annotator", ""))}
    if annotators:
        facts["annotators"] = len(annotators)
    return facts


def _lengths(items: Sequence[_Item], tokenizer: Counter | None) -> Iterator[FieldLengths]:
    """Of every field; a chat prompt counts as its messages joined by line breaks."""
    texts: dict[str, list[str]] = {}
    for item in items:
        field = "text" if isinstance(item.record, Text) else "prompt"
        texts.setdefault(field, []).append(_said(item.prompt))
        for name, text in item.completions:
            texts.setdefault(name, []).append(text)
    units: dict[str, Counter] = {"characters": len, "words": lambda text: len(text.split())}
    if tokenizer is not None:
        units["tokens"] = tokenizer
    for field, values in texts.items():
        for unit, count in units.items():
            sizes = sorted(map(count, values))
            yield FieldLengths(
                field=field,
                unit=unit,
                count=len(sizes),
                min=sizes[0],
                median=median(sizes),
                p95=sizes[math.ceil(0.95 * len(sizes)) - 1],
                max=sizes[-1],
            )


def _said(prompt: Prompt) -> str:
    if isinstance(prompt.content, str):
        return prompt.content
    return "\n".join(message.shown for message in prompt.content)


def _duplicates(items: Sequence[_Item]) -> Iterator[Finding]:
    texts = bool(items) and isinstance(items[0].record, Text)
    yield _repeated(
        "same text as an earlier row" if texts else "same prompt as an earlier row",
        [(item.prompt, item.origin) for item in items],
    )
    if any(item.completions for item in items):
        yield _repeated(
            "same prompt and completions as an earlier row",
            [((item.prompt, item.completions), item.origin) for item in items],
        )
    kinds = (Comparison, Ranking, Label)
    if any(isinstance(item.record, kinds) for item in items):
        yield _finding(
            "judged the other way round in an earlier row",
            contradictions([(item.record, item.origin) for item in items]),
        )


def _repeated(name: str, keys: Iterable[tuple[Hashable, str]]) -> Finding:
    first: dict[Hashable, str] = {}
    places = [
        f"{origin} repeats {first[key]}" for key, origin in keys if first.setdefault(key, origin) != origin
    ]
    return _finding(name, places)


def _leaks(left: Sequence[_Item], right: Sequence[_Item], where: str) -> Iterator[Finding]:
    """What rows of the right have in common with rows of the left."""
    texts = any(isinstance(item.record, Text) for item in (*left[:1], *right[:1]))
    what = "text" if texts else "prompt"
    yield _shared(f"same {what} {where}", _by(left, _exact), _by(right, _exact))
    yield _shared(f"same {what} except for case and spaces, {where}", _by(left, _folded), _by(right, _folded))
    if not texts:
        yield _near(f"nearly the same {what} {where}", left, right)
    if any(item.completions for item in (*left[:1], *right[:1])):
        yield _shared(f"same completion {where}", _by(left, _answers), _by(right, _answers))


def _near(name: str, left: Sequence[_Item], right: Sequence[_Item]) -> Finding:
    """Prompts of the right that are, but for a word here and there, prompts of the left; the same ones are not counted again."""
    first: dict[str, str] = {}
    for item in left:
        first.setdefault(_said(item.prompt), item.origin)
    known = {_fold(text) for text in first}
    others: dict[str, str] = {}
    for item in right:
        text = _said(item.prompt)
        if _fold(text) not in known:
            others.setdefault(text, item.origin)
    origins, places = list(first.values()), list(others.values())
    pairs = near_pairs(list(first), list(others))
    return _finding(name, [f"{places[there]} and {origins[here]}" for there, here in pairs])


def _by(
    items: Iterable[_Item], keys: Callable[[_Item], Iterable[Hashable]]
) -> Iterator[tuple[Hashable, str]]:
    return ((key, item.origin) for item in items for key in keys(item))


def _exact(item: _Item) -> Iterable[Hashable]:
    return (item.prompt,)


def _folded(item: _Item) -> Iterable[Hashable]:
    return (_fold(_said(item.prompt)),)


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _answers(item: _Item) -> Iterable[Hashable]:
    return (text for _, text in item.completions)


def _shared(
    name: str, left: Iterable[tuple[Hashable, str]], right: Iterable[tuple[Hashable, str]]
) -> Finding:
    first: dict[Hashable, str] = {}
    for key, origin in left:
        first.setdefault(key, origin)
    rows: dict[str, str] = {}
    for key, origin in right:
        if key in first:
            rows.setdefault(origin, f"{origin} and {first[key]}")
    return _finding(name, list(rows.values()))


def _odd(items: Sequence[_Item]) -> Iterator[Finding]:
    chats = [(item, _turns(item.record)) for item in items]
    findings = (
        (
            "consecutive turns of one role",
            [item.origin for item, turns in chats if any(a.role == b.role for a, b in pairwise(turns))],
        ),
        (
            "a speaker's label (`Human:`, `Assistant:`, `User:`) inside a turn",
            [item.origin for item, turns in chats if turns and _labelled(item, turns)],
        ),
        ("every completion begins with the whole prompt", [item.origin for item in items if _echoes(item)]),
    )
    for name, places in findings:
        if places:
            yield _finding(name, places)
    yield from _one_kind(items)


def _one_kind(items: Sequence[_Item]) -> Iterator[Finding]:
    """Labels or scores that are all the same, which KTO, BCO, DRO and reward models refuse: there is no difference to learn from."""
    goods = {item.record.good for item in items if isinstance(item.record, Label)}
    values = {item.record.value for item in items if isinstance(item.record, Score)}
    places = [item.origin for item in items]
    if len(goods) == 1:
        yield _finding(
            f"labels, all of them {'true' if goods.pop() else 'false'}: training on labels needs both", places
        )
    if len(values) == 1:
        yield _finding(
            f"scores, all of them {values.pop():g}: training on scores needs different ones", places
        )


def _turns(record: Record) -> tuple[Message, ...]:
    if isinstance(record, Conversation):
        return record.messages
    if isinstance(record, Text) or isinstance(_prompt(record).content, str):
        return ()
    content = _prompt(record).content
    assert isinstance(content, tuple)
    return content


def _labelled(item: _Item, turns: Sequence[Message]) -> bool:
    texts = [turn.content for turn in turns] + [text for _, text in item.completions]
    return any(_SPEAKER.search(text) for text in texts)


def _echoes(item: _Item) -> bool:
    prompt = item.prompt.content
    if not isinstance(prompt, str) or not prompt.strip() or not item.completions:
        return False
    return all(text.lstrip().startswith(prompt.strip()) for _, text in item.completions)


def _finding(name: str, places: Sequence[str]) -> Finding:
    return Finding(name=name, count=len(places), examples=tuple(places[:EXAMPLES]))


def _lines(report: Report) -> Iterator[str]:
    summary = report.summary
    yield f"{summary.source}: {summary.read} rows of format {summary.name}"
    yield f"  {summary.kept} can be used, {len(summary.bad)} are bad"
    yield f"  {report.distinct_prompts} different {'texts' if summary.format == 'text' else 'prompts'}"
    parts = ", ".join(f"{count} {name}" for name, count in report.parts.items())
    yield f"  {parts} (heldout {report.heldout}, by hash)"
    for name, value in report.facts.items():
        yield f"  {name}: {value:.4g}"
    if summary.unused_columns:
        yield f"  columns not used: {names(summary.unused_columns)}"
    for note in summary.notes:
        yield f"  {note}"
    if report.lengths:
        yield ""
        yield f"{'lengths':<24}{'min':>9}{'median':>9}{'p95':>9}{'max':>9}"
        for row in report.lengths:
            yield f"  {row.field + ', ' + row.unit:<22}{row.min:>9}{row.median:>9g}{row.p95:>9}{row.max:>9}"
    for title, findings in (
        ("duplicates", report.duplicates),
        ("leaks", report.leaks),
        ("unusual, but kept", report.odd),
    ):
        if findings:
            yield ""
            yield title
        for found in findings:
            yield f"  {found.count} {found.name}"
            yield from (f"    {_short(place, summary.source)}" for place in found.examples)
            if found.count > len(found.examples):
                yield f"    and {found.count - len(found.examples)} more"
    for read in (summary, report.against):
        if read:
            yield ""
            yield f"bad rows of {read.source} ({read.read} rows): {len(read.bad) or 'none'}"
            yield from (f"  {row}" for row in read.bad)


def _short(place: str, source: str) -> str:
    """A place without the folders before its file's name."""
    return place.replace(f"{source}:", f"{Path(source).name}:")
