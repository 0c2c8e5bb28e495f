"""From a source to records: every row is read, checked and either kept, or counted and named among those left out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from prefloop.configs.common import Rows
from prefloop.data.detect import COLUMNS, RowReading, choose, formats_of, unused_columns
from prefloop.data.fields import required
from prefloop.data.formats import FORMATS, FormatName, Record
from prefloop.data.read import MAX_GB, check_split, find_source, rows_of
from prefloop.data.row_images import COLUMNS as IMAGE_COLUMNS
from prefloop.data.row_images import Images
from prefloop.data.rows import BadRow, Row, RowError, names, show
from prefloop.data.votes import refuse_votes
from prefloop.errors import InputError
from prefloop.marks import images_in
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Label,
    Prompt,
    Ranking,
    Score,
    Steps,
    Text,
)

T = TypeVar("T")

Convert = Callable[[Record, Row], tuple[T, ...]]
"""What a loader makes of a record, and of the row that said it."""
Check = Callable[[Any], str]
"""What is wrong with a value, and what would be right; empty if nothing is."""

NO_ONE_ORDER = (
    "this loss needs an order that the ranking leaves open: some are tied or unordered",
    "train on its pairs with a pairwise loss (or reward --loss all_pairs), or leave the row out",
)
"""What is wrong with a ranking that is not strict, and the way out."""

BAD_ROWS_SHOWN = 20
"""Lines of bad rows in an error; all of them are counted."""

_ROWS_LOOKED_AT = 100  # to tell the format
_COMPARISONS: tuple[FormatName, ...] = ("comparison", "implicit", "hh", "ranking")


class HowRead(TypedDict, total=False):
    """What is read of a source; what is left out keeps its default."""

    split: str
    """Split of a data set that has several; `train`."""
    format: str
    """A format or layout by name, instead of the one that the columns tell."""
    columns: Sequence[str]
    """What columns are, as column=its name in the source."""
    chat: bool
    """Make a user's message of a prompt that is text."""
    max_gb: float
    """Gigabytes of a compressed file, once decompressed, at most."""


class HowLoaded(HowRead, total=False):
    """What is read of a source, and what becomes of its rows."""

    skip_bad: bool
    """Leave bad rows out, counted and listed, instead of stopping at them."""
    limit: int
    """Records at most; 0 is all."""


def how(rows: Rows) -> HowRead:
    """How a stage's settings say that a source is read. Raises `InputError` for the split of a source that has none."""
    check_split(rows.source, rows.split)
    return {
        "split": rows.split,
        "format": rows.format,
        "columns": rows.columns,
        "chat": rows.chat,
        "max_gb": rows.max_gb,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSummary:
    """What became of a source's rows: `read == used + len(bad) + beyond_limit`."""

    source: str
    format: FormatName
    read: int
    """Rows seen, good or bad."""
    used: int
    """Rows that became records, repeated a prompt there was already, or found both completions equally good."""
    kept: int
    """Records: as many as rows used, except that a ranking gives all its pairs and a repeated prompt is taken once."""
    bad: tuple[BadRow, ...]
    """Rows left out because they cannot be used, in order."""
    beyond_limit: int
    """Rows after the limit was reached; they are counted, not looked at."""
    unused_columns: tuple[str, ...]
    notes: tuple[str, ...]
    """Anything else a reader should know, a sentence each."""
    layout: str = ""
    """Layout that the format's rows were made from; empty if the rows were of the format."""

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.read} rows of format {self.name}, {self.kept} records kept"]
        if self.bad:
            places = [row.origin.removeprefix(f"{self.source}:") for row in self.bad[:BAD_ROWS_SHOWN]]
            more = [f"and {len(self.bad) - len(places)} more"] if len(self.bad) > len(places) else []
            parts.append(f"{len(self.bad)} bad rows left out: {', '.join([*places, *more])}")
        if self.beyond_limit:
            parts.append(f"{self.beyond_limit} rows left out beyond the limit")
        if self.unused_columns:
            parts.append(f"columns not used: {names(self.unused_columns)}")
        return ". ".join([*parts, *self.notes]) + "."

    @property
    def name(self) -> str:
        """The format, and the layout it was made from."""
        return f"{self.layout} ({self.format})" if self.layout else self.format

    def bad_rows(self) -> str:
        """Every bad row on a line of its own: where, which field, its value, what is wrong and what would be right."""
        return "\n".join(map(str, self.bad))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "source": self.source,
            "format": self.format,
            "layout": self.layout,
            "read": self.read,
            "used": self.used,
            "kept": self.kept,
            "bad": [row.to_json() for row in self.bad],
            "beyond_limit": self.beyond_limit,
            "unused_columns": list(self.unused_columns),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded(Generic[T]):
    """Records, and what became of the rows they were read from."""

    records: tuple[T, ...]
    origins: tuple[str, ...]
    """`file:line` of each record."""
    summary: LoadSummary


