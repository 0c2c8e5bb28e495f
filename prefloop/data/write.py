"""Records written down in the field's formats, one JSON object a line: `load` reads the same records back, and so does `datasets.load_dataset("json")`."""

import base64
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from prefloop.data.formats import FORMATS, FormatName, Record
from prefloop.data.images import Image
from prefloop.data.rows import BadRow, Row, RowError, show
from prefloop.data.transcripts import write_transcript
from prefloop.errors import InputError
from prefloop.marks import ImageMark, images_in, split
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

ImagesAs = Literal["folder", "inline"]
"""Where the images of a file are written: to a folder beside it, or as data: URLs in it."""
Find = Callable[[str], Image]
"""The image of a hash; `InputError` where there is none."""
NATURAL_FORMAT: dict[type, FormatName] = {
    Text: "text",
    Prompt: "prompt",
    Demonstration: "demonstration",
    Conversation: "messages",
    Comparison: "comparison",
    Ranking: "ranking",
    Steps: "steps",
    Label: "label",
    Score: "score",
}
"""The format that holds all that a record says."""
IN_MEMORY = 8 * 2**20
"""Bytes of rows that are kept in memory before a file is written; more of them wait on its disk."""
SILENT: dict[str, float | str | list[int]] = {
    "margin": 0.0,
    "annotator": "",
    "p_soft": 1.0,
    "context": "",
    "opposite_context": "",
    "ranks": [],
    "top": 0,
}
"""Optional column -> the value that says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What was written."""

    path: Path
    format: FormatName
    rows: int
    bad: tuple[BadRow, ...]
    """Records left out, because the loaders would refuse them."""


def write_jsonl(
    records: Iterable[Record],
    path: str | Path,
    *,
    format: FormatName | None = None,
    skip_bad: bool = False,
    image: Find | None = None,
    images: ImagesAs = "folder",
) -> Written:
    """Write records to a .jsonl file (.jsonl.gz: compressed), whole or not at all: a temporary file beside it is renamed into place.

    `format` defaults to the natural one of the first record; `implicit` and `hh` hold comparisons of chats, `messages` demonstrations in chats
    too. Raises `InputError`, and writes nothing, where a record does not fit the format or would not be read back as it is (`skip_bad` leaves
    such records out and lists them), where text and chat prompts are mixed (a column of two types, which other readers refuse), where there
    is no record, and where the file cannot be written.

    Of records with images, `image` gives these by their hashes. They are written as vision data sets are: each row's images are its column `images`, in the
    order in which the parts `{"type": "image"}` of its messages stand, and every content is a list of parts. Without `image` such a record is an error.
    """
    target = Path(path).expanduser()
    with Draft(target, format=format, skip_bad=skip_bad, image=image, images=images) as draft:
        for record in records:
            draft.add(record)
        return draft.write()


