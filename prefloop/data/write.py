"""Records written down in the field's formats, one JSON object a line: `load` reads the same records back, and so does `datasets.load_dataset("json")`."""

import base64
import gzip
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

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

T = TypeVar("T")
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
    if not target.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{target}: records are written as .jsonl or .jsonl.gz; change the file's name")
    given = tuple(records)
    if not given:
        raise InputError(f"{target}: there is no record to write")
    name = format or NATURAL_FORMAT[type(given[0])]
    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for index, record in enumerate(given):
        try:
            rows.append(_checked_row(record, name))
        except RowError as error:
            bad.append(error.at(getattr(record, "origin", "") or f"record {index + 1}"))
    if (bad and not skip_bad) or not rows:
        lines = "\n  ".join(str(row) for row in bad[:20])
        raise InputError(
            f"{target}: {len(bad)} of {len(given)} records cannot be written as {name}; nothing was written. "
            f"Correct them, or set skip_bad to leave them out, counted and listed:\n  {lines}"
        )
    _one_kind(rows, target)
    rows = _aligned(rows, FORMATS[name].optional)
    if any(next(images_in(row), None) for row in rows):
        if image is None:
            raise InputError(
                f"{target}: the records hold images, which are not at hand here; export them from their store"
            )
        rows = [_with_parts(row, _place_of(target, image, images)) for row in rows]
    _write(target, rows)
    return Written(path=target, format=name, rows=len(rows), bad=tuple(bad))


def write_rows(file: str, rows: Iterable[Mapping[str, Any]], *, setting: str) -> None:
    """Write rows that no format is checked for, a line of JSON each. Raises `InputError` that names the setting that the file's name is from."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{setting} is {file!r}, which cannot be written ({error}); name a file") from error


def split_by_prompts(records: Sequence[T], path: str | Path) -> list[tuple[Path, list[T]]]:
    """Where records go that `write_jsonl` keeps apart: all to `path`, or chats to NAME-chat.jsonl and texts to NAME-text.jsonl where there are both."""
    target = Path(path).expanduser()
    parts: dict[str, list[T]] = {}
    for record in records:
        prompt = record if isinstance(record, Prompt) else getattr(record, "prompt", None)
        plain = not isinstance(prompt, Prompt) or isinstance(prompt.content, str)
        parts.setdefault("text" if plain else "chat", []).append(record)
    if len(parts) < 2:
        return [(target, list(records))]
    name, dot, ending = target.name.partition(".jsonl")
    return [(target.with_name(f"{name}-{form}{dot}{ending}"), parts[form]) for form in ("chat", "text")]


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


def _one_kind(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """All prompts of a file are texts, or all are chats."""
    chats = [isinstance(row.get("prompt"), list) for row in rows]
    if any(chats) and not all(chats):
        raise InputError(
            f"{target}: {sum(chats)} of {len(chats)} prompts are chats and the others are text, "
            "which cannot be one column; write them to two files. Nothing was written"
        )


def _aligned(rows: Sequence[dict[str, Any]], optional: Sequence[str]) -> list[dict[str, Any]]:
    """The rows without the optional columns that say nothing in any of them (margin 0, no annotator, p_soft 1)."""
    silent = [column for column in optional if all(row[column] == SILENT[column] for row in rows)]
    return [{column: value for column, value in row.items() if column not in silent} for row in rows]


def _write(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)

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
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); choose a folder that can be written, with room in it"
        ) from error


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
