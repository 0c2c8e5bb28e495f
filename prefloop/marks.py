"""Where an image stands in a text: a mark that names it by the hash of its bytes, `![what it shows](prefloop-image:640x480:SHA256)`.

Texts stay texts everywhere, and the bytes are kept apart, in a store (`data/images.py`). Only reading a file makes a mark: a file whose own text
spells one is refused, and so is what people type.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass

from prefloop.errors import InputError

SCHEME = "(prefloop-image:"
"""Is in every mark, and in next to nothing else: looked for first, as that is fast."""
PATTERN = r"!\[((?:[^\[\]\\\n]|\\[\[\]\\])*)\]\(prefloop-image:([0-9]{1,5})x([0-9]{1,5}):([0-9a-f]{64})\)"
"""A mark. The scripts of the studio's pages read it too (`static/pictures.js`)."""
_MARK = re.compile(PATTERN)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMark:
    """An image within a text."""

    alt: str
    """What it shows, in words; empty if the data does not say."""
    width: int
    height: int
    sha256: str
    """Hash of its bytes, which lead to them in a store."""

    def __str__(self) -> str:
        alt = re.sub(r"([\[\]\\])", r"\\\1", " ".join(self.alt.split()))
        return f"![{alt}](prefloop-image:{self.width}x{self.height}:{self.sha256})"


def split(text: str) -> list[str | ImageMark]:
    """A text as what stands between its images, and these, in order. Joined they are the text; no piece of text is empty."""
    if SCHEME not in text:
        return [text] if text else []
    pieces: list[str | ImageMark] = []
    end = 0
    for found in _MARK.finditer(text):
        pieces.append(text[end : found.start()])
        alt, width, height, sha256 = found.groups()
        pieces.append(
            ImageMark(
                alt=re.sub(r"\\([\[\]\\])", r"\1", alt),
                width=int(width),
                height=int(height),
                sha256=sha256,
            )
        )
        end = found.end()
    pieces.append(text[end:])
    return [piece for piece in pieces if piece != ""]


def images_in(value: object) -> Iterator[ImageMark]:
    """The images of a text, a message, a prompt, a record, or any list of these, in order; one that stands twice comes twice."""
    if isinstance(value, str):
        if SCHEME in value:
            yield from (piece for piece in split(value) if isinstance(piece, ImageMark))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from images_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from images_in(inner)
    elif is_dataclass(value):
        for field in fields(value):
            if field.name not in ("origin", "columns"):
                yield from images_in(getattr(value, field.name))


def in_words(text: str) -> str:
    """A text with its images told in words, for where none can be shown."""
    if SCHEME not in text:
        return text
    told = ""
    for piece in split(text):
        words = piece if isinstance(piece, str) else _told(piece)
        # Between a word and an image there is a line's end on a page.
        meets = told[-1:].isalnum() or told[-1:] in ("]", ":", ".", "?", "!")
        told += f" {words}" if meets and (words[0].isalnum() or words[0] == "[") else words
    return told


def _told(mark: ImageMark) -> str:
    return f"[image: {mark.alt}]" if mark.alt else "[image]"


def refuse_images(values: Iterable[object], what: str, reader: str) -> None:
    """Raise `InputError` for the first of these texts, records or items that holds an image, of which its reader would know nothing. `what` they are."""
    for value in values:
        mark = next(images_in(value), None)
        if mark is not None:
            origin = getattr(value, "origin", "")
            shown = f" of {mark.alt!r}" if mark.alt else ""
            raise InputError(
                f"{f'{origin}: ' if origin else ''}{what} holds an image{shown} (sha256 {mark.sha256[:12]}), which {reader} does not see: without it, "
                "it would be another question. Leave such records out, or export them for a trainer of models that see images"
            )
