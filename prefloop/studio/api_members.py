"""The part of the HTTP API that is about the people of a project, and about links that invite them."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import Field

from prefloop.studio import invitations, members
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import Number, Strict, Text
from prefloop.studio.invitations import DAYS, LONGEST_NOTE, MOST_DAYS, MOST_USES, InvitedRole
from prefloop.studio.security import limit, manager, root_of, signed_in, studio_of
from prefloop.studio.values import ProjectRole

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["members"])
Manager = Annotated[Who, Depends(manager)]


class MemberIn(Strict):
    login: Text = Field(min_length=1, max_length=64)
    role: ProjectRole = "annotator"


class InviteIn(Strict):
    role: InvitedRole = "annotator"
    projects: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        default=[], max_length=100, description="that people join; only an admin may name none"
    )
    uses: int = Field(default=1, ge=1, le=MOST_USES, description="how many people can use it")
    days: int = Field(default=DAYS, ge=1, le=MOST_DAYS)
    note: Text = Field(default="", max_length=LONGEST_NOTE, description="your name for it")


def _inviter(who: Annotated[Who, Depends(signed_in)]) -> Who:
    """Who may run a project; which ones is asked for in the transaction."""
    if not who.may_manage:
        raise HTTPException(403, "only an admin, or the manager of a project, may do this")
    return who


Inviter = Annotated[Who, Depends(_inviter)]


@router.get("/projects/{id}/members")
def list_members(request: Request, id: Number, who: Manager) -> list[dict[str, Any]]:
    """The members of a project. In one that is open to everybody, others belong to it too."""
    return [asdict(member) for member in members.members(studio_of(request), id)]


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


@router.get("/invitations")
def list_invitations(request: Request, who: Inviter) -> list[dict[str, Any]]:
    """Invitation links, without their secret part: an admin's are all of them, a manager's those to their projects."""
    return [asdict(invitation) for invitation in invitations.links(studio_of(request), by=who.annotator)]


@router.post("/invitations", status_code=201)
def invite(request: Request, body: InviteIn, who: Inviter) -> dict[str, str]:
    """A path that lets people in, shown this once."""
    limit(request, "links", f"made by {who.annotator}")
    secret = invitations.invite(
        studio_of(request),
        body.role,
        to=body.projects,
        uses=body.uses,
        days=body.days,
        note=body.note,
        by=who.annotator,
    )
    return {"path": f"{root_of(request)}/join/{secret}"}


@router.delete("/invitations/{id}", status_code=204)
def revoke_invitation(request: Request, id: Number, who: Inviter) -> Response:
    """Revoke a link. People who joined with it stay."""
    invitations.revoke(studio_of(request), id, by=who.annotator)
    return Response(status_code=204)
