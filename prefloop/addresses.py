"""Addresses with a password in them, and tokens of the hub: what is shown or written of one has `***` in its place."""

import re
from typing import Any

MASK = "***"
"""In place of a password. A store's address with it is opened with the password of PGPASSWORD or ~/.pgpass."""

_WEB = re.compile(r"(?i)\b(https?://[^\s/:@]*):[^\s/@]*@")
_DATABASE = re.compile(r"(?i)\b((?!https?:)[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s@]*@(?:[^\s?]*@)?")
"""An unescaped @ or ? may stand in the password: all up to the last @ before the query goes."""
_WHOLE = re.compile(r"://\S+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_QUERY = re.compile(r"(?i)([?&](?:ssl)?password=)[^&\s]+")


def without_passwords(value: Any) -> Any:
    """A text, or the texts in lists and mappings, with the passwords of its addresses and the hub's tokens masked; anything else as it is."""
    if isinstance(value, str):
        value = _TOKEN.sub(f"hf_{MASK}", value)
        if "://" not in value:
            return value
        text = _WEB.sub(rf"\1:{MASK}@", value)
        text = _DATABASE.sub(rf"\1:{MASK}@", text)
        return _WHOLE.sub(lambda found: _QUERY.sub(rf"\1{MASK}", found[0]), text)
    if isinstance(value, dict):
        return {key: without_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_passwords(inner) for inner in value]
    return value
