"""The images of items, from the store, to those who may see the item. Their addresses end in the hash of their bytes, so browsers keep them."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi import Path as PathParameter
from sqlalchemy import select

from prefloop.data.store import images, judging, studio_models
from prefloop.data.store.values import Item
from prefloop.errors import InputError
from prefloop.marks import images_in
from prefloop.studio import access, adjudicate
from prefloop.studio.pages import Id, Manager, SignedOrGuest
from prefloop.studio.pages_adjudicate import Adjudicator
from prefloop.studio.security import studio_of
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

router = APIRouter(include_in_schema=False)
Sha256 = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")]
_Assignment, _Task = studio_models.AssignmentRow, studio_models.TaskRow
_HEADERS = {
    # It is of whoever may see the item, and under this address never another one.
    "Cache-Control": "private, max-age=31536000, immutable",
    # Opened by itself it is an image and nothing else, whatever its bytes are.
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
_NONE = "there is no such image"


@router.get("/images/{token}/{sha256}")
def own_image(request: Request, token: str, sha256: Sha256, who: SignedOrGuest) -> Response:
    """An image of an item that one was asked about, as long as one belongs to its project."""
    studio = studio_of(request)
    with studio.read() as session:
        found = session.execute(
            select(_Task.project_id, _Task.item_id)
            .join(_Assignment, _Assignment.task_id == _Task.id)
            .where(_Assignment.token == token, _Assignment.annotator_id == who.annotator)
        ).one_or_none()
        if found is None:
            raise HTTPException(404, _NONE)
        access.check(session, found.project_id, who.annotator)
        (item,) = judging.items(session, [found.item_id])
    return _image(request, studio, item, sha256)


@router.get("/admin/projects/{id}/items/{task}/images/{sha256}")
def item_image(request: Request, id: Id, task: Id, sha256: Sha256, who: Manager) -> Response:
    """An image of an item of a project that one runs."""
    studio = studio_of(request)
    with studio.read() as session:
        found = session.scalar(select(_Task.item_id).where(_Task.id == task, _Task.project_id == id))
        if found is None:
            raise HTTPException(404, _NONE)
        (item,) = judging.items(session, [found])
    return _image(request, studio, item, sha256)


@router.get("/adjudicate/{project}/{item}/images/{sha256}")
def case_image(request: Request, project: Id, item: Id, sha256: Sha256, who: Adjudicator) -> Response:
    """An image of an item to decide."""
    studio = studio_of(request)
    adjudicate.case(studio, project, item, who.annotator)  # whether they may see it
    with studio.read() as session:
        (found,) = judging.items(session, [item])
    return _image(request, studio, found, sha256)


def _image(request: Request, studio: Studio, item: Item, sha256: str) -> Response:
    """The image, if the item shows it."""
    if sha256 not in {mark.sha256 for mark in images_in((item.prompt, item.completions))}:
        raise HTTPException(404, _NONE)
    tag = f'"{sha256}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={**_HEADERS, "ETag": tag})
    try:
        with studio.read() as session:
            image = images.find(session, sha256)
    except InputError as error:
        raise NotFound(str(error)) from None
    return Response(image.content, media_type=image.kind, headers={**_HEADERS, "ETag": tag})
