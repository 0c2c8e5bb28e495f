"""Rows from where data lives: JSONL, JSON, CSV, TSV and Parquet files, folders of them, and Hugging Face data sets.

Rows are streamed; each knows its `file:line`. A row that is not one (broken JSON, not an object, not UTF-8) comes out as a `BadRow`
and reading goes on; a file that cannot be read at all is an `InputError`.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefloop.data.rows import BadRow, Row, show
from prefloop.data.streams import INSTALL, LONGEST, PACKED, check_size, lines, open_bytes, readable
from prefloop.errors import InputError

_PLAIN = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUFFIXES = (*(plain + packed for plain in _PLAIN for packed in ("", *PACKED)), ".parquet")
MAX_GB = 16.0
"""Gigabytes that a compressed file holds at most, unless the user says otherwise."""
SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "eval", "test", "heldout")
"""Names that a file in a folder may begin with to say which split it holds."""

_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_WHITESPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedSource:
    """What a user's name for data stands for."""

    name: str
    kind: Literal["files", "saved", "hub"]
    """Files; a folder written by `datasets.save_to_disk`; or a data set of the Hugging Face hub."""
    split: str
    files: tuple[Path, ...] = ()
    other_files: tuple[Path, ...] = ()
    """Data files of a folder that belong to other splits, and are not read."""


def read_rows(source: str | Path, *, split: str = "train", max_gb: float = MAX_GB) -> Iterator[Row | BadRow]:
    """The rows of a file, a folder or a Hugging Face data set, in order. `split` chooses where there are several.

    No file may hold more than `max_gb` gigabytes once it is decompressed.

    Raises `InputError` if there is nothing to read; rows that are malformed are `BadRow`s in their place.
    """
    return rows_of(find_source(source, split=split), max_gb)


def has_splits(source: str | Path) -> bool:
    """Whether a split chooses anything: of a data set that may have several, or of a folder whose files' names begin with theirs."""
    path = Path(source).expanduser()
    if not path.is_dir():
        return not path.is_file()
    if (path / "dataset_dict.json").exists():
        return True
    return any(_split_of(file) for file in path.iterdir() if file.is_file() and _suffix(file))


def check_split(source: str | Path, split: str, *, setting: str = "split", usual: str = "train") -> None:
    """Raise `InputError` for a split that was asked for and would choose nothing, as all of the source is read."""
    if split != usual and not has_splits(source):
        raise InputError(
            f"{setting} is {split!r}, but {source} has no splits and is read whole; leave {setting} out, or name another source"
        )


