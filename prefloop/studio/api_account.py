"""The part of the HTTP API that is about sessions and the second factor."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from prefloop.studio import sessions, two_factor
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import Number
from prefloop.studio.security import COOKIE, admin, reader, studio_of, worker

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["people"])
Admin = Annotated[Who, Depends(admin)]


@router.get("/me/sessions")
def list_sessions(request: Request, who: Annotated[Who, Depends(reader)]) -> list[dict[str, Any]]:
    """The browsers in which you are signed in."""
    cookie = request.cookies.get(COOKIE, "")
    return [asdict(session) for session in sessions.sessions_of(studio_of(request), who, cookie)]


@router.delete("/me/sessions/{id}", status_code=204)
def end_session(request: Request, id: Number, who: Annotated[Who, Depends(worker)]) -> Response:
    """Sign one of your browsers out."""
    sessions.end(studio_of(request), who, id)
    return Response(status_code=204)


@router.delete("/people/{id}/sessions", status_code=204)
def end_sessions(request: Request, id: Number, who: Admin) -> Response:
    """Sign somebody out everywhere. Their tokens for programs stay."""
    sessions.end_all(studio_of(request), id, by=who.annotator)
    return Response(status_code=204)


@router.delete("/people/{id}/second_factor", status_code=204)
def turn_second_factor_off(request: Request, id: Number, who: Admin) -> Response:
    """Let somebody sign in by password alone again, who has lost their app and their recovery codes."""
    two_factor.turn_off(studio_of(request), id, by=who.annotator)
    return Response(status_code=204)