def load_texts(source: str | Path, **reading: Unpack[HowLoaded]) -> Loaded[Text]:
    """Documents, from the column `text`.

    This and every loader below: `HowLoaded` says how the source is read. `limit` (0 = all) is the number of records at most, and what is beyond it
    is counted; bad rows are one `InputError` that names them, or with `skip_bad` are left out and listed in the summary; no usable row at all
    is an `InputError`.
    """
    return _load(source, ("text",), _is(Text), **reading)


def load_prompts(
    source: str | Path, *, needed: Sequence[tuple[str, Check]] = (), **reading: Unpack[HowLoaded]
) -> Loaded[Prompt]:
    """Prompts, of records of any format but text; each is taken once, with the columns of its row. A whole chat gives the turns before its last answer.

    `needed` are columns that every row must have, each with what is wrong with a value (empty: nothing). A prompt that comes again with
    another value there is a bad row: only one of the two could be right.
    """
    wanted: tuple[FormatName, ...] = tuple(name for name in FORMATS if name != "text")
    hints: dict[FormatName, str] = {"text": "if each text is a prompt, call the column `prompt`"}
    seen: dict[Prompt, Row] = {}

    def new_prompt(record: Record, row: Row) -> tuple[Prompt, ...]:
        for column, check in needed:
            problem = check(required(row, column))
            if problem:
                raise RowError(column, show(row.values[column]), "it cannot be verified against", problem)
        prompt = prompt_of(record)
        if prompt not in seen:
            seen[prompt] = row
            return (replace(prompt, columns=row.values),)
        for column, _ in needed:
            if row.values[column] != seen[prompt].values[column]:
                raise RowError(
                    column,
                    show(row.values[column]),
                    f"the same prompt has {show(seen[prompt].values[column])} at {seen[prompt].origin}",
                    "keep one of the two rows",
                )
        return ()

    read = {column for column, _ in needed}
    return _load(source, wanted, new_prompt, hints=hints, more_columns=read, **reading)


def load_demonstrations(
    source: str | Path, *, from_chosen: bool = False, **reading: Unpack[HowLoaded]
) -> Loaded[Demonstration | Conversation]:
    """Demonstrations and whole chats. With `from_chosen`, of comparisons too: the chosen completion (and a ranking's best)."""
    wanted: tuple[FormatName, ...] = ("demonstration", "messages")
    if not from_chosen:
        hints: dict[FormatName, str] = dict.fromkeys(
            _COMPARISONS, "to take the chosen completions as demonstrations, set from_chosen"
        )
        hints["label"] = (
            "a completion labelled false is not a demonstration; remove the column `label` to take all of them"
        )
        hints["score"] = (
            "a completion with a low score is not a demonstration; remove the column `score` to take all of them"
        )
        kinds = _is(Demonstration, Conversation)
        return _load(source, wanted, kinds, hints=hints, **reading)
    return _load(source, wanted + _COMPARISONS, _demonstrated, **reading)


def load_comparisons(source: str | Path, **reading: Unpack[HowLoaded]) -> Loaded[Comparison]:
    """Comparisons; a ranking of K completions gives its K(K-1)/2 pairs."""

    def pairs(record: Record, row: Row) -> tuple[Comparison, ...]:
        return record.comparisons() if isinstance(record, Ranking) else _is(Comparison)(record, row)

    return _load(source, _COMPARISONS, pairs, **reading)


