"""The pages of the second factor: setting it up, turning it off, and its place in signing in."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.errors import InputError
from prefloop.studio import two_factor
from prefloop.studio.accounts import Who
from prefloop.studio.pages import Form, Signed, door, let_in, page, way_on
from prefloop.studio.security import (
    SECOND_COOKIE,
    check_csrf,
    check_form,
    client_of,
    limit,
    root_of,
    studio_of,
)
from prefloop.studio.values import NotFound

router = APIRouter(include_in_schema=False)


@router.get("/login/code")
def code_page(request: Request, to: Annotated[str, Query(alias="next", max_length=500)] = "/") -> Response:
    """Ask for the second factor of who gave their password."""
    if not two_factor.owes(studio_of(request), request.cookies.get(SECOND_COOKIE, "")):
        return RedirectResponse(f"{root_of(request)}/login", 303)
    return door(request, "code", error="", next=way_on(to))


@router.post("/login/code")
def give_code(request: Request, form: Form) -> Response:
    """Check the second factor, and sign in."""
    check_form(request, form.get("form_token", ""))
    limit(request, "sign in", f"code of {client_of(request)}")
    to = way_on(form.get("next", "/"))
    try:
        account = two_factor.finish(
            studio_of(request), request.cookies.get(SECOND_COOKIE, ""), form.get("code", "")[:100]
        )
    except NotFound:
        return RedirectResponse(f"{root_of(request)}/login", 303)
    except InputError as error:
        answer = door(request, "code", error=str(error), next=to)
        answer.status_code = 401
        return answer
    answer = let_in(request, account, to)
    answer.delete_cookie(SECOND_COOKIE, path=root_of(request) or "/")
    return answer


@router.get("/settings/two-factor")
def two_factor_page(request: Request, who: Signed) -> Response:
    """Set the second factor up, or turn it off."""
    return _two_factor(request, who, two_factor.new_secret())


@router.post("/settings/two-factor")
def turn_on(request: Request, who: Signed, form: Form) -> Response:
    """Turn the second factor on, and show the recovery codes once."""
    check_csrf(who, form.get("csrf", ""))
    limit(request, "sign in", f"login {who.login}")
    secret = form.get("secret", "")[:64]
    try:
        codes = two_factor.turn_on(
            studio_of(request), who, secret, form.get("code", "")[:100], form.get("password", "")
        )
    except InputError as error:
        return _two_factor(request, who, two_factor.sound_secret(secret), error=str(error))
    return page(request, "recovery", who, codes=codes)


@router.get("/settings/two-factor/off")
def back(request: Request) -> Response:
    """Where somebody goes on who had to sign in again to send the form."""
    return RedirectResponse(f"{root_of(request)}/settings/two-factor", 303)


@router.post("/settings/two-factor/off")
def turn_off(request: Request, who: Signed, form: Form) -> Response:
    """Turn the second factor off, by who has both."""
    check_csrf(who, form.get("csrf", ""))
    limit(request, "sign in", f"login {who.login}")
    studio = studio_of(request)
    try:
        two_factor.check_owner(studio, who, form.get("password", ""), form.get("code", "")[:100])
        two_factor.turn_off(studio, who.account, by=who.annotator)
    except InputError as error:
        return _two_factor(request, who, two_factor.new_secret(), error=str(error))
    return RedirectResponse(f"{root_of(request)}/settings", 303)


def _two_factor(request: Request, who: Who, secret: str, *, error: str = "") -> Response:
    on = two_factor.is_on(studio_of(request), who.account)
    return page(
        request,
        "two_factor",
        who,
        status=422 if error else 200,
        on=on,
        secret="" if on else secret,
        picture="" if on else two_factor.picture(secret, who.login),
        error=error,
    )