class Draft:
    """A file of records to be, which takes them one at a time: `write` checks it as a whole and puts it in its place.

    Which columns a file has is known only at its end, so its rows wait beside it, in a file without a name where they are many. Memory holds one of them.
    Settings and errors are those of `write_jsonl`.
    """

    def __init__(
        self,
        target: Path,
        *,
        format: FormatName | None = None,
        skip_bad: bool = False,
        image: Find | None = None,
        images: ImagesAs = "folder",
    ) -> None:
        if not target.name.lower().endswith((".jsonl", ".jsonl.gz")):
            raise InputError(f"{target}: records are written as .jsonl or .jsonl.gz; change the file's name")
        self.target = target
        self.format: FormatName | None = format
        self.skip_bad, self.image = skip_bad, image
        self.images: ImagesAs = images
        self.given = self.rows = self._chats = 0
        self._has_images = False
        self._bad: list[BadRow] = []
        self._speaking: set[str] = set()
        """Optional columns that say something in some row."""
        self._waiting = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=_there(target.parent))  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.close()

    def add(self, record: Record) -> None:
        """Take the next record."""
        self.given += 1
        name = self.format = self.format or NATURAL_FORMAT[type(record)]
        try:
            row = _checked_row(record, name)
        except RowError as error:
            self._bad.append(error.at(getattr(record, "origin", "") or f"record {self.given}"))
            return
        self.rows += 1
        self._chats += isinstance(row.get("prompt"), list)
        self._speaking.update(column for column in FORMATS[name].optional if row[column] != SILENT[column])
        self._has_images = self._has_images or next(images_in(row), None) is not None
        try:
            self._waiting.write(_line(row))
        except OSError as error:
            raise _cannot_be_written(self.target, error) from error

    def write(self) -> Written:
        """Write the file, whole or not at all."""
        target, name = self.target, self.format
        if not self.given or name is None:
            raise InputError(f"{target}: there is no record to write")
        if (self._bad and not self.skip_bad) or not self.rows:
            lines = "\n  ".join(str(row) for row in self._bad[:20])
            raise InputError(
                f"{target}: {len(self._bad)} of {self.given} records cannot be written as {name}; nothing was written. "
                f"Correct them, or set skip_bad to leave them out, counted and listed:\n  {lines}"
            )
        if 0 < self._chats < self.rows:  # all prompts of a file are texts, or all are chats
            raise InputError(
                f"{target}: {self._chats} of {self.rows} prompts are chats and the others are text, "
                "which cannot be one column; write them to two files. Nothing was written"
            )
        if self._has_images and self.image is None:
            raise InputError(
                f"{target}: the records hold images, which are not at hand here; export them from their store"
            )
        _write(target, self._lines(set(FORMATS[name].optional) - self._speaking))
        return Written(path=target, format=name, rows=self.rows, bad=tuple(self._bad))

    def _lines(self, silent: set[str]) -> Iterator[bytes]:
        """The file's lines: without the optional columns that say nothing in any row (margin 0, no annotator, p_soft 1), images as parts."""
        self._waiting.seek(0)
        place = _place_of(self.target, self.image, self.images) if self._has_images and self.image else None
        for line in self._waiting:
            if not silent and place is None:
                yield line
                continue
            row = {column: value for column, value in json.loads(line).items() if column not in silent}
            yield _line(row if place is None else _with_parts(row, place))


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _there(folder: Path) -> str | None:
    """The nearest folder above that is there and can be written to: on the disk of the file to be, and nothing is left where it comes to nothing."""
    found = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    return str(found) if found is not None and os.access(found, os.W_OK) else None


def write_rows(file: str, rows: Iterable[Mapping[str, Any]], *, setting: str) -> None:
    """Write rows that no format is checked for, a line of JSON each. Raises `InputError` that names the setting that the file's name is from."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{setting} is {file!r}, which cannot be written ({error}); name a file") from error


class SplitDraft:
    """Records that go where `write_jsonl` keeps them apart: all to `path`, or chats to NAME-chat.jsonl and texts to NAME-text.jsonl where there are both."""

    def __init__(
        self,
        path: str | Path,
        *,
        format: FormatName | None = None,
        image: Find | None = None,
        images: ImagesAs = "folder",
    ) -> None:
        self.target = Path(path).expanduser()
        self._format: FormatName | None = format
        self._image = image
        self._images: ImagesAs = images
        self._parts: dict[str, Draft] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, record: Record) -> None:
        """Take the next record."""
        prompt = record if isinstance(record, Prompt) else getattr(record, "prompt", None)
        form = "text" if not isinstance(prompt, Prompt) or isinstance(prompt.content, str) else "chat"
        if form not in self._parts:
            draft = Draft(self.target, format=self._format, image=self._image, images=self._images)
            self._parts[form] = self._open.enter_context(draft)
        self._parts[form].add(record)

    def write(self) -> list[Written]:
        """Write the file or the two."""
        if len(self._parts) > 1:
            name, dot, ending = self.target.name.partition(".jsonl")
            for form, draft in self._parts.items():
                draft.target = self.target.with_name(f"{name}-{form}{dot}{ending}")
        return [self._parts[form].write() for form in ("chat", "text") if form in self._parts]


def _checked_row(record: Record, name: FormatName) -> dict[str, Any]:
    """The record's row, once it is seen to be read back as the same record."""
    if name == "messages" and isinstance(record, Demonstration) and isinstance(record.prompt.content, tuple):
        record = Conversation(messages=(*record.prompt.content, _answer(record.completion)))
    kind = Comparison if name in ("implicit", "hh") else _KINDS[name]
    if not isinstance(record, kind):
        raise RowError(
            "record",
            type(record).__name__,
            f"the format {name} holds {kind.__name__}s",
            f"write it as {NATURAL_FORMAT[type(record)]}",
        )
    try:
        values = _WRITERS[name](record)
    except ValueError as error:
        raise RowError(
            "prompt",
            show(getattr(record, "prompt", record)),
            str(error),
            f"write it as {NATURAL_FORMAT[kind]}",
        ) from None
    if FORMATS[name].parse(Row(values=values, origin="")) != record:
        raise RowError(
            "record",
            show(record),
            f"as {name} it would be read as another record",
            f"write it as {NATURAL_FORMAT[kind]}",
        )
    return values


