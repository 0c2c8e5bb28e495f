"""Signing in through an OpenID Connect provider. A second factor that somebody has here is asked for all the same."""

import logging
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.errors import InputError
from prefloop.studio import accounts, identities, oidc
from prefloop.studio.oidc import NoProvider, Provider
from prefloop.studio.pages import password_given, sign_in_page, way_on
from prefloop.studio.security import OIDC_COOKIE, client_of, limit, root_of, set_cookie, studio_of

router = APIRouter(include_in_schema=False)
MINUTES = 15
"""To sign in at the provider."""
log = logging.getLogger(__name__)


def offer(app: FastAPI, provider: Provider) -> None:
    """Let an application sign people in through a provider."""
    app.state.oidc = provider


def _provider(request: Request) -> Provider:
    provider: Provider | None = request.app.state.oidc
    if provider is None:
        raise HTTPException(404, "this studio has no single sign-on")
    if not accounts.is_set_up(studio_of(request)):
        raise HTTPException(
            409, "the first admin comes by the link that was printed where the studio was started"
        )
    return provider


@router.get("/login/oidc")
def begin(request: Request, to: Annotated[str, Query(alias="next", max_length=500)] = "/") -> Response:
    """Send the browser to the provider."""
    provider, secret = _provider(request), oidc.new_secret()
    limit(request, "links", client_of(request))
    try:
        answer = RedirectResponse(provider.begin(secret, _here(request, "/login/oidc/back")), 303)
    except InputError as error:
        return _told(request, error, way_on(to))
    set_cookie(request, answer, OIDC_COOKIE, f"{secret} {quote(way_on(to), safe='')}", days=MINUTES / 1440)
    return answer


@router.get("/login/oidc/back")
def back(request: Request) -> Response:
    """The browser returns from the provider."""
    provider = _provider(request)
    limit(request, "links", client_of(request))
    secret, _, to = request.cookies.get(OIDC_COOKIE, "").partition(" ")
    to = way_on(unquote(to))
    try:
        identity = provider.finish(secret, _here(request, "/login/oidc/back"), dict(request.query_params))
        answer = password_given(request, identities.account_for(studio_of(request), provider, identity), to)
    except InputError as error:
        answer = _told(request, error, to)
    answer.delete_cookie(OIDC_COOKIE, path=root_of(request) or "/")  # it serves once
    return answer


@router.get("/logout/oidc")
def end(request: Request) -> Response:
    """End the session at the provider too. A link, as the content policy lets forms lead nowhere else."""
    where = _provider(request).ending(_here(request, "/login"))
    return RedirectResponse(where or f"{root_of(request)}/login", 303)


def _told(request: Request, error: InputError, to: str) -> Response:
    """The page to sign in, and why somebody is not."""
    words, status = str(error), 403
    if isinstance(error, NoProvider):
        log.warning("single sign-on: %s", error)
        words, status = (
            "The sign-in provider cannot be used now. Try again in a moment, or tell an admin.",
            502,
        )
    return sign_in_page(request, to=to, error=words, status=status)


def _here(request: Request, path: str) -> str:
    """An address of this studio as people type it: the guard lets in no other host's name."""
    base = request.app.state.public or f"{request.url.scheme}://{request.headers['host']}"
    return f"{base}{path}"
