"""Images of a row, in all the ways in which the field writes them: taken in, or refused where text alone is read.

- parts of a message's content: `{"type": "image", "image": ...}` (or `url`, `path`, `base64`), `{"type": "image_url", "image_url": {"url": ...}}`, `{"type":
  "image", "source": {"type": "base64", "data": ...}}`; with `alt`, what the image shows in words;
- a column `images` (a list) or `image`, for the parts `{"type": "image"}` that hold none, in order; for each `<image>` in the texts of the prompt; or, where
  there is neither, before the first user's message. A prompt that is text becomes a user's message.

An image is bytes, `{"bytes", "path"}` as Parquet files of data sets have it, a `data:` URL, or the name of a file in the folder of the file that names it.
Nothing is fetched: an address elsewhere is an error.
"""

import base64
import binascii
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from prefloop.data.fields import as_text
from prefloop.data.images import MOST_BYTES, BadImage, Image, Kind, prepare
from prefloop.data.rows import MISSING, Row, RowError, show
from prefloop.errors import InputError
from prefloop.marks import SCHEME, split

COLUMNS = ("images", "image")
"""Columns of images beside the texts."""
MOST_IN_A_ROW = 32
LONGEST_ALT = 2000
"""Characters of an image's description."""

_TEXTS = ("prompt", "messages", "chosen", "rejected", "completion", "completions")
"""Columns that can hold parts, in the order in which a column of images fills them."""
_PARTS = ("image", "image_url", "input_image")
_HELD = ("image", "image_url", "url", "path", "base64", "source", "bytes", "data")
"""Keys of a part that hold its image."""
_FILE = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|svg|avif|heic)$", re.IGNORECASE)
_DATA = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PLACE = "<image>"
_TRAINED = (
    "text alone is read here, and without the image the row would be another question",
    "leave the row or the column out to train on text; a store takes images (`data import`, `label import`)",
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is remembered of an image whose bytes are on disk."""

    kind: Kind
    width: int
    height: int


class Images:
    """The images of a source while it is read: their bytes in a temporary folder, each once, until the `with` ends. Iterating gives them."""

    def __init__(self, *, files: bool = True) -> None:
        self.files = files
        """Whether a source may name files beside it. One that was sent to a server may not: they would be the server's."""
        self._kept: dict[str, _Kept] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="prefloop-images-")

    def __enter__(self) -> "Images":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Image]:
        for sha256, kept in self._kept.items():
            yield Image(
                sha256=sha256,
                kind=kept.kind,
                width=kept.width,
                height=kept.height,
                content=(Path(self._folder.name) / sha256).read_bytes(),
            )

    def add(self, image: Image) -> None:
        """Keep an image."""
        if image.sha256 not in self._kept:
            (Path(self._folder.name) / image.sha256).write_bytes(image.content)
            self._kept[image.sha256] = _Kept(image.kind, image.width, image.height)

    def mark(self, value: Any, alt: str, field: str, origin: str) -> str:
        """Take in one image of a row, in any of its forms; the mark for its text. Raises `RowError`."""
        content = self._bytes(value, field, origin)
        try:
            image = prepare(content)
        except BadImage as bad:
            raise RowError(field, _shown(value), str(bad), bad.remedy) from None
        except InputError as error:
            raise InputError(f"{origin}: `{field}` is an image: {error}") from None
        self.add(image)
        return str(image.mark(alt))

    def _bytes(self, value: Any, field: str, origin: str) -> bytes:
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                return self._bytes(value["bytes"], f"{field}.bytes", origin)
            named = next((key for key in ("url", "path", "data") if value.get(key)), None)
            if named is None:
                raise RowError(field, _shown(value), "it holds no image", 'write {"bytes": ..., "path": ...}')
            given = value[named]
            if named == "data" and isinstance(given, str):
                return _decoded(given, f"{field}.data")
            return self._bytes(given, f"{field}.{named}", origin)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise RowError(
                field,
                _shown(value),
                "it is no image",
                "write bytes, a data: URL or the name of a file beside this one",
            )
        if found := _DATA.match(value):
            return _decoded(value[found.end() :], field)
        if value[:5].lower() == "data:":
            raise RowError(
                field,
                show(value[:40]),
                "this data: URL is not an image in base64",
                "write data:image/png;base64,...",
            )
        if _ELSEWHERE.match(value):
            raise RowError(
                field, show(value), "images are never fetched from elsewhere: whoever serves them would learn who looks, and could change them",
                "download it, and write its bytes, a data: URL or the name of a file beside this one",
            )  # fmt: skip
        return self._file(value, field, origin)

    def _file(self, name: str, field: str, origin: str) -> bytes:
        if not self.files:
            raise RowError(
                field, show(name), "an uploaded file cannot name others, which would be this server's",
                "write data: URLs or Parquet with the bytes, or import on the command line",
            )  # fmt: skip
        folder = Path(origin.rpartition(":")[0]).parent
        try:
            path = (folder / name).resolve()
            if not path.is_relative_to(folder.resolve()):
                raise RowError(
                    field,
                    show(name),
                    f"it lies outside the folder {folder}, in which a file may name images",
                    "copy it there, and name it from there",
                )
            if path.stat().st_size > MOST_BYTES:
                raise RowError(
                    field,
                    show(name),
                    f"it has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}",
                    "save a smaller version of it",
                )
            return path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise RowError(
                field,
                show(name),
                f"this file cannot be read from {folder} ({reason})",
                "name a file in that folder",
            ) from None


