"""The page of the people at work in a project."""

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.studio import at_work
from prefloop.studio.pages import Form, Id, Manager, page
from prefloop.studio.security import check_csrf, root_of, studio_of

router = APIRouter(include_in_schema=False)


@router.get("/admin/projects/{id}/people")
def people_page(request: Request, id: Id, who: Manager) -> Response:
    """How far each one's answers can be trusted, and who may go on."""
    studio = studio_of(request)
    return page(request, "at_work", who, project=studio.project(id), people=at_work.people(studio, id))


@router.post("/admin/projects/{id}/people")
def set_standing(request: Request, id: Id, who: Manager, form: Form) -> Response:
    """Pause somebody, or let them go on."""
    check_csrf(who, form.get("csrf", ""))
    state = form.get("state", "")
    if state not in ("working", "paused"):
        raise HTTPException(422, "state must be working or paused")
    at_work.set_standing(
        studio_of(request), id, form.get("annotator", ""), state, why=form.get("why", ""), by=who.annotator
    )
    return RedirectResponse(f"{root_of(request)}/admin/projects/{id}/people", 303)
