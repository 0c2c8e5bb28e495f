"""What stands between the network and the services: headers, who is asking, forged requests, too many of them.

One rule for what a browser sends: a request that changes something must come from our own page (`Sec-Fetch-Site`, or `Origin` where a browser does not
send that) and carry the session's CSRF token, in the form or in the header `X-CSRF-Token`. A bearer token needs neither: no browser sends it by itself.
"""

import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Lock
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Path, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.studio import accounts, members
from prefloop.studio.accounts import Who
from prefloop.studio.service import Studio
from prefloop.studio.telemetry import Watch, handled, request_id

COOKIE = "prefloop_session"
FORM_COOKIE = "prefloop_form"
"""Ties a form that is filled in before signing in to the browser that asked for it."""
SECOND_COOKIE = "prefloop_second"
"""Of a browser that gave its password and owes the second factor."""
OIDC_COOKIE = "prefloop_oidc"
"""Of a browser that is at the sign-in provider."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SAFE = ("GET", "HEAD", "OPTIONS")
MOST_BYTES = 2**20
MOST_BYTES_OF_FILES = 64 * 2**20
_FILES = ("/import", "/import/preview")
"""Paths that end so take files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosts:
    """What the server answers to."""

    names: frozenset[str] = frozenset()
    """In lower case; empty for any. A page elsewhere whose name points here (DNS rebinding) is refused by it."""
    numbers: bool = False
    """Whether it answers to numeric addresses besides. No page elsewhere has one of this machine's."""

    @classmethod
    def of(cls, *names: str, numbers: bool = False) -> "Hosts":
        """These names, in any case of letters."""
        return cls(names=frozenset(name.lower() for name in names), numbers=numbers)

    def answers_to(self, name: str) -> bool:
        """Whether a request for this name, in lower case, is answered."""
        return not self.names or name in self.names or (self.numbers and is_number(name))


class Guard:
    """Outermost layer: refuses strange hosts, forged and oversized requests, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, origin: str, watches: Sequence[Watch]) -> None:
        self.app = app
        self.hosts = hosts
        self.origin = origin
        """Host and port that people type, where a proxy asks under another name."""
        self.watches = watches
        """Are told of every request when its answer begins."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        id = request_id(headers.get("x-request-id"))
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        reason, status = self._refused(scope["method"], path, headers)
        limit = MOST_BYTES_OF_FILES if path.endswith(_FILES) else MOST_BYTES
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise HTTPException(413, "the request is too large")
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)  # only a report has a policy of its own
                if not path.startswith("/static/"):
                    answer.setdefault("cache-control", "no-store")
                answer["x-request-id"] = id
                request = handled(scope, path, message["status"], time.perf_counter() - began, id)
                for watch in self.watches:
                    watch(request)
            await send(message)

        if reason:
            await _say(with_headers, status, reason)
            return
        await self.app(scope, counted, with_headers)

    def _refused(self, method: str, path: str, headers: Headers) -> tuple[str, int]:
        host = headers.get("host", "")
        name = _name(host)
        if not self.hosts.answers_to(name):
            return (
                f"this server does not serve the host name {name[:80]!r}; start it with --public_url to allow it",
                421,
            )
        length = headers.get("content-length", "0")
        limit = MOST_BYTES_OF_FILES if path.endswith(_FILES) else MOST_BYTES
        if not length.isdecimal() or int(length) > limit:
            return "the request is too large", 413
        if method in SAFE or "authorization" in headers:
            return "", 0
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None and site not in ("same-origin", "none"):
            return "this request comes from another site", 403
        if site is None and origin is not None and urlsplit(origin).netloc not in {host, self.origin} - {""}:
            return "this request comes from another site", 403
        return "", 0


async def _say(send: Callable[[Message], object], status: int, text: str) -> None:
    body = ('{"detail": "' + text.replace("\\", "\\\\").replace('"', '\\"') + '"}').encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})  # type: ignore[misc]
    await send({"type": "http.response.body", "body": body})  # type: ignore[misc]


def _name(host: str) -> str:
    """A host without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def is_number(host: str) -> bool:
    """Whether a host is an address in numbers, which nobody else can make point here."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class RateLimit:
    """At most `count` events of one key within `seconds`, in this process. Old keys are forgotten, so strangers cannot fill the memory."""

    def __init__(self, count: int, seconds: float, *, keys: int = 10_000) -> None:
        self.count, self.seconds, self.keys = count, seconds, keys
        self._events: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def wait(self, key: str) -> float:
        """Count an event; seconds until the next one is allowed, 0 if this one is."""
        now = time.monotonic()
        with self._lock:
            events = self._events.setdefault(key, deque())
            self._events.move_to_end(key)
            while len(self._events) > self.keys:
                self._events.popitem(last=False)
            while events and events[0] <= now - self.seconds:
                events.popleft()
            if len(events) >= self.count:
                return self.seconds - (now - events[0])
            events.append(now)
            return 0.0