def is_strict(ranking: Ranking) -> bool:
    """Whether it orders every two of its completions."""
    return not ranking.ranks and not ranking.top


def load_rankings(
    source: str | Path, *, usable: Callable[[Ranking], bool] = is_strict, **reading: Unpack[HowLoaded]
) -> Loaded[Ranking]:
    """Rankings, best first, each in one strict order, or as `usable` asks: what losses of whole lists train on."""

    def strict(record: Record, row: Row) -> tuple[Ranking, ...]:
        assert isinstance(record, Ranking)
        if not usable(record):
            raise RowError(
                "ranks" if record.ranks else "top", show(list(record.ranks) or record.top), NO_ONE_ORDER[0], NO_ONE_ORDER[1]
            )  # fmt: skip
        return (record,)

    return _load(source, ("ranking",), strict, **reading)


def load_labels(source: str | Path, **reading: Unpack[HowLoaded]) -> Loaded[Label]:
    """Completions found good or bad."""
    return _load(source, ("label",), _is(Label), **reading)


def load_steps(source: str | Path, **reading: Unpack[HowLoaded]) -> Loaded[Steps]:
    """Completions in steps, each found good or bad."""
    return _load(source, ("steps",), _is(Steps), **reading)


def load_scores(source: str | Path, **reading: Unpack[HowLoaded]) -> Loaded[Score]:
    """Completions with a number."""
    return _load(source, ("score",), _is(Score), **reading)


def load_records(
    source: str | Path,
    *,
    allow_none: bool = False,
    images: Images | None = None,
    **reading: Unpack[HowLoaded],
) -> Loaded[Record]:
    """Records of whatever format the source has. With `allow_none`, a source whose rows are all bad gives no record instead of an error.

    `images` takes in the images of messages, whose marks (`prefloop.marks`) then stand in the texts. Without it a row with an image is a bad row,
    as for every other loader: none reads a row as if the image were not there.

    Rows are prompts alone only where nothing beside the prompt looks like an answer or a judgement, or where `format` says so.
    """
    return _load(
        source,
        tuple(FORMATS),
        lambda record, row: (record,),
        allow_none=allow_none,
        sure=True,
        images=images,
        **reading,
    )


def each_record(
    source: str | Path, *, images: Images | None = None, **reading: Unpack[HowRead]
) -> Iterator[Record]:
    """What `load_records` gives, one record in memory at a time. Raises `InputError` at the first row that cannot be used, and where there is none."""
    rows = rows_of(find_source(source, split=reading.get("split", "train")), reading.get("max_gb", MAX_GB))
    first, looked_at = _first_rows(rows)
    bad = [row for row in first if isinstance(row, BadRow)]
    if bad or not looked_at:
        raise InputError(_bad_rows(str(source), bad, len(first)) if bad else f"{source}: it has no rows")
    chosen = choose(
        looked_at,
        source=str(source),
        wanted=tuple(FORMATS),
        hints=None,
        format=reading.get("format", ""),
        columns=reading.get("columns", ()),
        chat=reading.get("chat", False),
        sure=True,
    )
    columns = {column for row in looked_at for column in row.values}
    for row in chain(first, rows):
        if isinstance(row, BadRow):
            raise InputError(f"{row} (correct it)")
        try:
            columns.update(_late_columns(row, columns, chosen))
            yield from chosen.records(row, images)
        except RowError as error:
            raise InputError(f"{error.at(row.origin)} (correct it)") from None


def prompt_of(record: Record) -> Prompt:
    """The prompt that a record's completions answer; of a whole chat, the turns before the last answer. A text has none: `ValueError`."""
    if isinstance(record, Prompt):
        return record
    if isinstance(record, Conversation):
        last = max(
            (index for index, turn in enumerate(record.messages) if turn.role == "assistant"),
            default=len(record.messages),
        )
        return Prompt(content=record.messages[:last])
    if isinstance(record, Text):
        raise ValueError("a text has no prompt; cut a prompt from its beginning first")
    return record.prompt


