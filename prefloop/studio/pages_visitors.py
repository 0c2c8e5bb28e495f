"""The door of a public arena, and what an admin sees of its visitors."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.studio import guests, visitors
from prefloop.studio.pages import Form, Id, Manager, door, let_in, page
from prefloop.studio.render import markdown
from prefloop.studio.security import check_csrf, check_form, client_of, limit, root_of, studio_of, who_asks

router = APIRouter(include_in_schema=False)


@router.get("/arena/{id}")
def arena_page(request: Request, id: Id) -> Response:
    """What the arena is. Nobody is given an account for looking: programs that follow links would fill the store."""
    project = guests.public_arena(studio_of(request), id)
    if who_asks(request) is not None:
        return RedirectResponse(f"{root_of(request)}/label/{id}", 303)
    return door(request, "arena", project=project, guidelines=markdown(project.settings.guidelines))


@router.post("/arena/{id}")
def enter(request: Request, id: Id, form: Form) -> Response:
    """Let a visitor in."""
    check_form(request, form.get("form_token", ""))
    studio = studio_of(request)
    guests.public_arena(studio, id)
    if who_asks(request) is not None:
        return RedirectResponse(f"{root_of(request)}/label/{id}", 303)
    limit(request, "guests", client_of(request))
    return let_in(request, guests.visit(studio, id), f"/label/{id}")


@router.get("/admin/projects/{id}/visitors")
def visitors_page(request: Request, id: Id, who: Manager) -> Response:
    """What each visitor did."""
    studio = studio_of(request)
    return page(request, "visitors", who, project=studio.project(id), visitors=visitors.visitors(studio, id))


@router.post("/admin/projects/{id}/visitors")
def block(request: Request, id: Id, who: Manager, form: Form) -> Response:
    """Shut a visitor out."""
    check_csrf(who, form.get("csrf", ""))
    account = form.get("account", "")
    visitors.block(studio_of(request), id, int(account) if account.isdecimal() else -1, by=who.annotator)
    return RedirectResponse(f"{root_of(request)}/admin/projects/{id}/visitors", 303)