def _decoded(text: str, field: str) -> bytes:
    if len(text) > MOST_BYTES * 4 // 3 + 4:
        raise RowError(
            field, show(text), f"it is more than {MOST_BYTES:,} bytes", "save a smaller version of it"
        )
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RowError(
            field, show(text), "it is not base64", "write data:image/png;base64,..., or a file's name"
        ) from None


def _shown(value: Any) -> str:
    """An image for a message: a large one is not printed."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in list(value.items())[:6]) + "}"
    return show(value)


# Reading text alone


def refuse_images(row: Row) -> None:
    """Raise `RowError` where a row has an image beside its texts, which a reader of text would drop. Images within messages are refused there."""
    refuse_marks(row)
    for column in COLUMNS:
        given = [each for each in listed(row, column) if _is_image(each)]
        if given:
            raise RowError(column, _shown(given[0]), *_TRAINED)


def refuse_marks(row: Row) -> None:
    """Raise `RowError` for a text that spells the mark of an image: it could show whom it likes what it likes."""
    for column, value in row.values.items():
        for text in _strings(value):
            if SCHEME in text and any(not isinstance(piece, str) for piece in split(text)):
                at = text.index(SCHEME)
                raise RowError(
                    column, show(text[max(0, at - 20) : at + 30]), "it spells the mark of an image in a store, which only prefloop writes",
                    'write the image as a part of a message, {"type": "image", "image": ...}, or leave the row out',
                )  # fmt: skip


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _is_image(value: Any) -> bool:
    """Whether a value of a column of images is one, rather than a number or a word about one."""
    if isinstance(value, Mapping):
        return any(value.get(key) is not None for key in ("bytes", "path", "url", "data"))
    if isinstance(value, str):
        return bool(value[:5].lower() == "data:" or _ELSEWHERE.match(value) or _FILE.search(value))
    return isinstance(value, bytes)


def listed(row: Row, column: str) -> list[Any]:
    """What a column of images holds, one or several; a cell of CSV may hold a JSON list."""
    value = row.values.get(column)
    if not row.typed and isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    values = value if isinstance(value, list) else [value]
    return [each for each in values if each is not None and each != ""]


# Taking images in


@dataclass(slots=True)
class _Column:
    """The images beside a row's texts, and which of them have a place there."""

    name: str
    values: Sequence[Any]
    next: int = 0
    placed: set[int] = field(default_factory=set)
    marks: dict[int, str] = field(default_factory=dict)


def with_images(row: Row, images: Images) -> Row:
    """The row with a mark in its texts for every image, which is taken in. Its columns are those of a format. Raises `RowError`."""
    refuse_marks(row)
    name = next((column for column in COLUMNS if any(map(_is_image, listed(row, column)))), COLUMNS[0])
    beside = _Column(name, [each for each in listed(row, name) if _is_image(each)])
    if len(beside.values) > MOST_IN_A_ROW:
        raise RowError(
            name, f"a list of {len(beside.values)}", f"a row has {MOST_IN_A_ROW} at most", "leave some out"
        )
    values = dict(row.values)
    placer = _Placer(row, images, beside)
    for column in _TEXTS:
        if isinstance(values.get(column), list | Mapping):
            values[column] = placer.column(values[column], column)
    if beside.values and not beside.placed:
        values = placer.spelled(values) or placer.first(values)
    elif len(beside.placed) < len(beside.values):
        raise RowError(
            name, f"a list of {len(beside.values)}", f"the texts have a place for {len(beside.placed)} of them",
            'write a part {"type": "image"} where each stands, or leave the others out',
        )  # fmt: skip
    return replace(row, values=values)


