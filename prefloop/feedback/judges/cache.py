"""Answers kept by content: the same question to the same model is asked, and paid for, once.

A row is keyed by the hash of everything an answer depends on (address, model, sampling, every message), so that a changed prompt or model never
reads another one's answer. Each answer is written in a transaction of its own: a crash loses calls under way and nothing else.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from prefloop.errors import InputError
from prefloop.feedback.judges.model import ChatModel, Reply
from prefloop.records import Message

_TABLE = """CREATE TABLE IF NOT EXISTS call (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, text TEXT NOT NULL, first_token TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"""


class Cached:
    """A `ChatModel` that looks its answers up in a SQLite file first; an answer from there costs nothing."""

    def __init__(self, model: ChatModel, path: str | Path) -> None:
        self._model, self._path, self._lock = model, Path(path), threading.Lock()
        self.hits = 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection, connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"cache {path}: cannot be used ({error}); name another file, or move this one away"
            ) from error

    def _open(self):
        return closing(sqlite3.connect(self._path, timeout=30))

    @property
    def identity(self) -> Mapping[str, Any]:
        """Of the model itself."""
        return self._model.identity

    def complete(self, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """The answer kept, or a new one, which is kept before it is returned."""
        request = {
            **self.identity,
            "max_tokens": max_tokens,
            "messages": [[message.role, message.content] for message in messages],
        }
        text = json.dumps(request, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        with self._open() as connection:
            row = connection.execute(
                "SELECT text, first_token, prompt_tokens, completion_tokens FROM call WHERE key = ?", (key,)
            ).fetchone()
        if row is not None:
            with self._lock:
                self.hits += 1
            return Reply(
                text=row[0], first_token=json.loads(row[1]), prompt_tokens=row[2], completion_tokens=row[3]
            )
        reply = self._model.complete(messages, max_tokens=max_tokens)
        with self._open() as connection, connection:
            connection.execute(
                "INSERT OR IGNORE INTO call (key, request, text, first_token, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?, ?)",
                (key, text, reply.text, json.dumps(dict(reply.first_token)), reply.prompt_tokens, reply.completion_tokens),
            )  # fmt: skip
        return reply
