"""The part of the HTTP API that says which other programs are told what happens."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from prefloop.studio import webhooks
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import ActiveIn, Number, Strict, Text
from prefloop.studio.outgoing import LONGEST_URL
from prefloop.studio.security import admin, limit, studio_of

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["webhooks"])
Admin = Annotated[Who, Depends(admin)]


class WebhookIn(Strict):
    url: Text = Field(max_length=LONGEST_URL)
    actions: list[Annotated[Text, Field(max_length=32)]] = Field(
        default=[], max_length=60, description="actions of the audit log, such as submit; none means all"
    )


@router.get("/webhooks")
def list_webhooks(request: Request, who: Admin) -> list[dict[str, Any]]:
    """The addresses that are told, and how many messages wait or have failed. Secrets are not shown again."""
    return [asdict(webhook) for webhook in webhooks.webhooks(studio_of(request))]


@router.post("/webhooks", status_code=201)
def add_webhook(request: Request, body: WebhookIn, who: Admin) -> dict[str, Any]:
    """Tell an address what happens. The secret that signs the messages is shown this once."""
    limit(request, "links", f"webhooks {who.annotator}")
    allowed = request.app.state.webhook_networks
    id, secret = webhooks.add(studio_of(request), body.url, body.actions, allowed=allowed, by=who.annotator)
    return {"id": id, "secret": secret}


@router.delete("/webhooks/{id}", status_code=204)
def delete_webhook(request: Request, id: Number, who: Admin) -> Response:
    """Tell an address nothing more; messages that wait for it are forgotten."""
    webhooks.remove(studio_of(request), id, by=who.annotator)
    return Response(status_code=204)


@router.put("/webhooks/{id}/active", status_code=204)
def set_webhook_active(request: Request, id: Number, body: ActiveIn, who: Admin) -> Response:
    """Pause or resume an address. It is not told later what happened while it was paused."""
    webhooks.set_active(studio_of(request), id, body.active, by=who.annotator)
    return Response(status_code=204)


@router.post("/webhooks/{id}/test", status_code=204)
def test_webhook(request: Request, id: Number, who: Admin) -> Response:
    """Send an address a message of the type `test webhook`."""
    limit(request, "links", f"webhooks {who.annotator}")
    webhooks.test(studio_of(request), id, by=who.annotator)
    return Response(status_code=204)


@router.post("/webhooks/{id}/retry")
def retry_webhook(request: Request, id: Number, who: Admin) -> dict[str, int]:
    """Send all messages of an address again now, those that were tried too often among them."""
    return {"deliveries": webhooks.retry(studio_of(request), id, by=who.annotator)}
