"""How a source is read: its format or layout by its columns, or as the user says, decided once and before any row is read.

Where nothing fits, the error names the flag that would read the source, if there is one.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from prefloop.data.formats import FORMATS, FormatName
from prefloop.data.layouts import LAYOUTS, layouts_of
from prefloop.data.messages import READ_KEYS
from prefloop.data.row_images import COLUMNS as IMAGE_COLUMNS
from prefloop.data.row_images import Images, listed, refuse_images, with_images
from prefloop.data.rows import Row, RowError, names
from prefloop.data.transcripts import is_transcript
from prefloop.errors import InputError

COLUMNS: tuple[str, ...] = tuple(
    dict.fromkeys([*(column for known in FORMATS.values() for column in known.read), "system"])
)
"""What a column of a source can be said to be. `system` is a chat's system message, put before the prompt."""

_WEAK: tuple[FormatName, ...] = ("text", "prompt")  # almost every file has a column of this name
_JUDGED = re.compile(
    r"(winner|votes?|prefer|judge?ment|labels?$|ratings?$|scores?$|rank|response|repl(y|ies)|answers?(_|$)|completion|output|"
    r"chosen|rejected|better|worse|model_?[abxy12]$|left$|right$|candidate|generation)",
    re.IGNORECASE,
)
"""Columns of a file that is more than prompts."""
_SAME: dict[str, str] = {
    "prompt": "instruction question query input user user_prompt problem task history human request post article document",
    "completion": "output response answer reply solution target assistant generation summary bot model_output",
    "chosen": "preferred better accepted chosen_response response_chosen preferred_response good_response positive response_j winner_response",
    "rejected": "dispreferred worse rejected_response response_rejected bad_response negative response_k loser_response",
    "messages": "conversations conversation dialog dialogue chat turns chat_history",
    "completions": "responses answers candidates ranked_responses outputs generations steps",
    "label": "is_good good is_correct correct thumbs_up is_preferred upvoted liked",
    "score": "rating reward points stars quality helpfulness value overall_score",
    "labels": "step_labels ratings",
    "text": "content document body passage article story",
}
"""Names that other people give to a format's columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReading:
    """How every row of a source is read."""

    format: FormatName
    layout: str = ""
    """Name of the layout that rows of the format are made from; empty where rows are of the format themselves."""
    columns: tuple[tuple[str, str], ...] = ()
    """(column of the format, column of the source), where the user says so."""
    chat: bool = False
    """Whether a prompt that is text becomes a user's message."""
    told: bool = False
    """Whether the columns alone told it."""

    @property
    def name(self) -> str:
        """What the source is called in summaries."""
        return f"{self.layout} ({self.format})" if self.layout else self.format

    @property
    def read(self) -> tuple[str, ...]:
        """Columns of the source that are read."""
        if self.layout:
            return LAYOUTS[self.layout].columns + LAYOUTS[self.layout].reads
        given = dict(self.columns)
        own = tuple(column for column in FORMATS[self.format].read if column not in given)
        return (*own, *given.values())

    def records(self, row: Row, images: Images | None = None) -> list[Any]:
        """What a row says. `images` takes in those of its messages; without it text alone is read. Raises `RowError`."""
        if images is None:
            refuse_images(row)
        parse = FORMATS[self.format].parse
        if self.layout:
            made = LAYOUTS[self.layout].makes[self.format](row)
            rows = [Row(values=values, origin=row.origin) for values in made]
        elif self.columns:
            rows = [self._renamed(row)]
        else:
            rows = [row]
        try:
            if images is not None:
                rows = [with_images(_beside(other, row), images) for other in rows]
            return [parse(_as_chat(other) if self.chat else other) for other in rows]
        except RowError as error:
            field = re.split(r"[.\[]", error.field)[0]
            given = dict(self.columns).get(field, field)
            raise RowError(given + error.field[len(field) :], error.value, str(error), error.remedy) from None

    def _renamed(self, row: Row) -> Row:
        given = dict(self.columns)
        hidden = {*given, *given.values()}
        values = {column: value for column, value in row.values.items() if column not in hidden}
        values |= {column: row.values[of] for column, of in given.items() if of in row.values}
        system = values.pop("system", None) if "system" in given else None
        if system and isinstance(system, str) and system.strip():
            asked = values.get("prompt")
            turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
            if isinstance(turns, list):
                values["prompt"] = [{"role": "system", "content": system}, *turns]
        return replace(row, values=values)


