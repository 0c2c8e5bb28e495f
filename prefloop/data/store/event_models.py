"""The tables of webhooks (the addresses that are told what happens, and what each has yet to be told), and of erasures."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from prefloop.data.store.studio_models import Base


class WebhookRow(Base):
    """An address of another program that is told what happens."""

    __tablename__ = "webhook"

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str]
    secret: Mapped[str]
    """What messages are signed with. It cannot be a hash."""
    actions: Mapped[Any]
    """Actions of the audit log that it is told of; an empty list means all."""
    active: Mapped[bool]
    delivered_at: Mapped[datetime | None]
    """When it last accepted a message."""
    created_at: Mapped[datetime]


class WebhookDeliveryRow(Base):
    """An event that an address has yet to be told. The row is written with the event, and goes when the address has accepted it."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (Index("ix_webhook_delivery_due_at", "due_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"), index=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("audit_event.id"))
    attempts: Mapped[int]
    due_at: Mapped[datetime | None]
    """When to try next; None once it was tried too often."""
    problem: Mapped[str]
    """Why the last attempt failed."""


class ErasureRow(Base):
    """What was erased of a person, at their request. It holds no word of theirs and no name but the pseudonym."""

    __tablename__ = "erasure"

    id: Mapped[int] = mapped_column(primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    proof: Mapped[Any]
    """`erasure.Proof` as JSON."""
    at: Mapped[datetime]
