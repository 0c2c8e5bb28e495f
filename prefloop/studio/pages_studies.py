"""The door for people whom a recruiting platform sends, and the page with their completion code."""

from fastapi import APIRouter, Request, Response

from prefloop.studio import studies
from prefloop.studio.pages import Form, SignedOrGuest, door, let_in, page
from prefloop.studio.render import markdown
from prefloop.studio.security import check_form, client_of, limit, studio_of

router = APIRouter(include_in_schema=False)


@router.get("/study/{token}")
def study_page(request: Request, token: str) -> Response:
    """What the study asks. Who only looks at it is given no account."""
    limit(request, "links", client_of(request))
    studio = studio_of(request)
    platform, project = studies.look(studio, token)
    settings = studio.project(project).settings
    return door(
        request,
        "study",
        settings=settings,
        guidelines=markdown(settings.guidelines),
        token=token,
        number=studies.number_in(platform, request.query_params),
        parameter=studies.PLATFORMS[platform].parameter,
    )


@router.post("/study/{token}")
def begin(request: Request, token: str, form: Form) -> Response:
    """Let a participant in."""
    check_form(request, form.get("form_token", ""))
    limit(request, "links", client_of(request))
    studio = studio_of(request)
    platform, project = studies.look(studio, token)
    number = studies.number_in(platform, form)
    return let_in(request, studies.arrive(studio, token, number), f"/label/{project}")


@router.get("/complete")
def complete(request: Request, who: SignedOrGuest) -> Response:
    """How far a participant is, and their completion code."""
    return page(request, "complete", who, found=studies.standing(studio_of(request), who.account))