def _is(*kinds: type[T]) -> Convert[T]:
    """A record as it is; its format already says that it is of one of these kinds."""

    def same(record: Record, row: Row) -> tuple[T, ...]:
        assert isinstance(record, kinds)
        return (record,)

    return same


def _demonstrated(record: Record, row: Row) -> tuple[Demonstration | Conversation, ...]:
    if isinstance(record, Comparison):
        return (Demonstration(prompt=record.prompt, completion=record.chosen, origin=record.origin),)
    if isinstance(record, Ranking):
        best = record.completions[0]
        return (Demonstration(prompt=record.prompt, completion=best, origin=record.origin),)
    assert isinstance(record, Demonstration | Conversation)
    return (record,)


def _load(
    source: str | Path,
    wanted: Collection[FormatName],
    convert: Convert[T],
    *,
    hints: Mapping[FormatName, str] | None = None,
    allow_none: bool = False,
    sure: bool = False,
    more_columns: Collection[str] = (),
    images: Images | None = None,
    **reading: Unpack[HowLoaded],
) -> Loaded[T]:
    limit, skip_bad = reading.get("limit", 0), reading.get("skip_bad", False)
    if limit < 0:
        raise InputError(f"limit is {limit}; it must be 0 (all) or more")
    found = find_source(source, split=reading.get("split", "train"))
    rows = rows_of(found, reading.get("max_gb", MAX_GB))
    first, looked_at = _first_rows(rows)
    if not looked_at:
        bad = tuple(row for row in first if isinstance(row, BadRow))
        raise InputError(_bad_rows(str(source), bad, len(bad)) if bad else f"{source}: it has no rows")
    if not reading.get("format"):
        refuse_votes(looked_at, str(source))
    chosen = choose(
        looked_at,
        source=str(source),
        wanted=wanted,
        hints=hints,
        format=reading.get("format", ""),
        columns=reading.get("columns", ()),
        chat=reading.get("chat", False),
        sure=sure,
    )
    made = _convert(chain(first, rows), chosen, looked_at, limit, convert, images)
    read = made.used + len(made.bad) + made.beyond
    if (made.bad and not skip_bad) or (not made.records and not allow_none):
        raise InputError(_bad_rows(str(source), made.bad, read))
    unused = (*unused_columns(looked_at, chosen), *made.late_columns)
    summary = LoadSummary(
        source=str(source),
        format=chosen.format,
        read=read,
        used=made.used,
        kept=len(made.records),
        bad=tuple(made.bad),
        beyond_limit=made.beyond,
        unused_columns=tuple(
            column
            for column in unused
            if column not in more_columns and not (images is not None and column in IMAGE_COLUMNS)
        ),
        notes=tuple(_notes(made, chosen, [str(path) for path in found.other_files])),
        layout=chosen.layout,
    )
    return Loaded(records=tuple(made.records), origins=tuple(made.origins), summary=summary)


@dataclass(kw_only=True, slots=True)
class _Made(Generic[T]):
    """What rows became, while they are read."""

    records: list[T] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    used: int = 0
    equal: int = 0
    """Rows that found their completions equally good, and so gave no record."""
    beyond: int = 0
    cut: int = 0
    """Records of the last row that were beyond the limit."""
    late_columns: list[str] = field(default_factory=list)
    """Columns that came after the rows looked at, and are not read."""


def _first_rows(rows: Iterator[Row | BadRow]) -> tuple[list[Row | BadRow], list[Row]]:
    """Read until there are rows enough to tell the format. Returns all that was read, and the good among it."""
    taken: list[Row | BadRow] = []
    good: list[Row] = []
    for row in rows:
        taken.append(row)
        if isinstance(row, Row):
            good.append(row)
            if len(good) == _ROWS_LOOKED_AT:
                break
    return taken, good


