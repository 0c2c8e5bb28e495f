"""The door for people whom a recruiting platform sends, the page with their completion code, and that of the links."""

from typing import get_args

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.errors import InputError
from prefloop.studio import studies
from prefloop.studio.accounts import Who
from prefloop.studio.pages import Form, Id, Manager, SignedOrGuest, door, let_in, page
from prefloop.studio.render import markdown
from prefloop.studio.security import check_csrf, check_form, client_of, limit, root_of, studio_of

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


@router.get("/admin/projects/{id}/recruiting")
def recruiting_page(request: Request, id: Id, who: Manager) -> Response:
    """A project's links for recruiting platforms, and how many came by each."""
    return _recruiting(request, id, who)


@router.post("/admin/projects/{id}/recruiting")
def change_recruiting(request: Request, id: Id, who: Manager, form: Form) -> Response:
    """Make a link, or change the one that the form names."""
    check_csrf(who, form.get("csrf", ""))
    studio, study = studio_of(request), form.get("study", "")
    try:
        places = _places(form["places"]) if "places" in form else None
        if study:
            studies.change(
                studio,
                id,
                int(study) if study.isdecimal() else -1,
                open={"close": False, "open": True}.get(form.get("do", "")),
                places=places,
                by=who.annotator,
            )
        else:
            given = form.get("platform", "")
            platform = next((name for name in get_args(studies.PlatformName) if name == given), None)
            if platform is None:
                raise InputError(f"platform is {given!r}; it must be one of {', '.join(studies.PLATFORMS)}")
            studies.create(
                studio, id, platform, places=places or 0, code=form.get("code", "").strip(), by=who.annotator
            )
    except InputError as error:
        return _recruiting(request, id, who, error=str(error), form={} if study else form)
    return RedirectResponse(f"{root_of(request)}/admin/projects/{id}/recruiting", 303)


@router.get("/admin/projects/{id}/recruiting.csv")
def participants_file(request: Request, id: Id, who: Manager) -> Response:
    """Everybody who came, for who pays them."""
    return Response(
        studies.participants_csv(studio_of(request), id),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="participants.csv"'},
    )


def _places(given: str) -> int:
    if not given.strip().isdecimal():
        raise InputError(f"places is {given!r}; it must be a whole number of people")
    return int(given)


def _recruiting(
    request: Request, id: int, who: Who, *, error: str = "", form: dict[str, str] | None = None
) -> Response:
    studio = studio_of(request)
    return page(
        request,
        "recruiting",
        who,
        status=422 if error else 200,
        project=studio.project(id),
        studies=studies.studies(studio, id),
        platforms=studies.PLATFORMS,
        address=request.app.state.public or str(request.base_url).rstrip("/"),
        error=error,
        form=form or {},
    )