class _Placer:
    """Puts the marks of one row's images into its texts."""

    def __init__(self, row: Row, images: Images, beside: _Column) -> None:
        self.row, self.images, self.beside = row, images, beside

    def column(self, value: Any, field: str) -> Any:
        """A column of messages, or of completions that are messages."""
        if isinstance(value, list) and any(
            isinstance(item, Mapping) and item.get("role") == "user" for item in value
        ):
            self.beside.next = 0  # a whole dialogue: chosen and rejected both begin with the first image
        if isinstance(value, Mapping):
            return self.message(value, field)
        return [
            self.column(item, f"{field}[{at}]") if isinstance(item, list | Mapping) else item
            for at, item in enumerate(value)
        ]

    def message(self, message: Mapping[str, Any], field: str) -> Mapping[str, Any]:
        """A message with its images as parts of text."""
        key = "value" if message.get("content") is None and "value" in message else "content"
        content = message.get(key)
        if not isinstance(content, list):
            return message
        return {
            **message,
            key: [
                self.part(part, f"{field}.{key}[{at}]")
                if isinstance(part, Mapping) and part.get("type") in _PARTS
                else part
                for at, part in enumerate(content)
            ],
        }

    def part(self, part: Mapping[str, Any], field: str) -> Mapping[str, Any]:
        """An image's part as a part of text, its mark."""
        alt = as_text(part.get("alt") or "", f"{field}.alt")
        if len(alt) > LONGEST_ALT:
            raise RowError(
                f"{field}.alt",
                show(alt),
                f"it has {len(alt):,} characters, more than {LONGEST_ALT:,}",
                "shorten it",
            )
        held = [key for key in _HELD if part.get(key) is not None]
        if len(held) > 1:
            raise RowError(
                field,
                _shown({key: part[key] for key in held}),
                "it holds several images",
                "keep one of the two",
            )
        if not held:
            return _text(self.beside_mark(field, alt))
        value = part[held[0]]
        if held[0] == "base64" and isinstance(value, str) and value[:5].lower() != "data:":
            value = {"data": value}
        return _text(self.images.mark(value, alt, f"{field}.{held[0]}", self.row.origin))

    def beside_mark(self, field: str, alt: str = "") -> str:
        """The mark of the next image of the column."""
        at = self.beside.next
        if at >= len(self.beside.values):
            raise RowError(
                field, MISSING, f"it is the place of image {at + 1}, and the column `{self.beside.name}` has {len(self.beside.values)}",
                "add the image to the part or to the column",
            )  # fmt: skip
        self.beside.next += 1
        self.beside.placed.add(at)
        where = f"{self.beside.name}[{at}]"
        return self.images.mark(self.beside.values[at], alt, where, self.row.origin)

    def spelled(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """The row with its images where `<image>` stands in the user's texts, where it stands there once for each; None otherwise."""
        made = _with_chats(values)
        turns = [
            turn for dialogue in _dialogues(made) for turn in dialogue if isinstance(turn.get("content"), str)
        ]
        if len(_dialogues(made)) != 1 or sum(turn["content"].count(_PLACE) for turn in turns) != len(
            self.beside.values
        ):
            return None
        for turn in turns:
            pieces = turn["content"].split(_PLACE)
            turn["content"] = "".join(
                [pieces[0], *(self.beside_mark("prompt") + piece for piece in pieces[1:])]
            )
        return made

    def first(self, values: dict[str, Any]) -> dict[str, Any]:
        """The row with its images before the first user's message."""
        made = _with_chats(values)
        for dialogue in _dialogues(made):
            first = next((turn for turn in dialogue if turn.get("role") == "user"), None)
            if first is None:
                continue
            self.beside.next = 0
            marks = [_text(self.beside_mark("prompt")) for _ in self.beside.values]
            content = first.get("content")
            first["content"] = [*marks, *(content if isinstance(content, list) else [_text(content or "")])]
        if not self.beside.placed:
            raise RowError(
                self.beside.name, f"a list of {len(self.beside.values)}", "there is no user's message to show them with",
                "write the prompt as a chat",
            )  # fmt: skip
        return made


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _with_chats(values: dict[str, Any]) -> dict[str, Any]:
    """The row's values, its prompt a chat and every message a copy of its own."""
    made = dict(values)
    if isinstance(made.get("prompt"), str):
        made["prompt"] = [{"role": "user", "content": made["prompt"]}]
    for column in _TEXTS:
        if isinstance(made.get(column), list):
            made[column] = [dict(item) if isinstance(item, Mapping) else item for item in made[column]]
    return made


def _dialogues(values: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The columns in which a user speaks: the prompt, or else the dialogues that hold it."""
    columns = (
        ("prompt", "messages") if values.get("prompt") or values.get("messages") else ("chosen", "rejected")
    )
    found = [values[column] for column in columns if isinstance(values.get(column), list)]
    return [[turn for turn in turns if isinstance(turn, dict)] for turns in found]
