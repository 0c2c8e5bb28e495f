"""The part of the HTTP API that is about links for recruiting platforms."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from prefloop.studio import studies
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import Number, Strict, Text
from prefloop.studio.security import manager, root_of, studio_of
from prefloop.studio.studies import MOST_PLACES, PlatformName, StudyLink

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["recruiting"])
Manager = Annotated[Who, Depends(manager)]


class StudyIn(Strict):
    platform: PlatformName
    places: int = Field(ge=1, le=MOST_PLACES, description="how many people it takes")
    code: Text = Field(default="", max_length=40, description="completion code; drawn if empty")


class StudyChange(Strict):
    open: bool | None = Field(default=None, description="whether it takes people")
    places: int | None = Field(default=None, ge=1, le=MOST_PLACES)


def _told(request: Request, study: StudyLink) -> dict[str, Any]:
    return asdict(study) | {"path": f"{root_of(request)}{study.path}"}


@router.get("/projects/{id}/studies")
def list_studies(request: Request, id: Number, who: Manager) -> list[dict[str, Any]]:
    """The project's links for recruiting platforms, and how many came by each."""
    return [_told(request, study) for study in studies.studies(studio_of(request), id)]


@router.post("/projects/{id}/studies", status_code=201)
def new_study(request: Request, id: Number, body: StudyIn, who: Manager) -> dict[str, Any]:
    """A link for a recruiting platform. Each person gives as many answers as the project's quota says."""
    study = studies.create(
        studio_of(request), id, body.platform, places=body.places, code=body.code, by=who.annotator
    )
    return _told(request, study)


@router.patch("/projects/{id}/studies/{study}", status_code=204)
def change_study(request: Request, id: Number, study: Number, body: StudyChange, who: Manager) -> Response:
    """Close a link, open it again, or let it take more people. Who came by it continues."""
    studies.change(studio_of(request), id, study, open=body.open, places=body.places, by=who.annotator)
    return Response(status_code=204)


@router.get("/projects/{id}/studies/{study}/participants")
def list_participants(request: Request, id: Number, study: Number, who: Manager) -> list[dict[str, Any]]:
    """Who came by a link: number on the platform, pseudonym, times, and completion code once they are done."""
    return [asdict(each) for each in studies.participants(studio_of(request), study, project=id)]