def _beside(made: Row, row: Row) -> Row:
    """A row of a format with the images beside the texts of the row that it was made from."""
    given = {column: listed(row, column) for column in IMAGE_COLUMNS if column in row.values}
    return replace(made, values={**made.values, **given}) if given else made


def _as_chat(row: Row) -> Row:
    asked = row.values.get("prompt")
    if not isinstance(asked, str):
        return row
    return replace(row, values={**row.values, "prompt": [{"role": "user", "content": asked}]})


def likely_column(name: str) -> str:
    """What a source's column probably is, by its name: a column of a format, or empty."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    return next((column for column, others in _SAME.items() if plain in others.split()), "")


def column_words(given: Sequence[str]) -> list[str]:
    """`prompt=instruction,completion=output` (or several such texts) in its single words; a comma in the name of a column stays."""
    return [word.strip() for text in given for word in re.split(r",(?=\s*\w+\s*=)", text)]


def read_columns(
    given: Sequence[str],
    *,
    known: Collection[str] = COLUMNS,
    setting: str = "data.columns",
    example: str = "prompt=instruction,completion=output",
) -> dict[str, str]:
    """What `column_words` say, as column of the format -> column of the source. Raises `InputError` for what is not one of `known`."""
    pairs: dict[str, str] = {}
    for word in column_words(given):
        column, equals, of = (part.strip() for part in word.partition("="))
        if not equals or not of:
            raise InputError(
                f"{setting} has {word!r}; write column=its name in the file, for example {example}"
            )
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            turned = f"; swap them: {of}={column}" if of in known else ""
            hint = turned or (f"; did you mean {near[0]}?" if near else "")
            raise InputError(
                f"{setting} has {word!r}, and no format has a column {column!r}{hint} (there are {', '.join(known)})"
            )
        if column in pairs:
            raise InputError(f"{setting} gives {column} twice, {pairs[column]} and {of}; keep one of the two")
        pairs[column] = of
    return pairs


def detect_format(
    rows: Sequence[Row],
    *,
    source: str,
    wanted: Collection[FormatName] = tuple(FORMATS),
    hints: Mapping[FormatName, str] | None = None,
) -> FormatName:
    """The format of a source by the columns of its first rows; see `choose`."""
    return choose(rows, source=source, wanted=wanted, hints=hints).format


def choose(
    rows: Sequence[Row],
    *,
    source: str,
    wanted: Collection[FormatName] = tuple(FORMATS),
    hints: Mapping[FormatName, str] | None = None,
    format: str = "",
    columns: Sequence[str] = (),
    chat: bool = False,
    sure: bool = False,
) -> RowReading:
    """How a source is read, by the columns of its first rows and what the user says of it, among the formats its reader can use.

    `sure`: rows that are told by the column `prompt` alone must not look as if they were more. Raises `InputError`, naming the columns and
    the formats known, where none fits or several do; `hints` says more about formats not wanted.
    """
    given = read_columns(columns)
    there = list(dict.fromkeys(column for row in rows for column in row.values))
    for column, of in given.items():
        if of not in there:
            near = difflib.get_close_matches(of, there, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"{source}: data.columns takes {column} from {of!r}, which no row has{hint} (the columns are {names(there) or '(none)'})"
            )
    reading = _said(there, source, wanted, format, given) if format else None
    reading = reading or _told(rows, there, source, wanted, hints or {}, given)
    if sure and reading.told and reading.format == "prompt":
        _only_prompts(there, rows, source)
    if (
        chat
        and "prompt" not in (LAYOUTS[reading.layout].makes if reading.layout else ())
        and "prompt" not in FORMATS[reading.format].columns
    ):
        raise InputError(
            f"{source}: data.chat turns text prompts into chats, but rows of format {reading.name} have no column `prompt`; leave it out"
        )
    return replace(reading, chat=chat, columns=tuple(given.items()))


def _said(
    there: Sequence[str], source: str, wanted: Collection[FormatName], format: str, given: Mapping[str, str]
) -> RowReading:
    """The format that the user names."""
    if format in LAYOUTS:
        layout = LAYOUTS[format]
        if given:
            raise InputError(
                f"data.format is {format}, which has columns of its own; leave out data.columns, or data.format"
            )
        lacking = [column for column in layout.columns if column not in there]
        if lacking:
            raise InputError(
                f"{source}: data.format is {format} ({', '.join(layout.columns)}), but there is no column {', '.join(lacking)}; "
                f"the columns are {names(there)}{suggestion(there, (), wanted)}"
            )
        made: FormatName | None = next((kind for kind in layout.makes if kind in wanted), None)
        if made is None:
            raise InputError(
                f"{source}: rows of {format} give {_about(layout.makes)}; needed here is: {describe_formats(_known(wanted))}"
            )
        return RowReading(format=made, layout=format)
    if format not in FORMATS:
        raise InputError(f"data.format is {format!r}; it must be {format_in_words(format)}")
    name = cast(FormatName, format)
    if name not in wanted:
        raise InputError(
            f"{source}: data.format is {name}; needed here is: {describe_formats(_known(wanted))}"
        )
    lacking = [column for column in FORMATS[name].columns if column not in given and column not in there]
    if lacking:
        raise InputError(
            f"{source}: data.format is {name} ({', '.join(FORMATS[name].columns)}), but there is no column {', '.join(lacking)}; "
            f"the columns are {names(there)}; say which are meant with --data.columns {lacking[0]}=..."
        )
    return RowReading(format=name)


def format_in_words(value: str) -> str:
    """What `data.format` can be, the nearest to a wrong value first."""
    known = [*FORMATS, *LAYOUTS]
    near = difflib.get_close_matches(value, known, n=1)
    return f"one of {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else "")


def _told(
    rows: Sequence[Row],
    there: Sequence[str],
    source: str,
    wanted: Collection[FormatName],
    hints: Mapping[FormatName, str],
    given: Mapping[str, str],
) -> RowReading:
    """The format that the columns tell."""
    renamed = [*given, *(column for column in there if column not in given.values() and column not in given)]
    found = formats_of(renamed)
    usable: list[FormatName] = [name for name in found if name in wanted]
    layouts = [] if given else layouts_of(there, wanted)
    if layouts:
        covered = {column for name in layouts for column in LAYOUTS[name].columns + LAYOUTS[name].reads}
        usable = [name for name in usable if name not in _WEAK and not set(FORMATS[name].columns) <= covered]
        if len(layouts) == 1 and not usable:
            return _said(there, source, wanted, layouts[0], {})
    if len(usable) + len(layouts) != 1:
        hint = "".join(f"; {hint}" for name, hint in hints.items() if name in found and not usable)
        raise InputError(_no_format(source, renamed, rows, found, [*usable, *layouts], wanted) + hint)
    if usable == ["implicit"]:
        chosen = [row.values.get(given.get("chosen", "chosen")) for row in rows]
        hh = 2 * sum(map(is_transcript, chosen)) > len(chosen)
        return RowReading(format="hh" if hh else "implicit", told=not given)
    return RowReading(format=usable[0], told=not given)


def _only_prompts(there: Sequence[str], rows: Sequence[Row], source: str) -> None:
    more = [column for column in there if column != "prompt" and _JUDGED.match(column)]
    if more:
        raise InputError(
            f"{source}: the columns are {names(there)}; prompts alone would be read, and not {names(more)}, which look like answers or "
            f"judgements{suggestion(there, rows, FORMATS)}; to take the prompts and leave the rest, use --data.format prompt"
        )


def formats_of(columns: Collection[str]) -> list[FormatName]:
    """Formats whose columns are all there, less those with a richer one there too. `hh` has the columns of `implicit` and is told by its values."""
    there = set(columns)
    fit: list[FormatName] = [
        name for name, known in FORMATS.items() if name != "hh" and set(known.columns) <= there
    ]
    richest: list[FormatName] = [
        name
        for name in fit
        if not any(set(FORMATS[name].columns) < set(FORMATS[other].columns) for other in fit)
    ]
    return richest


def unused_columns(rows: Iterable[Row], reading: RowReading) -> tuple[str, ...]:
    """Columns, and keys of messages (`messages[].id`), that rows have and that are not read."""
    read = set(reading.read)
    unused: dict[str, None] = {}
    for row in rows:
        for column, value in row.values.items():
            if column not in read:
                unused[column] = None
            elif isinstance(value, list) and not reading.layout:
                keys = [
                    key
                    for item in value
                    if isinstance(item, Mapping)
                    for key in item
                    if item[key] is not None
                ]
                unused |= {
                    f"{column}[].{key}": None for key in keys if column != "tools" and key not in READ_KEYS
                }
    return tuple(unused)


def describe_formats(formats: Iterable[FormatName] = get_args(FormatName)) -> str:
    """The formats and their columns, in a line."""
    return "; ".join(f"{name} ({', '.join(FORMATS[name].columns)})" for name in formats)


def suggestion(there: Sequence[str], rows: Sequence[Row], wanted: Collection[str]) -> str:
    """The flag that would read a source with these columns, as the end of a sentence; nothing if none is known."""
    named = [
        name
        for name, layout in LAYOUTS.items()
        if set(layout.columns) <= set(there) and not layout.makes.keys().isdisjoint(wanted)
    ]
    if named:
        return f"; {LAYOUTS[named[0]].about}: read it with --data.format {named[0]}"
    best: dict[str, str] = {}
    for name, known in FORMATS.items():
        if name not in wanted or name == "hh":
            continue
        pairs = _matched(known.columns, there, rows)
        if pairs and len(pairs) > len(best) and (len(pairs) > 1 or not best):
            best = pairs
    if not best or all(column == of for column, of in best.items()):
        return ""
    return f"; read it with --data.columns {','.join(f'{column}={of}' for column, of in best.items() if column != of)}"


def _matched(needed: Sequence[str], there: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """Column of a format -> column of the source that it probably is; empty if one finds none."""
    plain = {re.sub(r"[\s\-]+", "_", column.strip().lower()): column for column in there}
    pairs: dict[str, str] = {}
    for column in needed:
        same = [column, *_SAME.get(column, "").split()]
        of = next(
            (
                plain[name]
                for name in same
                if name in plain and plain[name] not in pairs.values() and _can_be(column, plain[name], rows)
            ),
            None,
        )
        if of is None:
            return {}
        pairs[column] = of
    return pairs


def _can_be(column: str, of: str, rows: Sequence[Row]) -> bool:
    """Whether the values seen are of the kind that a format's column has."""
    values = [(row.values[of], row.typed) for row in rows if row.values.get(of) is not None]
    kinds: dict[str, Callable[[Any, bool], bool]] = {
        "label": lambda value, typed: (
            isinstance(value, bool) or (not typed and str(value).lower() in ("true", "false"))
        ),
        "score": lambda value, typed: (
            not isinstance(value, bool)
            and (isinstance(value, int | float) or (not typed and _numeric(value)))
        ),
        "messages": lambda value, typed: (
            isinstance(value, list) or (not typed and str(value).startswith("["))
        ),
    }
    lists = ("completions", "labels")
    kind = kinds["messages"] if column in lists else kinds.get(column)
    return all(
        kind(value, typed) if kind else isinstance(value, str | list | Mapping) for value, typed in values
    )


