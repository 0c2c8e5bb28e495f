"""Signed messages, as in the Standard Webhooks specification, which libraries of many languages check.

The signature is HMAC-SHA256 over the message's id, its time and its body. A receiver refuses what is unsigned or older than some minutes, and an id
that it has seen before.
"""

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Mapping
from hashlib import sha256

from prefloop.errors import InputError

MARK = "whsec_"
TOLERANCE = 300.0
"""Seconds that a receiver's clock may differ, and that a message may take."""


def new_secret() -> str:
    """A secret for one address."""
    return MARK + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that go with a message."""
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{_signature(secret, id, timestamp, body)}",
    }


def check(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> str:
    """The id of a message that was signed with this secret. Raises `InputError` for any other, and for one that is too old.

    Args:
        secret: As the studio showed it, `whsec_...`.
        headers: Of the request.
        body: Of the request, byte by byte as it came.
        now: Seconds since 1970; the clock's by default.
    """
    given = {name.lower(): value for name, value in headers.items()}
    id, sent, signatures = (given.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not id or not sent.isdecimal() or not signatures:
        raise InputError(
            "the message is not signed: webhook-id, webhook-timestamp or webhook-signature is missing"
        )
    if abs((time.time() if now is None else now) - int(sent)) > TOLERANCE:
        raise InputError(f"the message was signed more than {TOLERANCE:.0f} s ago, or the clocks differ")
    right = f"v1,{_signature(secret, id, int(sent), body)}".encode()
    if not any(hmac.compare_digest(right, each.encode()) for each in signatures.split(" ")):
        raise InputError("the message was not signed with this secret, or was changed")
    return id


def _signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    try:
        key = base64.b64decode(secret.removeprefix(MARK), validate=True)
    except binascii.Error as error:
        raise InputError(f"the secret is not one of a webhook; it begins with {MARK}") from error
    return base64.b64encode(hmac.new(key, f"{id}.{timestamp}.".encode() + body, sha256).digest()).decode()
