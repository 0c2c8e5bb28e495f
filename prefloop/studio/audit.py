"""The audit log: a row for everything that somebody does, in the same transaction. It names people by number and holds no texts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models


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
    session.execute(
        insert(studio_models.AuditEventRow).values(
            at=now,
            annotator_id=annotator,
            action=action,
            entity=entity,
            entity_id=id,
            detail=dict(detail or {}),
        )
    )
