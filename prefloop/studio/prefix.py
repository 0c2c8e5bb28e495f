"""Serving under a path of somebody else's address: `https://host/label`, behind a proxy that hands the path on whole or without its beginning."""

import re
from urllib.parse import SplitResult, urlsplit

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from prefloop.addresses import without_passwords
from prefloop.errors import InputError


class Prefix:
    """Outermost layer: what a request asks for within the prefix goes on as if it stood at the top, with the prefix as its `root_path`."""

    def __init__(self, app: ASGIApp, *, prefix: str, routes: list[BaseRoute]) -> None:
        self.app, self.prefix, self._routes = app, prefix, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            inner = self._inner(scope)
            # The rest finds its routes behind `root_path`, whether the proxy had left it there or not.
            path = f"{self.prefix}{inner}"
            scope = {**scope, "root_path": self.prefix, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)

    def _inner(self, scope: Scope) -> str:
        """The path without the prefix. A proxy that has taken it off may send a page's own path that begins alike (/label/3 of /label)."""
        path: str = scope["path"]
        if path == self.prefix:
            return "/"
        if not path.startswith(f"{self.prefix}/"):
            return path
        inner = path.removeprefix(self.prefix)
        return inner if is_page(self._routes, inner) or not is_page(self._routes, path) else path


def parsed(public_url: str) -> SplitResult:
    """The parts of an address that people type, without a slash at its end; empty parts for none. `InputError` for what is none."""
    parts = urlsplit(public_url.rstrip("/"))
    if public_url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise InputError(
            f"public_url is {public_url!r}; write the full address, for example https://label.example.org or https://example.org/label"
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise InputError(
            f"public_url is {without_passwords(public_url)!r}; it must be a scheme, a host and a path, and nothing else"
        )
    if parts.path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", parts.path):
        raise InputError(
            f"public_url is {public_url!r}; its path may hold letters, digits and . _ ~ - between slashes"
        )
    return parts


def is_page(routes: list[BaseRoute], path: str) -> bool:
    """Whether one of the routes answers at a path."""
    asked: Scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    return any(route.matches(asked)[0] != Match.NONE for route in routes)


def check_prefix(routes: list[BaseRoute], prefix: str) -> None:
    """Raise `InputError` for a prefix that is itself the path of a page: with a proxy that takes it off, one could not be told from the other."""
    if prefix and is_page(routes, prefix):
        raise InputError(
            f"public_url ends in {prefix}, which is a path of the studio's own; choose another, for example {prefix}-studio"
        )