def _numeric(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _known(wanted: Collection[FormatName]) -> list[FormatName]:
    return [name for name in FORMATS if name in wanted]


def _about(made: Iterable[str]) -> str:
    return " and ".join(FORMATS[name].about for name in FORMATS if name in made)


def _no_format(
    source: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    found: Sequence[FormatName],
    usable: Sequence[str],
    wanted: Collection[FormatName],
) -> str:
    seen = f"{source}: the columns are {names(columns) or '(none)'}"
    known = _known(wanted)
    if len(usable) > 1:
        several = "; ".join(
            f"{name} ({', '.join(LAYOUTS[name].columns if name in LAYOUTS else FORMATS[name].columns)})"  # pyright: ignore[reportArgumentType]
            for name in usable
        )
        return f"{seen}, which match several formats: {several}; say which is meant, such as --data.format {usable[0]}"
    hint = suggestion(columns, rows, known)
    if found:
        held = " and ".join(
            f"{FORMATS[name].about} ({'implicit or hh' if name == 'implicit' else name})" for name in found
        )
        return f"{seen}, which is {held}; needed here is: {describe_formats(known)}{hint}"
    near = min(known, key=lambda name: _distance(FORMATS[name].columns, columns))
    lacking = [column for column in FORMATS[near].columns if column not in columns]
    return (
        f"{seen}, which match no known format: {describe_formats(known)}"
        f"{hint or f'; name the columns with --data.columns (nearest is {near}, which lacks {names(lacking)})'}"
    )


def _distance(needed: Sequence[str], there: Sequence[str]) -> tuple[int, int]:
    """Columns a format lacks; among equals, the one that finds more of its columns is nearer."""
    found = len(set(needed) & set(there))
    return len(needed) - found, -found
