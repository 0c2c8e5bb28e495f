"""People, their tokens, and the audit log, over the API."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from prefloop.studio import accounts, erasure, passwords, people_log
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import (
    ActiveIn,
    Number,
    RoleIn,
    TokenIn,
)
from prefloop.studio.security import admin, root_of, signed_in, studio_of

router = APIRouter(prefix="/api/v1", responses=ERRORS)


@router.get("/people", tags=["people"])
def list_people(request: Request, who: Who = Depends(admin)) -> list[dict[str, Any]]:  # noqa: B008
    """Every account."""
    return [asdict(person) for person in accounts.people(studio_of(request))]


@router.put("/people/{id}/active", tags=["people"], status_code=204)
def set_active(request: Request, id: Number, body: ActiveIn, who: Who = Depends(admin)) -> Response:  # noqa: B008
    """Let somebody in, or shut them out at once."""
    accounts.set_active(studio_of(request), id, body.active, by=who.annotator)
    return Response(status_code=204)


@router.put("/people/{id}/role", tags=["people"], status_code=204)
def set_role(request: Request, id: Number, body: RoleIn, who: Who = Depends(admin)) -> Response:  # noqa: B008
    """Give somebody another role, from their next request on."""
    accounts.set_role(studio_of(request), id, body.role, by=who.annotator)
    return Response(status_code=204)


@router.post("/people/{id}/reset", tags=["people"], status_code=201)
def reset_password(request: Request, id: Number, who: Who = Depends(admin)) -> dict[str, str]:  # noqa: B008
    """A path that sets a new password for somebody, once, within a day. They are signed out everywhere now."""
    secret = passwords.new_reset(studio_of(request), id, by=who.annotator)
    return {"path": f"{root_of(request)}/reset/{secret}"}


@router.post("/people/{id}/anonymise", tags=["people"])
def anonymise(request: Request, id: Number, who: Who = Depends(admin)) -> dict[str, str]:  # noqa: B008
    """Delete the account; judgements stay under the pseudonym."""
    return {"pseudonym": accounts.anonymise(studio_of(request), id, by=who.annotator)}


@router.post("/people/{id}/erase", tags=["people"])
def erase(request: Request, id: Number, who: Who = Depends(admin)) -> dict[str, Any]:  # noqa: B008
    """Delete the account and every word its owner wrote; the proof. Choices stay under the pseudonym."""
    studio = studio_of(request)
    return asdict(erasure.erase(studio, erasure.annotator_of(studio, id), by=who.annotator))


@router.get("/erasures", tags=["people"])
def list_erasures(request: Request, who: Who = Depends(admin)) -> list[dict[str, Any]]:  # noqa: B008
    """The proof of every erasure, newest first."""
    return [dict(proof) for proof in erasure.proofs(studio_of(request))]


@router.get("/tokens", tags=["people"])
def list_tokens(request: Request, who: Who = Depends(signed_in)) -> list[dict[str, Any]]:  # noqa: B008
    """Your tokens for programs, without their secret part."""
    return [asdict(token) for token in accounts.tokens_of(studio_of(request), who)]


@router.post("/tokens", tags=["people"], status_code=201)
def new_token(request: Request, body: TokenIn, who: Who = Depends(signed_in)) -> dict[str, str]:  # noqa: B008
    """A new token, shown this once. A token cannot give what it does not have."""
    if not set(body.scopes) <= set(who.scopes):
        raise HTTPException(403, f"this token has only the scopes {', '.join(who.scopes)}")
    return {"token": accounts.new_token(studio_of(request), who, body.name, body.scopes, days=body.days)}


@router.delete("/tokens/{id}", tags=["people"], status_code=204)
def revoke_token(request: Request, id: Number, who: Who = Depends(signed_in)) -> Response:  # noqa: B008
    """Take a token of yours back."""
    accounts.revoke_token(studio_of(request), who, id)
    return Response(status_code=204)


@router.get("/audit", tags=["people"])
def audit_log(
    request: Request,
    who: Who = Depends(admin),  # noqa: B008
    before: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[dict[str, Any]]:
    """Who did what, newest first."""
    return [asdict(event) for event in people_log.events(studio_of(request), before=before, limit=limit)]
