"""The audit log: a row for everything that somebody does, in the same transaction. It names people by number and holds no texts.

The addresses that are told of an event (`webhooks`) get a row each in that transaction too: what is rolled back is told to nobody, and what is
committed is told even if the server dies at once.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from prefloop.data.store import event_models, studio_models

TEST = "test webhook"
"""Is told to the one address that it is about, whatever that asked for."""
_Webhook = event_models.WebhookRow


def write(
    session: Session,
    *,
    now: datetime,
    annotator: int | None,
    action: str,
    entity: str,
    id: int,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add an event. `annotator` is None for the command line and for people who are not signed in."""
    written = session.execute(
        insert(studio_models.AuditEventRow)
        .values(
            at=now,
            annotator_id=annotator,
            action=action,
            entity=entity,
            entity_id=id,
            detail=dict(detail or {}),
        )
        .returning(studio_models.AuditEventRow.id)
    )
    event = written.scalar_one()
    asked = session.execute(select(_Webhook.id, _Webhook.actions).where(_Webhook.active)).all()
    told = [
        webhook
        for webhook, actions in asked
        if (webhook == id if action == TEST else not actions or action in actions)
    ]
    if told:
        session.execute(
            insert(event_models.WebhookDeliveryRow),
            [
                {"webhook_id": webhook, "event_id": event, "attempts": 0, "due_at": now, "problem": ""}
                for webhook in told
            ],
        )