def _text_row(record: Text) -> dict[str, Any]:
    return {"text": record.text}


def _prompt_row(record: Prompt) -> dict[str, Any]:
    return {"prompt": record.to_json()}


def _demonstration_row(record: Demonstration) -> dict[str, Any]:
    return {
        "prompt": record.prompt.to_json(),
        "completion": _completion(record.prompt, record.completion),
    }


def _messages_row(record: Conversation) -> dict[str, Any]:
    return {"messages": _plain(record.messages)}


def _comparison_row(record: Comparison) -> dict[str, Any]:
    return {
        "prompt": record.prompt.to_json(),
        "chosen": _completion(record.prompt, record.chosen),
        "rejected": _completion(record.prompt, record.rejected),
        **_said_of_it(record),
    }


def _implicit_row(record: Comparison) -> dict[str, Any]:
    turns = _turns(record.prompt)
    if next(images_in((record.chosen, record.rejected)), None):
        raise ValueError(
            "an answer holds an image, and this format has the images of both dialogues in one column"
        )
    return {
        "chosen": _plain((*turns, _answer(record.chosen))),
        "rejected": _plain((*turns, _answer(record.rejected))),
        **_said_of_it(record),
    }


def _hh_row(record: Comparison) -> dict[str, Any]:
    turns = _turns(record.prompt)
    if next(images_in(record), None):
        raise ValueError("it holds an image, for which a transcript has no place")
    return {
        "chosen": write_transcript((*turns, _answer(record.chosen))),
        "rejected": write_transcript((*turns, _answer(record.rejected))),
        **_said_of_it(record),
    }


def _said_of_it(record: Comparison) -> dict[str, Any]:
    """What a comparison's row says beside the texts."""
    return {
        "margin": float(record.margin),
        "annotator": record.annotator,
        "p_soft": float(record.p_soft),
        "context": record.context,
        "opposite_context": record.opposite_context,
    }


def _ranking_row(record: Ranking) -> dict[str, Any]:
    return {
        "prompt": record.prompt.to_json(),
        "completions": list(record.completions),
        "annotator": record.annotator,
        "ranks": list(record.ranks),
        "top": record.top,
    }


def _steps_row(record: Steps) -> dict[str, Any]:
    return {
        "prompt": record.prompt.to_json(),
        "completions": list(record.steps),
        "labels": list(record.good),
        "annotator": record.annotator,
    }


def _label_row(record: Label) -> dict[str, Any]:
    return {
        "prompt": record.prompt.to_json(),
        "completion": _completion(record.prompt, record.completion),
        "label": record.good,
        "annotator": record.annotator,
    }


