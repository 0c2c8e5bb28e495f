"""The part of the HTTP API that is about the people of a project."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from prefloop.studio import members
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS, Number, Strict, Text
from prefloop.studio.security import manager, studio_of
from prefloop.studio.values import ProjectRole

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["members"])
Manager = Annotated[Who, Depends(manager)]


class MemberIn(Strict):
    login: Text = Field(min_length=1, max_length=64)
    role: ProjectRole = "annotator"


@router.get("/projects/{id}/members")
def list_members(request: Request, id: Number, who: Manager) -> list[dict[str, Any]]:
    """The members of a project. In one that is open to everybody, others belong to it too."""
    return [asdict(each) for each in members.members(studio_of(request), id)]


@router.put("/projects/{id}/members", status_code=204)
def set_member(request: Request, id: Number, body: MemberIn, who: Manager) -> Response:
    """Make somebody a member, or give them another role."""
    members.set_member(studio_of(request), id, body.login, body.role, by=who.annotator)
    return Response(status_code=204)


@router.delete("/projects/{id}/members/{person}", status_code=204)
def remove_member(request: Request, id: Number, person: Number, who: Manager) -> Response:
    """Take somebody out of a project. What they have in front of them goes to others; what they said stays."""
    members.remove(studio_of(request), id, person, by=who.annotator)
    return Response(status_code=204)