def _convert(
    rows: Iterable[Row | BadRow],
    reading: RowReading,
    looked_at: Iterable[Row],
    limit: int,
    convert: Convert[T],
    images: Images | None,
) -> _Made[T]:
    made: _Made[T] = _Made()
    columns = {column for row in looked_at for column in row.values}
    read = set(reading.read)
    for row in rows:
        if limit and len(made.records) >= limit:
            made.beyond += 1
        elif isinstance(row, BadRow):
            made.bad.append(row)
        else:
            try:
                if not row.values.keys() <= columns:
                    late = _late_columns(row, columns, reading)
                    columns.update(late)
                    made.late_columns.extend(column for column in late if column not in read)
                own = reading.records(row, images)
                records = [converted for record in own for converted in convert(record, row)]
            except RowError as error:
                made.bad.append(error.at(row.origin))
                continue
            made.used += 1
            made.equal += not own
            made.records.extend(records)
            made.origins.extend(row.origin for _ in records)
    if limit and len(made.records) > limit:
        made.cut = len(made.records) - limit
        del made.records[limit:], made.origins[limit:]
    return made


def _late_columns(row: Row, columns: set[str], reading: RowReading) -> list[str]:
    """Columns no row had before. None may make the rows another format: a `label` that begins at row 101 would be lost."""
    late = [column for column in row.values if column not in columns]
    for column in late:
        if (
            reading.told
            and column in COLUMNS
            and column not in FORMATS[reading.format].read
            and formats_of(columns | {column}) != formats_of(columns)
        ):
            raise RowError(
                column,
                "a new column",
                "the rows before it are of another format",
                "keep rows of different formats in files of their own",
            )
    return late


def _notes(made: _Made[Any], reading: RowReading, other_files: list[str]) -> Iterator[str]:
    records, name = made.records, reading.format
    if other_files:
        yield f"files of other splits, not read: {', '.join(other_files)}"
    if name == "ranking" and records and isinstance(records[0], Comparison):
        cut = f", less pairs of the last beyond the limit: {made.cut}" if made.cut else ""
        yield f"the comparisons are all pairs of the rankings{cut}"
    elif made.cut:
        yield f"records of the last row beyond the limit: {made.cut}"
    if made.equal:
        yield f"rows in which all completions are tied, which give no record: {made.equal}"
    repeated = made.used - made.equal - len(records)
    if records and isinstance(records[0], Prompt) and repeated:
        yield f"rows that repeat an earlier prompt, which is counted once: {repeated}"
    if records and isinstance(records[0], Demonstration) and name in _COMPARISONS:
        yield "the demonstrations are the chosen completions of comparisons"
    if name == "implicit" and records and isinstance(records[0], Comparison):
        yield "prompts are the common beginning of chosen and rejected"
    shown = [len(set(images_in(record))) for record in records]
    if any(shown):
        yield (
            f"records with images: {sum(map(bool, shown))} (a store keeps the images, and people see them; training on text refuses such records)"
        )
    repeats = sum(map(_repeats_prompt, records))
    if repeats:
        yield (
            f"comparisons in which both completions begin with the whole prompt: {repeats} "
            "(if that is the prompt written twice, take it out of the completions)"
        )


def _repeats_prompt(record: object) -> bool:
    if not isinstance(record, Comparison) or not isinstance(record.prompt.content, str):
        return False
    prompt = record.prompt.content.strip()
    return bool(prompt) and all(text.lstrip().startswith(prompt) for text in (record.chosen, record.rejected))


def _bad_rows(source: str, bad: Collection[BadRow], read: int) -> str:
    """One line for one bad row; for several a headline, and a line each."""
    way_out = "correct it"
    if len(bad) < read:
        way_out += ", or set skip_bad to leave such rows out, counted and listed"
    if not bad:
        return f"{source}: no row gave a record; check the file"
    if len(bad) == 1:
        return f"{next(iter(bad))} ({way_out})"
    lines = [str(row) for row in bad][:BAD_ROWS_SHOWN]
    more = [f"and {len(bad) - len(lines)} more"] if len(bad) > len(lines) else []
    way_out = way_out.replace("correct it", "correct them")
    return "\n  ".join([f"{source}: {len(bad)} of {read} rows are bad; {way_out}:", *lines, *more])
