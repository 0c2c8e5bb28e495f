"""The page of the addresses that are told what happens."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.errors import InputError
from prefloop.studio import webhooks
from prefloop.studio.accounts import Who
from prefloop.studio.pages import Admin, Form, Id, page
from prefloop.studio.security import check_csrf, limit, root_of, studio_of

router = APIRouter(include_in_schema=False)
COMMON = ("submit", "skip", "undo", "adjudicate", "import", "export", "save")
"""Actions that the form offers; the API takes any."""


@router.get("/admin/webhooks")
def webhooks_page(request: Request, who: Admin) -> Response:
    """All addresses, and a form for another."""
    return _page(request, who)


@router.post("/admin/webhooks")
def add_page(request: Request, who: Admin, form: Form) -> Response:
    """Another address. Its secret is on the page that answers, and nowhere after that."""
    check_csrf(who, form.get("csrf", ""))
    limit(request, "links", f"webhooks {who.annotator}")
    url = form.get("url", "").strip()
    try:
        _, secret = webhooks.add(
            studio_of(request),
            url,
            [action for action in COMMON if action in form],
            allowed=request.app.state.webhook_networks,
            by=who.annotator,
        )
    except InputError as error:
        return _page(request, who, url=url, error=str(error))
    return _page(request, who, secret=secret)


@router.post("/admin/webhooks/{id}/{what}")
def change_page(
    request: Request,
    who: Admin,
    form: Form,
    id: Id,
    what: Literal["pause", "resume", "test", "retry", "delete"],
) -> Response:
    """Do something with an address."""
    check_csrf(who, form.get("csrf", ""))
    studio, by = studio_of(request), who.annotator
    if what == "test":
        limit(request, "links", f"webhooks {by}")
        webhooks.test(studio, id, by=by)
    elif what == "retry":
        webhooks.retry(studio, id, by=by)
    elif what == "delete":
        webhooks.remove(studio, id, by=by)
    else:
        webhooks.set_active(studio, id, what == "resume", by=by)
    return RedirectResponse(f"{root_of(request)}/admin/webhooks", 303)


def _page(request: Request, who: Who, *, url: str = "", error: str = "", secret: str = "") -> Response:
    return page(
        request,
        "webhooks",
        who,
        status=422 if error else 200,
        webhooks=webhooks.webhooks(studio_of(request)),
        common=COMMON,
        url=url,
        error=error,
        secret=secret,
    )
