"""The leaderboard of a chat project, for those who belong to it; of a public arena, for everybody."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response

from prefloop.studio import members
from prefloop.studio.arena import CATEGORIES, board_of
from prefloop.studio.guests import public_arena
from prefloop.studio.pages import Id, page
from prefloop.studio.security import studio_of, who_asks
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound, Project

router = APIRouter(include_in_schema=False)


@router.get("/leaderboard/{id}")
def leaderboard_page(
    request: Request,
    id: Id,
    category: Annotated[str, Query(max_length=40)] = "everything",
    controlled: bool = False,
) -> Response:
    """Models by votes, in one category. Names are for annotators only where the project tells them after a vote."""
    studio, who = studio_of(request), who_asks(request)
    if who is None:
        project, runs = _open_to_all(studio, id), False
    else:
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


def _open_to_all(studio: Studio, id: int) -> Project:
    """A public arena; others are behind signing in, whether they exist or not."""
    try:
        return public_arena(studio, id)
    except NotFound:
        raise HTTPException(401, "sign in first") from None
