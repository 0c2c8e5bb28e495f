"""Erasing an image: its bytes go from the store, and its marks stay in the texts, where its description is still shown."""

from sqlalchemy import select

from prefloop.data.store import images, models
from prefloop.data.store.database import Unavailable
from prefloop.errors import InputError
from prefloop.studio import audit
from prefloop.studio.service import Studio


def find_image(studio: Studio, given: str) -> tuple[str, int]:
    """The hash of the one image whose hash begins so, and how many texts show it. Raises `InputError` for none or several."""
    column = models.ImageRow.sha256
    with studio.read() as session:
        found = session.scalars(select(column).where(column.startswith(given.lower())).limit(2)).all()
        if len(found) != 1:
            told = (
                "several images of the store have a hash that begins"
                if found
                else "no image of the store has a hash that begins"
            )
            raise InputError(
                f"{told} with {given!r}; an image's address on the studio's pages ends with its hash"
            )
        return found[0], images.texts_with(session, found[0])


def erase_image(studio: Studio, sha256: str, *, by: int | None) -> bool:
    """Erase an image for good, and write down that it was. Whether the database's file holds its bytes no more."""
    with studio.write(bulk=True) as session:
        shown = images.erase(session, sha256)
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="erase image",
            entity="image",
            id=0,
            detail={"sha256": sha256, "texts": shown},
        )
    try:
        return studio.store.database.compact()
    except Unavailable:
        return False  # somebody is reading
