"""Requests to addresses that somebody typed into a form. They reach public addresses only, over TLS, and the networks that the operator allows.

The name is resolved once, every address is looked at, and the connection goes to the address that was looked at: a name that points elsewhere a
moment later (DNS rebinding) changes nothing. Redirects are not followed, proxies of the environment are not used, and the answer's body is not read.
"""

import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from threading import Timer
from typing import Any
from urllib.parse import SplitResult, urlsplit

from prefloop.errors import InputError

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
SECONDS = 10.0
"""For the connection and for each part of the answer."""
MOST_SECONDS = 30.0
"""For all of it: an answer that comes a byte at a time is cut off."""
LONGEST_URL = 2000
_NAT64 = ip_network("64:ff9b::/96")


class NotSent(Exception):
    """A request that was not answered, or must not be sent."""


def read_networks(given: Sequence[str]) -> tuple[Network, ...]:
    """Networks as they are written in settings. Raises `InputError` for what is none."""
    found: list[Network] = []
    for text in given:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise InputError(
                f"webhook_networks has {text!r}, which is no network ({error}); write for example 10.0.0.0/8 or 127.0.0.1/32"
            ) from error
    return tuple(found)


def check_url(url: str, allowed: Sequence[Network]) -> SplitResult:
    """The parts of an address that may be called. Raises `InputError` for any other; a name is looked at when it is called."""
    if len(url) > LONGEST_URL or re.fullmatch(r"[\x21-\x7e]+", url) is None:
        raise InputError(
            f"the address is empty, longer than {LONGEST_URL} characters, or has a space or a special character"
        )
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"the address {url!r} cannot be read ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"the address is {url!r}; write it in full, for example https://hooks.example.org/prefloop"
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InputError("the address has a user, a password or a fragment (#); leave them out")
    address = _number(parts.hostname)
    if address is not None:
        _check_address(address, parts.scheme, allowed)
    if parts.scheme == "http" and not allowed:
        raise InputError(
            "the address has no TLS (http); use https. The operator can allow http within networks of your own with --webhook_networks"
        )
    return parts


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet. IPv6 addresses that stand for another one (mapped, 6to4, NAT64) are not: they may lead inside."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return isinstance(address, IPv4Address) or (address.sixtofour is None and address not in _NAT64)


def _number(host: str) -> Address | None:
    """The address that a host is written as; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _check_address(address: Address, scheme: str, allowed: Sequence[Network]) -> None:
    if any(address in network for network in allowed):
        return
    if not is_public(address):
        raise InputError(
            "the address is not a public one; the operator can allow networks of your own with --webhook_networks"
        )
    if scheme == "http":
        raise InputError("the address has no TLS (http); use https")


def post(url: str, body: bytes, headers: Mapping[str, str], *, allowed: Sequence[Network] = ()) -> int:
    """Send a body; the status of the answer. Raises `NotSent` where there is none, or the address must not be called."""
    try:
        parts = check_url(url, allowed)
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = _resolved(parts.hostname, port, parts.scheme, allowed)
    except InputError as error:
        raise NotSent(str(error)) from error
    connection = _connection(parts.scheme, parts.hostname, port, address)
    end = Timer(MOST_SECONDS, _shut, (connection,))
    end.daemon = True
    try:
        end.start()
        target = parts.path or "/"
        connection.request("POST", f"{target}?{parts.query}" if parts.query else target, body, dict(headers))
        return connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise NotSent(f"no answer ({type(error).__name__})") from error
    finally:
        end.cancel()
        connection.close()


def _resolved(host: str, port: int, scheme: str, allowed: Sequence[Network]) -> str:
    """The first address of a name. All of them must be allowed, so that it does not depend on which one comes first."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotSent("its name cannot be resolved") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        _check_address(ip_address(address.partition("%")[0]), scheme, allowed)
    return addresses[0]


def _connection(scheme: str, host: str, port: int, address: str) -> HTTPConnection:
    """A connection to an address that was looked at. TLS checks the certificate of the name."""

    class Pinned(HTTPSConnection if scheme == "https" else HTTPConnection):  # type: ignore[misc]
        def connect(self) -> None:
            plain = socket.create_connection((address, port), SECONDS)
            context = ssl.create_default_context() if scheme == "https" else None
            self.sock: Any = plain if context is None else context.wrap_socket(plain, server_hostname=host)

    return Pinned(host, port, timeout=SECONDS)


def _shut(connection: HTTPConnection) -> None:
    """End a connection from another thread; whoever reads from it sees its end."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
