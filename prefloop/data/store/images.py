"""The images of a store, by the hash of their bytes. Texts hold their marks; one that is erased leaves its marks behind."""

import hashlib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Text, cast, delete, func, select
from sqlalchemy.orm import Session

from prefloop.data.images import Image
from prefloop.data.store import models, studio_models
from prefloop.data.store.writing import chunks, insert_new, now
from prefloop.errors import InputError
from prefloop.marks import images_in

_Row = models.ImageRow


def add(session: Session, images: Iterable[Image]) -> None:
    """Keep images, one by one: together they may be larger than the memory."""
    moment = now()
    for image in images:
        if session.scalar(select(_Row.sha256).where(_Row.sha256 == image.sha256)) is None:
            row = {
                "sha256": image.sha256,
                "kind": image.kind,
                "width": image.width,
                "height": image.height,
                "content": image.content,
                "created_at": moment,
            }
            insert_new(session, _Row, [row], ["sha256"])


def missing(session: Session, sha256s: Iterable[str]) -> list[str]:
    """Those of these hashes of which there is no image, sorted."""
    asked = sorted(set(sha256s))
    there: set[str] = set()
    for some in chunks(asked):
        there |= set(session.scalars(select(_Row.sha256).where(_Row.sha256.in_(some))))
    return [sha256 for sha256 in asked if sha256 not in there]


def add_shown(session: Session, images: Iterable[Image], records: Iterable[object]) -> None:
    """Keep the images that records show. Raises `InputError` where one is neither among them nor in the store: nobody could see it."""
    add(session, images)
    marks = {mark.sha256 for record in records for mark in images_in(record)}
    if lacking := missing(session, marks):
        raise InputError(
            f"the records hold {len(lacking)} images that are not at hand, such as {lacking[0][:12]}; read them with `images` (prefloop.data.Images)"
        )


def find(session: Session, sha256: str) -> Image:
    """An image by its hash, which is checked. Raises `InputError`."""
    row = session.get(_Row, sha256)
    if row is None:
        raise InputError(
            f"image {sha256[:12]} is not in the store: it was erased, or the record was brought here without it; import its file"
        )
    if hashlib.sha256(row.content).hexdigest() != sha256:
        raise InputError(
            f"image {sha256[:12]} hashes to something else: the store was changed from outside; restore a backup"
        )
    kind: Any = row.kind
    return Image(sha256=sha256, kind=kind, width=row.width, height=row.height, content=row.content)


def erase(session: Session, sha256: str) -> int:
    """Delete an image; how many texts hold its mark."""
    if session.get(_Row, sha256) is None:
        raise InputError(f"image {sha256[:12]} is not in the store; it may be erased already")
    session.execute(delete(_Row).where(_Row.sha256 == sha256))
    return texts_with(session, sha256)


def texts_with(session: Session, sha256: str) -> int:
    """How many texts hold an image's mark: prompts, completions, and replies that somebody rewrote."""
    completion, detail = models.CompletionRow.text, studio_models.JudgementDetailRow.edited
    places: list[Any] = [cast(models.PromptRow.content, Text), completion, detail]
    return sum(
        session.scalar(select(func.count()).where(place.contains(f":{sha256})"))) or 0 for place in places
    )