def studio_of(request: Request) -> Studio:
    """The studio that this server serves."""
    studio: Studio = request.app.state.studio
    return studio


def limit(request: Request, name: str, key: str) -> None:
    """Count an event against the server's limit of that name; status 429 beyond it."""
    limits: dict[str, RateLimit] = request.app.state.limits
    wait = limits[name].wait(key)
    if wait > 0:
        seconds = int(wait) + 1
        raise HTTPException(
            429, f"too many requests; try again in {seconds} s", headers={"Retry-After": str(seconds)}
        )


def client_of(request: Request) -> str:
    """The address that a request comes from."""
    return request.client.host if request.client else "?"


def who_asks(request: Request) -> Who | None:
    """Who is signed in, by bearer token or cookie; None for nobody. Status 401 for a token that is not valid, 403 without the CSRF token."""
    studio = studio_of(request)
    given = request.headers.get("authorization")
    if given is not None:
        scheme, _, secret = given.partition(" ")
        who = accounts.of_token(studio, secret.strip()) if scheme.lower() == "bearer" else None
        if who is None:
            limit(request, "tokens", client_of(request))
            raise HTTPException(401, "this token is not valid", headers={"WWW-Authenticate": "Bearer"})
        return who
    cookie = request.cookies.get(COOKIE)
    return accounts.of_session(studio, cookie) if cookie else None


def signed_in(request: Request) -> Who:
    """Who is signed in, for the API: status 401 for nobody, 403 without the CSRF token where something is changed."""
    who = who_asks(request)
    if who is None:
        raise HTTPException(401, "sign in, or send a token", headers={"WWW-Authenticate": "Bearer"})
    if who.csrf and request.method not in SAFE:
        check_csrf(who, request.headers.get("x-csrf-token", ""))
    return who


def check_csrf(who: Who, given: str) -> None:
    """Status 403 unless the request carries the session's own token."""
    if who.csrf and not hmac.compare_digest(given.encode(), who.csrf.encode()):
        raise HTTPException(403, "the page has expired or is not from this studio; reload it")


def _scope(name: str) -> Callable[[Who], Awaitable[Who]]:
    # A coroutine, as it waits for nothing: a function would be sent to a thread and back.
    async def check(who: Who = Depends(signed_in)) -> Who:  # noqa: B008
        if name not in who.scopes:
            raise HTTPException(403, f"this token lacks the scope {name}")
        return who

    return check


reader, worker = _scope("read"), _scope("annotate")


async def admin(who: Who = Depends(signed_in)) -> Who:  # noqa: B008
    """An admin, with the scope for it."""
    if not who.is_admin:
        raise HTTPException(403, "only an admin may do this")
    return who


def manager(
    request: Request, id: Annotated[int, Path(ge=0, lt=2**31)], who: Annotated[Who, Depends(signed_in)]
) -> Who:
    """Who may run the project that the path names, with the scope for it."""
    if not who.may_manage:
        raise HTTPException(403, "only an admin, or a manager of this project, may do this")
    members.require(studio_of(request), id, who.annotator, "manager")
    return who


def root_of(request: Request) -> str:
    """The path that the studio is served under; empty at the top of an address."""
    root: str = request.app.state.prefix
    return root


def form_token(request: Request) -> tuple[str, bool]:
    """The token for a form before signing in, and whether it is new, to be set as a cookie."""
    known = request.cookies.get(FORM_COOKIE, "")
    return (known, False) if len(known) >= 20 else (secrets.token_urlsafe(24), True)


def check_form(request: Request, given: str) -> None:
    """Status 403 unless a form comes from the browser that was given it."""
    known = request.cookies.get(FORM_COOKIE, "")
    if len(known) < 20 or not hmac.compare_digest(known.encode(), given.encode()):
        raise HTTPException(403, "the page has expired or is not from this studio; reload it")


def set_cookie(request: Request, answer: Response, name: str, value: str, *, days: float) -> None:
    """A cookie that scripts cannot read and other sites, and other paths of this one, are not sent."""
    answer.set_cookie(
        name,
        value,
        max_age=int(days * 86400),
        httponly=True,
        samesite="lax",
        secure=request.app.state.secure,
        path=root_of(request) or "/",
    )
