"""What a team that runs the studio watches: numbers for Prometheus, and a log that programs can read.

The numbers have an address of their own (`metrics` of `label serve`), which no proxy serves by mistake. All worker processes count into one folder,
which prometheus_client adds up when it is asked. What the store holds is counted at the same moment, by queries that an index answers.
"""

import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from starlette.types import Scope

from prefloop.data.store import Store, studio_models
from prefloop.errors import InputError

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client shares its counters between processes in the folder that this variable names when it is imported."""
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Handled:
    """A request that was answered. Never a text, a query, a link's secret or a name."""

    method: str
    route: str
    """The path as the program knows it, such as `/label/{id}`; `(static)` for files, `(none)` for addresses that are nobody's."""
    status: int
    seconds: float
    id: str
    """`X-Request-ID`, as the proxy gave it or made here; the answer carries it too."""


Watch = Callable[[Handled], None]


def handled(scope: Scope, path: str, status: int, seconds: float, id: str) -> Handled:
    """What is kept of a request whose answer begins."""
    nameless = "(static)" if path.startswith("/static/") else "(none)"
    route = getattr(scope.get("route"), "path", nameless)
    return Handled(method=scope["method"], route=route, status=status, seconds=seconds, id=id)


def request_id(given: str | None) -> str:
    """The identifier that a proxy gave a request, if it is a plain one; a new one otherwise."""
    return given if given is not None and _ID.fullmatch(given) else secrets.token_hex(8)


def log_request(request: Handled) -> None:
    """One line for each request, with its parts as fields for those who log as JSON."""
    parts = {
        "method": request.method,
        "route": request.route,
        "status": request.status,
        "ms": round(1000 * request.seconds, 1),
        "request_id": request.id,
    }
    log.info("%(method)s %(route)s %(status)d %(ms).1f ms", parts, extra=parts)


def set_up_logs(*, json: bool) -> None:
    """All logs of this process on standard error: a line of text, or a JSON object, each."""
    handler = logging.StreamHandler(sys.stderr)
    if json:
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                "%(levelname)s %(name)s %(message)s",
                rename_fields={"levelname": "level", "name": "logger"},
                timestamp=True,
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def counting() -> Watch:
    """Counts requests and how long they took, for `serving_metrics` of this process or of the one that started it."""
    from prometheus_client import Counter, Histogram

    requests = Counter("prefloop_requests", "Requests answered.", ("method", "route", "status"))
    seconds = Histogram(
        "prefloop_request_seconds",
        "Seconds until the answer to a request began.",
        ("method", "route"),
        buckets=_BUCKETS,
    )

    def count(request: Handled) -> None:
        requests.labels(request.method, request.route, str(request.status)).inc()
        seconds.labels(request.method, request.route).observe(request.seconds)

    return count


@contextmanager
def serving_metrics(address: tuple[str, int] | None, store: Store) -> Iterator[None]:
    """Serve the numbers of this process and its children at a host and port for as long as it lasts; nothing without an address.

    Raises:
        InputError: Nothing can listen there.
    """
    if address is None:
        yield
        return
    host, port = address
    with tempfile.TemporaryDirectory(prefix="prefloop-metrics-") as folder:
        os.environ[_FOLDER] = folder
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)
        registry.register(_OfStore(store))
        try:
            server, thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise InputError(
                f"metrics is {address}; nothing can listen there ({error.strerror or error}); name another port, or stop what listens there"
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
            del os.environ[_FOLDER]


def parse_address(address: str) -> tuple[str, int] | None:
    """Host and port of `HOST:PORT`; None for an empty address. Raises `InputError` for anything else."""
    if not address:
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(f"metrics is {address!r}; write HOST:PORT, for example 127.0.0.1:9464")
    return host.strip("[]"), int(port)


class _OfStore:
    """What the store holds, counted when it is asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        counts = self._counts()
        yield GaugeMetricFamily(
            "prefloop_store_up", "1 if the store answers.", value=float(counts is not None)
        )
        for name, (text, value) in (counts or {}).items():
            yield GaugeMetricFamily(name, text, value=value)

    def _counts(self) -> Mapping[str, tuple[str, int]] | None:
        leased = studio_models.AssignmentRow.state == "leased"
        waiting = studio_models.ChatTurnRow.state == "waiting"
        try:
            with self.store.database.read() as session:
                return {
                    "prefloop_leases": (
                        "Items being answered now.",
                        session.scalar(select(func.count()).where(leased)) or 0,
                    ),
                    "prefloop_annotators_at_work": (
                        "People who are answering an item.",
                        session.scalar(
                            select(func.count(studio_models.AssignmentRow.annotator_id.distinct())).where(
                                leased
                            )
                        )
                        or 0,
                    ),
                    "prefloop_chat_turns_waiting": (
                        "Messages of live chats that no model has answered yet.",
                        session.scalar(select(func.count()).where(waiting)) or 0,
                    ),
                }
        except InputError as error:
            log.warning("metrics: %s", error)
            return None
