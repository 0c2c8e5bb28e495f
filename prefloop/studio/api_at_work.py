"""The part of the HTTP API that is about the people at work in a project: how good their answers are, and whether they may go on."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from prefloop.studio import at_work
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.at_work import AtWork
from prefloop.studio.bodies import Number, Strict, Text
from prefloop.studio.security import manager, studio_of

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["members"])
Manager = Annotated[Who, Depends(manager)]


class StandingIn(Strict):
    annotator: Text = Field(min_length=1, max_length=100, description="pseudonym")
    state: Literal["working", "paused"]
    why: Text = Field(default="", max_length=1000, description="what they are told who are paused")


def _out(person: AtWork) -> dict[str, Any]:
    """As JSON, which has no NaN: of no answers there is no share."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return None if value.get("n") == 0 else {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(asdict(person))


@router.get("/projects/{id}/people")
def list_people(request: Request, id: Number, who: Manager) -> list[dict[str, Any]]:
    """Who works in a project: agreement, known answers and accuracy with 95 % intervals, change in time, answers given too fast."""
    return [_out(person) for person in at_work.people(studio_of(request), id)]


@router.put("/projects/{id}/standing", status_code=204)
def set_standing(request: Request, id: Number, body: StandingIn, who: Manager) -> Response:
    """Pause somebody in a project, or let them go on, whatever they got wrong before."""
    at_work.set_standing(studio_of(request), id, body.annotator, body.state, why=body.why, by=who.annotator)
    return Response(status_code=204)
