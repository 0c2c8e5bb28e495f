"""The leaderboard of a chat project, for those who belong to it."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response

from prefloop.studio import members
from prefloop.studio.arena import CATEGORIES, board_of
from prefloop.studio.pages import Id, Signed, page
from prefloop.studio.security import studio_of

router = APIRouter(include_in_schema=False)


@router.get("/leaderboard/{id}")
def leaderboard_page(
    request: Request,
    id: Id,
    who: Signed,
    category: Annotated[str, Query(max_length=40)] = "everything",
    controlled: bool = False,
) -> Response:
    """Models by votes, in one category. Names are for annotators only where the project tells them after a vote."""
    studio = studio_of(request)
    members.require(studio, id, who.annotator)
    project = studio.project(id)
    runs = who.may_manage and members.roles(studio, who.annotator).get(id) == "manager"
    if not (runs or project.settings.reveal):
        raise HTTPException(403, "this project does not tell its annotators which models answer")
    return page(
        request,
        "leaderboard",
        who,
        project=project,
        found=board_of(studio, project.settings.name, category=category, controlled=controlled),
        categories=list(CATEGORIES),
        category=category,
        controlled=controlled,
    )
