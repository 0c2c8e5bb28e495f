"""The studio as a web application: the API, the pages, what they stand on, and how errors are told."""

import logging
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from prefloop import __version__
from prefloop.data.store.database import HEAD, Unavailable
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.studio import (
    api,
    api_account,
    api_at_work,
    api_chat,
    api_datasets,
    api_docs,
    api_items,
    api_members,
    api_people,
    api_questions,
    api_start,
    api_studies,
    api_webhooks,
    pages,
    pages_account,
    pages_adjudicate,
    pages_admin,
    pages_arena,
    pages_at_work,
    pages_datasets,
    pages_images,
    pages_items,
    pages_members,
    pages_oidc,
    pages_questions,
    pages_runs,
    pages_start,
    pages_studies,
    pages_visitors,
    pages_webhooks,
)
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.outgoing import Network
from prefloop.studio.prefix import Prefix, check_prefix, parsed
from prefloop.studio.security import Guard, Hosts, RateLimit, root_of
from prefloop.studio.service import Studio
from prefloop.studio.telemetry import Watch
from prefloop.studio.values import NotAllowed, NotFound

log = logging.getLogger(__name__)
STATIC = Path(str(files("prefloop.studio"))) / "static"
PARTS = (
    api,
    api_people,
    api_chat,
    api_datasets,
    api_members,
    api_account,
    api_at_work,
    api_items,
    api_questions,
    api_start,
    api_studies,
    api_webhooks,
    pages,
    pages_admin,
    pages_adjudicate,
    pages_images,
    pages_datasets,
    pages_members,
    pages_account,
    pages_oidc,
    pages_at_work,
    pages_items,
    pages_questions,
    pages_runs,
    pages_start,
    pages_arena,
    pages_visitors,
    pages_studies,
    pages_webhooks,
    api_docs,
)
"""Where the routes are. The first that fits a request answers it."""
ANY_HOST = Hosts()
LIMITS = {"sign in": (10, 60.0), "tokens": (20, 60.0), "answers": (600, 60.0), "links": (30, 60.0)} | {
    "guests": (20, 3600.0),
    "visitor": (6, 60.0),
    "visitors of an address": (30, 60.0),
}
"""What is counted -> events and seconds, of one address or one person."""


def make_app(
    studio: Studio,
    *,
    hosts: Hosts = ANY_HOST,
    public_url: str = "",
    media: Path | None = None,
    chat: ChatWork | None = None,
    limits: dict[str, tuple[int, float]] | None = None,
    watches: Sequence[Watch] = (),
    webhook_networks: Sequence[Network] = (),
) -> FastAPI:
    """The application. `hosts`: what it answers to. `public_url`: the address that people
    type, where it is another: its scheme says whether cookies need TLS, its path is that of every page. `media`: folder of clips. `chat`: the models of
    live chats. `watches`: told of every request. `webhook_networks`: where webhooks may go that is not the internet. Raises `InputError` for a public_url that cannot be."""
    public = parsed(public_url)
    app = FastAPI(
        title="prefloop studio",
        version=__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        description="Collect preferences from people. Send a token as `Authorization: Bearer pf_...`.",
    )
    app.state.studio = studio
    app.state.secure = public.scheme == "https"
    app.state.prefix = prefix = public.path
    app.state.public = public_url.rstrip("/")
    app.state.oidc = None  # until `pages_oidc.offer`
    app.state.media = media
    app.state.runs = None
    app.state.chat = chat
    app.state.webhook_networks = tuple(webhook_networks)
    app.state.limits = {
        name: RateLimit(count, seconds) for name, (count, seconds) in (LIMITS | (limits or {})).items()
    }
    for part in PARTS:
        # `include_router` would make every route anew for each application.
        app.router.routes.extend(part.router.routes)
    app.add_api_route("/healthz", _alive, methods=["GET"], tags=["server"])
    app.add_api_route("/readyz", _ready, methods=["GET"], tags=["server"], response_model=None)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(InputError, _input_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _not_valid)
    check_prefix(app.router.routes, prefix)
    app.add_middleware(Guard, hosts=hosts, origin=public.netloc, watches=watches)
    if prefix:
        app.add_middleware(Prefix, prefix=prefix, routes=app.router.routes)
    return app


def _alive() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


def _ready(request: Request) -> JSONResponse:
    """Whether the store can be asked and has the tables this version needs."""
    studio: Studio = request.app.state.studio
    try:
        schema = studio.store.database.schema()
    except InputError as error:
        log.warning("not ready: %s", error)
        return JSONResponse({"status": "the store cannot be reached"}, 503)
    if schema != HEAD:
        return JSONResponse({"status": f"the store has schema {schema}, not {HEAD}"}, 503)
    return JSONResponse({"status": "ok", "schema": schema})


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith(f"{root_of(request)}/api/") and "text/html" in request.headers.get(
        "accept", ""
    )


def _input_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    status, headers = _as_http(error)
    if status == 503:
        log.warning("%s", error)
        return _told(request, 503, "the store is busy or cannot be reached; try again", headers)
    return _told(request, status, str(error), headers)


def _as_http(error: InputError) -> tuple[int, Mapping[str, str]]:
    """Status and headers that say what kind of error it was."""
    for kind, status in ((NotFound, 404), (NotAllowed, 403), (Conflict, 409)):
        if isinstance(error, kind):
            return status, {}
    return (503, {"Retry-After": "2"}) if isinstance(error, Unavailable) else (422, {})


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _told(request, error.status_code, str(error.detail), error.headers or {})


def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()[:5]
    )
    # A text with half a character cannot be sent back as it came.
    return _told(request, 422, told.encode("utf-8", "replace").decode(), {})


def _asked_for(request: Request) -> str:
    """The page that somebody wanted who must sign in first; of a form, the page it stands on."""
    path, query = request.url.path.removeprefix(root_of(request)), request.url.query
    return f"{path}?{query}" if query and request.method == "GET" else path


def _told(request: Request, status: int, text: str, headers: object) -> Response:
    if not _wants_page(request):
        return JSONResponse({"detail": text}, status, headers=dict(headers))  # type: ignore[call-overload]
    if status == 401:
        return RedirectResponse(f"{root_of(request)}/login?next={quote(_asked_for(request))}", 303)
    return pages.message_page(request, status, text)