def find_source(source: str | Path, *, split: str = "train") -> NamedSource:
    """Decide what a name stands for: an existing file or folder first, then a data set of the hub (`owner/name` or `owner/name:config`)."""
    name = str(source)
    if not name:
        raise InputError(
            "the data source is empty; name a file, a folder or a Hugging Face data set, for example --data.source pairs.jsonl"
        )
    path = Path(name).expanduser()
    if path.is_file():
        if _suffix(path) is None:
            raise InputError(
                f"{path}: this kind of file is not read; use one of {', '.join(SUFFIXES)}"
                + (" (Parquet is already compressed)" if path.name.endswith(".parquet.gz") else "")
            )
        return NamedSource(name=name, kind="files", split=split, files=(path,))
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or _holds(path, "dataset_info.json", "state.json"):
            return NamedSource(name=name, kind="saved", split=split)
        return _folder(name, path, split)
    if _suffix(path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: there is no such file or folder; check the path (from {Path.cwd()})")
    return NamedSource(name=name, kind="hub", split=split)


def rows_of(source: NamedSource, max_gb: float = MAX_GB) -> Iterator[Row | BadRow]:
    """Stream a source's rows."""
    if source.kind == "saved":
        yield from _saved_rows(source)
    elif source.kind == "hub":
        yield from _hub_rows(source)
    for path in source.files:
        with readable(path):
            yield from _file_rows(path, max_gb)


def _holds(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def _folder(name: str, folder: Path, split: str) -> NamedSource:
    """All data files of a folder, sorted; where their names say splits, those of the split asked for."""
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and _suffix(path) and path.name not in _METADATA
    )
    if not files:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f"; it has folders: {', '.join(inside[:5])}" if inside else ""
        raise InputError(f"{name}: no data file in this folder (looked for {', '.join(SUFFIXES)}){hint}")
    splits = {path: _split_of(path) for path in files}
    if not any(splits.values()):
        return NamedSource(name=name, kind="files", split=split, files=tuple(files))
    chosen = tuple(path for path in files if splits[path] == split)
    if not chosen:
        found = sorted({stated or path.name for path, stated in splits.items()})
        raise InputError(
            f"{name}: split is {split!r}, and no file of this folder begins with it; it has: {', '.join(found)}"
        )
    return NamedSource(
        name=name,
        kind="files",
        split=split,
        files=chosen,
        other_files=tuple(path for path in files if path not in chosen),
    )


def _split_of(path: Path) -> str | None:
    """The split a file's name begins with: `train-00000-of-00002.parquet` and `train.jsonl` say train, `trains.jsonl` says nothing."""
    word = re.match(r"[a-z]*", path.name.lower())
    return word.group() if word and word.group() in SPLIT_NAMES else None


def _file_rows(path: Path, max_gb: float) -> Iterator[Row | BadRow]:
    suffix = _suffix(path) or ""
    if suffix == ".parquet":
        return _parquet_rows(path, max_gb)
    kind = next(plain for plain in _PLAIN if suffix.startswith(plain))
    if kind in (".csv", ".tsv"):
        return _csv_rows(path, max_gb, "," if kind == ".csv" else "\t")
    return _json_rows(path, max_gb) if kind == ".json" else _jsonl_rows(path, max_gb)


# JSON lines


def _jsonl_rows(path: Path, max_gb: float) -> Iterator[Row | BadRow]:
    with open_bytes(path, max_gb) as stream:
        for number, line in lines(stream, path):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.isspace():
                yield _jsonl_row(line, f"{path}:{number}")


def _jsonl_row(line: bytes, origin: str) -> Row | BadRow:
    try:
        return _object_row(_DECODER.decode(line.decode()), origin)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (byte {line[error.start]:#04x} at position {error.start + 1})"
        remedy = "save the file as UTF-8"
    except json.JSONDecodeError as error:
        reason, remedy = (
            f"not JSON ({error.msg} at column {error.colno})",
            "write one JSON object on each line",
        )
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        reason, remedy = f"not usable JSON ({error})", "write one JSON object on each line"
    shown = show(line.decode(errors="replace").rstrip("\r\n"))
    return BadRow(origin=origin, field="line", value=shown, reason=reason, remedy=remedy)


@dataclass(frozen=True, slots=True)
class _RepeatedKey:
    """Stands for a JSON object that gives one key twice, of which a plain parser would keep the last in silence."""

    key: str

    def __repr__(self) -> str:
        return f"an object with the key {self.key!r} twice"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _RepeatedKey:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    seen: set[str] = set()
    return _RepeatedKey(next(key for key, _ in pairs if key in seen or seen.add(key)))


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _object_row(value: object, origin: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(values=value, origin=origin)
    return BadRow(
        origin=origin,
        field="row",
        value=show(value),
        reason="not one JSON object with named columns",
        remedy='write {"column": value, ...}, each column once',
    )


# JSON: a list of objects, {"data": [...]}, one object, or JSON lines under the wrong name


def _json_rows(path: Path, max_gb: float) -> Iterator[Row | BadRow]:
    with open_bytes(path, max_gb) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: not UTF-8 (byte {content[error.start]:#04x}); save the file as UTF-8"
        ) from error
    del content
    start = _skip(text, 0)
    if text.startswith("[", start):
        yield from _json_list(path, text, start)
        return
    if not text.startswith("{", start):
        if start == len(text):
            return
        raise InputError(
            f"{path}:1: the file begins with {show(text[start : start + 20])}; write a list of objects [{{...}}, ...]"
        )
    try:
        at = _data_list(text, start)
        whole = None if at is not None else _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        at, whole = None, None
    if at is not None:
        yield from _json_list(path, text, at)
    elif whole is not None and _skip(text, whole[1]) == len(text):
        yield _object_row(whole[0], f"{path}:{text.count(chr(10), 0, start) + 1}")
    else:
        yield from _jsonl_rows(path, max_gb)


def _skip(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _data_list(text: str, start: int) -> int | None:
    """Where the list under the key `data` of the object at `start` begins; None if that object has no such list."""
    position = _skip(text, start + 1)
    while text.startswith('"', position):
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # past the colon
        if key == "data" and text.startswith("[", position):
            return position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # past the comma
    return None


def _json_list(path: Path, text: str, start: int) -> Iterator[Row | BadRow]:
    """The elements of the list at `start`, one at a time, each with the line it begins on, and its number where that is another's line too."""
    position = _skip(text, start + 1)
    line = text.count("\n", 0, position) + 1
    closed = text.startswith("]", position)
    number, line_before = 0, 0
    while not closed:
        number += 1
        value, end = _element(path, text, position, line)
        yield _object_row(value, f"{path}:{line}" + (f" (element {number})" if line == line_before else ""))
        line_before = line
        end = _skip(text, end)
        closed = text.startswith("]", end)
        if not closed and not text.startswith(",", end):
            line += text.count("\n", position, end)
            found = show(text[end : end + 20]) if end < len(text) else "the end of the file"
            raise InputError(f"{path}:{line}: not JSON (expected `,` or `]`, found {found}); fix the file")
        after = end if closed else _skip(text, end + 1)
        line += text.count("\n", position, after)
        position = after
    try:  # what is around the list
        json.loads(text[:start] + "[]" + text[position + 1 :])
    except ValueError as error:
        raise InputError(f"{path}:{line}: not JSON after the list ends ({error}); fix the file") from error


def _element(path: Path, text: str, position: int, line: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno}); fix the file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{line}: not usable JSON ({error}); fix the file") from error


# CSV


def _csv_rows(path: Path, max_gb: float, delimiter: str) -> Iterator[Row | BadRow]:
    # The csv module's own limit, 128 KiB, is shorter than some documents.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    # Bytes that are not UTF-8 become lone surrogates, so that one bad row does not stop the file.
    with (
        open_bytes(path, max_gb) as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        reader = csv.reader(text, strict=True, delimiter=delimiter)
        header = _csv_header(path, reader)
        line = reader.line_num + 1
        while header:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(
                    origin=f"{path}:{line}",
                    field="line",
                    value="not CSV",
                    reason=str(error),
                    remedy='close every quote, and write a quote inside quotes as ""',
                )
            else:
                if cells:
                    yield _csv_row(header, cells, f"{path}:{line}")
            line = reader.line_num + 1


def _csv_header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{path}:1: the header is not CSV ({error}); fix the first line") from error
    if len(set(header)) < len(header):
        repeated, _ = Counter(header).most_common(1)[0]
        raise InputError(f"{path}:1: the header names {repeated!r} twice; give every column its own name")
    return header


def _csv_row(header: list[str], cells: list[str], origin: str) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(
            origin=origin,
            field="line",
            value=f"{len(cells)} cells",
            reason=f"the header has {len(header)} columns",
            remedy="write one cell for each column, in quotes where a cell holds a comma or a line break",
        )
    for column, cell in zip(header, cells, strict=True):
        if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
            return BadRow(
                origin=origin,
                field=column,
                value=show(cell.encode(errors="surrogateescape")),
                reason="not UTF-8",
                remedy="save the file as UTF-8",
            )
    return Row(values=dict(zip(header, cells, strict=True)), origin=origin, typed=False)


# Parquet and Hugging Face data sets


def _parquet_rows(path: Path, max_gb: float) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pyarrow; {INSTALL}") from error
    try:
        number = size = 0
        with parquet.ParquetFile(path) as file:
            groups = (file.metadata.row_group(at) for at in range(file.metadata.num_row_groups))
            check_size(path, sum(group.total_byte_size for group in groups), max_gb)
            for batch in file.iter_batches(batch_size=1024):
                size += batch.nbytes  # a dictionary's long entry may stand in every row
                check_size(path, size, max_gb)
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values=values, origin=f"{path}:{number}")
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a Parquet file that can be read ({_first_line(error)}); write it again"
        ) from error


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{name}: reading a Hugging Face data set needs the package datasets; {INSTALL}"
        ) from error
    return datasets


def _saved_rows(source: NamedSource) -> Iterator[Row]:
    datasets = _datasets(source.name)
    try:
        data = datasets.load_from_disk(str(Path(source.name).expanduser()))
    except Exception as error:
        raise InputError(
            f"{source.name}: looks like a folder of `datasets.save_to_disk` but does not load ({_first_line(error)}); save it again"
        ) from error
    if isinstance(data, dict):
        if source.split not in data:
            raise InputError(
                f"{source.name}: split is {source.split!r}, and this data set has: {', '.join(data)}"
            )
        data = data[source.split]
    yield from _numbered(data, source)


def _hub_rows(source: NamedSource) -> Iterator[Row]:
    datasets = _datasets(source.name)
    name, _, config = source.name.partition(":")
    try:
        data = datasets.load_dataset(name, config or None, split=source.split)
    except (
        Exception
    ) as error:  # no such name, no network, no such split or config: the library has a class for each
        raise InputError(
            f"{source.name}: neither a file, a folder, nor a Hugging Face data set that loads with split {source.split!r} "
            f"({type(error).__name__}: {_first_line(error)}); check the name and the split, connect to the network, "
            "or download the data and name the file"
        ) from error
    yield from _numbered(data, source)


def _numbered(data: Any, source: NamedSource) -> Iterator[Row]:
    for number, values in enumerate(_undecoded(data), start=1):
        yield Row(values=values, origin=f"{source.name}/{source.split}:{number}")


def _undecoded(data: Any) -> Iterator[Any]:
    """Rows with images as the bytes that are stored: whoever takes them in decodes them, within bounds."""
    if "Image(" not in repr(data.features):
        yield from data
        return
    for batch in data.with_format("arrow").iter(batch_size=100):
        yield from batch.to_pylist()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
