"""Telling other programs what happens: who is told, and the deliveries, each tried until it is accepted or was tried too often."""

import json
import logging
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Thread

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from prefloop import __version__
from prefloop.data.store import event_models, models, studio_models
from prefloop.errors import InputError
from prefloop.studio import audit
from prefloop.studio.outgoing import Network, NotSent, check_url, post
from prefloop.studio.service import Studio
from prefloop.studio.signing import new_secret, sign
from prefloop.studio.values import NotFound

MOST_ATTEMPTS = 12
FIRST_WAIT = timedelta(seconds=5)
MOST_WAIT = timedelta(hours=6)
CLAIM = timedelta(minutes=2)
"""A delivery that is under way is not begun again within this time, unless it ends; after it, another process takes it up."""
LOOK_EVERY = 1.0
"""Seconds between two looks for deliveries that are due."""
THREADS = 8
MOST_WEBHOOKS = 20
GONE = 410
"""Status by which an address says that it wants to be told nothing more."""
_Webhook, _Delivery = event_models.WebhookRow, event_models.WebhookDeliveryRow
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """An address and how its deliveries are."""

    id: int
    url: str
    actions: tuple[str, ...]
    active: bool
    waiting: int
    failed: int
    """Deliveries that were tried too often."""
    problem: str
    """Of the last attempt that failed, of those that wait."""
    delivered_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A message that is due."""

    id: int
    webhook: int
    url: str
    secret: str
    attempts: int
    """This one included."""
    message: str
    """Its id: the same in every attempt, so that a receiver knows what it has seen."""
    body: bytes


# Who is told


def webhooks(studio: Studio) -> list[Webhook]:
    """Every address, oldest first."""
    waiting = func.count(_Delivery.id).filter(_Delivery.due_at.is_not(None))
    failed = func.count(_Delivery.id).filter(_Delivery.id.is_not(None), _Delivery.due_at.is_(None))
    statement = (
        select(_Webhook, waiting, failed, func.max(_Delivery.problem))
        .outerjoin(_Delivery, _Delivery.webhook_id == _Webhook.id)
        .group_by(_Webhook.id)
        .order_by(_Webhook.id)
    )
    with studio.read() as session:
        return [
            Webhook(
                id=row.id,
                url=row.url,
                actions=tuple(row.actions),
                active=row.active,
                waiting=waits,
                failed=fails,
                problem=problem or "",
                delivered_at=row.delivered_at,
                created_at=row.created_at,
            )
            for row, waits, fails, problem in session.execute(statement)
        ]


def add(
    studio: Studio,
    url: str,
    actions: Sequence[str] = (),
    *,
    allowed: Sequence[Network] = (),
    by: int | None,
) -> tuple[int, str]:
    """Tell an address of these actions, or of all; its number, and the secret that signs its messages.

    Raises `InputError` for an address that must not be called.
    """
    check_url(url, allowed)
    if any(not action.strip() or len(action) > 32 for action in actions):
        raise InputError("actions are those of the audit log, for example submit; one is empty or too long")
    secret, now = new_secret(), studio.clock()
    with studio.write() as session:
        if (session.scalar(select(func.count(_Webhook.id))) or 0) >= MOST_WEBHOOKS:
            raise InputError(f"there are {MOST_WEBHOOKS} webhooks, the most; delete one first")
        row = _Webhook(
            url=url,
            secret=secret,
            actions=list(dict.fromkeys(action.strip() for action in actions)),
            active=True,
            delivered_at=None,
            created_at=now,
        )
        session.add(row)
        session.flush()
        _audited(session, now, by, "add webhook", row.id)
        return row.id, secret


def remove(studio: Studio, id: int, *, by: int | None) -> None:
    """Tell an address nothing more, and forget what it was not told."""
    with studio.write() as session:
        row = _row(session, id)
        session.execute(delete(_Delivery).where(_Delivery.webhook_id == id))
        session.delete(row)
        _audited(session, studio.clock(), by, "delete webhook", id)


def set_active(studio: Studio, id: int, active: bool, *, by: int | None) -> None:
    """Stop telling an address, or go on. What happens meanwhile is not told later."""
    with studio.write() as session:
        _row(session, id).active = active
        _audited(session, studio.clock(), by, "resume webhook" if active else "pause webhook", id)


def test(studio: Studio, id: int, *, by: int | None) -> None:
    """Tell an address that this is a test."""
    with studio.write() as session:
        if not _row(session, id).active:
            raise InputError("this webhook is paused; resume it first")
        _audited(session, studio.clock(), by, audit.TEST, id)


def retry(studio: Studio, id: int, *, by: int | None) -> int:
    """Try all deliveries of an address again, now; how many there are."""
    with studio.write() as session:
        _row(session, id)
        now = studio.clock()
        found = session.execute(
            update(_Delivery).where(_Delivery.webhook_id == id).values(due_at=now, attempts=0)
        )
        _audited(session, now, by, "retry webhook", id)
        return found.rowcount  # type: ignore[attr-defined]


def _row(session: Session, id: int) -> event_models.WebhookRow:
    row = session.get(_Webhook, id) if id < 2**31 else None
    if row is None:
        raise NotFound("there is no such webhook")
    return row


def _audited(session: Session, now: datetime, by: int | None, action: str, id: int) -> None:
    audit.write(session, now=now, annotator=by, action=action, entity="webhook", id=id)


# Telling them


def claim(studio: Studio, *, busy: Sequence[int] = ()) -> list[Delivery]:
    """The oldest due delivery of each address but the busy ones, which nobody else takes for a while."""
    now = studio.clock()
    statement = _due().where(_Delivery.due_at <= now, _Webhook.id.not_in(busy))
    with studio.read() as session:
        if session.execute(statement.limit(1)).first() is None:
            return []
    taken: dict[int, Delivery] = {}
    with studio.write() as session:
        # On PostgreSQL another process may hold some of them.
        rows = session.execute(statement.limit(200).with_for_update(of=_Delivery, skip_locked=True)).all()
        for row, webhook, event, by in rows:
            if webhook.id in taken:
                continue
            row.due_at, row.attempts = now + CLAIM, row.attempts + 1
            taken[webhook.id] = Delivery(
                id=row.id,
                webhook=webhook.id,
                url=webhook.url,
                secret=webhook.secret,
                attempts=row.attempts,
                message=f"prefloop_{webhook.id}_{event.id}",
                body=_body(event, by),
            )
    return list(taken.values())


def _due() -> Select[
    event_models.WebhookDeliveryRow, event_models.WebhookRow, studio_models.AuditEventRow, str
]:
    """Deliveries with what a message needs, the oldest first."""
    event = studio_models.AuditEventRow
    return (
        select(_Delivery, _Webhook, event, models.AnnotatorRow.name)
        .join(_Webhook, _Webhook.id == _Delivery.webhook_id)
        .join(event, event.id == _Delivery.event_id)
        .outerjoin(models.AnnotatorRow, models.AnnotatorRow.id == event.annotator_id)
        .where(_Webhook.active)
        .order_by(_Delivery.id)
    )


def _body(event: studio_models.AuditEventRow, by: str | None) -> bytes:
    """What a program is told: as in the audit log, without what was written before."""
    told = {
        "type": event.action,
        "timestamp": event.at.isoformat(),
        "data": {
            "id": event.id,
            "by": by or "",
            "entity": event.entity,
            "entity_id": event.entity_id,
            "detail": {name: value for name, value in event.detail.items() if name != "guidelines_before"},
        },
    }
    return json.dumps(told, ensure_ascii=False).encode()


def wait_after(attempts: int) -> timedelta:
    """How long to wait after so many attempts: five seconds, four times as long each time, six hours at most; half of it at random."""
    return min(FIRST_WAIT * 4 ** (attempts - 1), MOST_WAIT) * random.uniform(0.5, 1.0)


def deliver(studio: Studio, delivery: Delivery, allowed: Sequence[Network]) -> bool:
    """Send a message and write down how that went; whether it was accepted."""
    headers = {
        "content-type": "application/json",
        "user-agent": f"prefloop/{__version__}",
        **sign(delivery.secret, delivery.message, int(time.time()), delivery.body),
    }
    status, problem = 0, ""
    try:
        status = post(delivery.url, delivery.body, headers, allowed=allowed)
        problem = "" if 200 <= status < 300 else f"HTTP {status}"
    except NotSent as error:
        problem = str(error)
    now = studio.clock()
    with studio.write() as session:
        row = session.get(_Delivery, delivery.id)
        if row is None:
            return not problem  # the webhook was deleted meanwhile
        webhook = session.get_one(_Webhook, delivery.webhook)
        if not problem:
            session.delete(row)
            webhook.delivered_at = now
        else:
            log.warning("webhook %d: attempt %d: %s", webhook.id, delivery.attempts, problem)
            row.problem = problem
            row.due_at = now + wait_after(delivery.attempts) if delivery.attempts < MOST_ATTEMPTS else None
            if status == GONE:
                webhook.active = False
                _audited(session, now, None, "pause webhook", webhook.id)
    return not problem


class Deliveries:
    """Delivers what is due, in threads of its own, until it is closed. Each address is told one thing at a time, so a slow one delays itself alone."""

    def __init__(self, studio: Studio, allowed: Sequence[Network] = ()) -> None:
        self._studio, self._allowed = studio, tuple(allowed)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook")
        self._under_way: dict[int, Future[bool]] = {}
        self._end = Event()
        self._thread = Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> "Deliveries":
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Take up nothing more. What is under way ends, or is taken up by the next process."""
        self._end.set()
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._end.is_set():
            began = 0
            try:
                began = self._begin()
            except InputError as error:
                log.warning("webhooks: %s", error)  # the store cannot be reached
            except Exception:
                log.exception("webhooks")
            self._end.wait(0.05 if began else LOOK_EVERY)

    def _begin(self) -> int:
        self._under_way = {id: future for id, future in self._under_way.items() if not future.done()}
        due = claim(self._studio, busy=tuple(self._under_way))
        for delivery in due:
            self._under_way[delivery.webhook] = self._pool.submit(self._deliver, delivery)
        return len(due)

    def _deliver(self, delivery: Delivery) -> bool:
        try:
            return deliver(self._studio, delivery, self._allowed)
        except Exception:
            log.exception("webhook %d", delivery.webhook)
            return False