def _score_row(record: Score) -> dict[str, Any]:
    return {
        "prompt": record.prompt.to_json(),
        "completion": _completion(record.prompt, record.completion),
        "score": float(record.value),
        "annotator": record.annotator,
    }


_KINDS: dict[FormatName, type] = {name: kind for kind, name in NATURAL_FORMAT.items()}
_WRITERS: dict[FormatName, Callable[[Any], dict[str, Any]]] = {
    "text": _text_row,
    "prompt": _prompt_row,
    "demonstration": _demonstration_row,
    "messages": _messages_row,
    "comparison": _comparison_row,
    "implicit": _implicit_row,
    "hh": _hh_row,
    "ranking": _ranking_row,
    "steps": _steps_row,
    "label": _label_row,
    "score": _score_row,
}


def _completion(prompt: Prompt, text: str) -> str | list[dict[str, Any]]:
    """Text after a text, and one assistant message after a chat: what other readers of the formats expect."""
    return text if isinstance(prompt.content, str) else _plain((_answer(text),))


def _turns(prompt: Prompt) -> tuple[Message, ...]:
    if isinstance(prompt.content, str):
        raise ValueError("the prompt is text, and this format holds chats")
    return prompt.content


def _answer(text: str) -> Message:
    return Message(role="assistant", content=text)


def _with_parts(row: Mapping[str, Any], place: Callable[[ImageMark], str]) -> dict[str, Any]:
    """A row as vision data sets have it, from one whose texts hold marks. The images of its columns stand in the order in which these are read."""
    found: list[str] = []

    def parts(value: Any) -> Any:
        if isinstance(value, list):
            return [parts(item) for item in value]
        if isinstance(value, Mapping) and "role" in value:
            return {**value, "content": content(value["content"])}
        return value

    def content(text: str) -> list[dict[str, str]]:
        made = []
        for piece in split(text):
            if isinstance(piece, str):
                made.append({"type": "text", "text": piece})
            else:
                found.append(place(piece))
                made.append({"type": "image", "alt": piece.alt})
        return made

    given = dict(row)
    if isinstance(given.get("completions"), list) and next(images_in(given["completions"]), None):
        given["completions"] = [_plain((_answer(text),)) for text in given["completions"]]
    written = {column: parts(value) for column, value in given.items()}
    if "prompt" not in row and "rejected" in row:
        del found[
            len(found) // 2 :
        ]  # both dialogues begin with the prompt and its images, which are read again for the second
    return {**written, "images": found}


def _place_of(target: Path, image: Find, images: ImagesAs) -> Callable[[ImageMark], str]:
    """What a file says of an image; where that is a name, its file is written."""
    folder = target.with_name(f"{target.name.partition('.jsonl')[0]}-images")

    def inline(mark: ImageMark) -> str:
        found = image(mark.sha256)
        return f"data:{found.kind};base64,{base64.b64encode(found.content).decode()}"

    def beside(mark: ImageMark) -> str:
        found = image(mark.sha256)
        path = folder / found.file
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != found.content:
                _whole(path, lambda stream: stream.write(found.content))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror or error}); choose a folder that can be written, with room in it"
            ) from error
        return f"{folder.name}/{found.file}"

    return inline if images == "inline" else beside


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message.to_json() for message in messages]


def _write(target: Path, lines: Iterable[bytes]) -> None:
    def write(stream: Any) -> None:
        if target.name.lower().endswith(".gz"):
            # No time and no name inside: the same records give the same bytes.
            with gzip.GzipFile(fileobj=stream, mode="wb", filename="", mtime=0) as packed:
                packed.writelines(lines)
        else:
            stream.writelines(lines)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _whole(target, write)
    except OSError as error:
        raise _cannot_be_written(target, error) from error


def _cannot_be_written(target: Path, error: OSError) -> InputError:
    return InputError(
        f"{target}: cannot be written ({error.strerror or error}); choose a folder that can be written, with room in it"
    )


def _whole(target: Path, write: Callable[[Any], object]) -> None:
    """Write a file whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
