"""What the clients of HTTP servers share: which failures another attempt may change, and how long to wait for it. No torch here."""

import email.utils
import random
import time

import httpx

RETRIED = frozenset({408, 409, 429})
"""Below 500, the status codes that another attempt may change."""
MOST_WAIT = 60.0
"""Seconds between two attempts, at most, whatever the server asks for."""


def is_final(status: int) -> bool:
    """Whether a failure is the request's own fault (a wrong key, an unknown model), so that another attempt would not change it."""
    return status < 500 and status not in RETRIED


def wait_before(attempt: int, *, first: float, asked: float = 0.0) -> float:
    """Seconds before an attempt (the second is 1): `first` doubled each time, times a random half to one and a half; at least what the
    server asked for, at most `MOST_WAIT`."""
    return min(max(first * 2 ** (attempt - 1) * random.uniform(0.5, 1.5), asked), MOST_WAIT)


def describe_error(error: httpx.TransportError) -> str:
    """A broken connection in words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def describe_answer(response: httpx.Response) -> str:
    """A failure's status and the beginning of its body, on one line."""
    return f"HTTP {response.status_code}: {' '.join(response.text.split())[:200] or 'no text'}"


def retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, as a number or a date; 0 if it does not."""
    given = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return 0.0
