"""A server on loopback that speaks the chat completions protocol, with a scripted judge and faults to order."""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = dict[str, Any] | tuple[int, bytes, dict[str, str]]
"""A body of 200, or status, body and headers."""


def answer(
    text: str, first: dict[str, float] | None = None, tokens: tuple[int, int] = (100, 2)
) -> dict[str, Any]:
    """A well-formed body; `first` maps the first token's alternatives to probabilities."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    if first is not None:
        top = [{"token": token, "logprob": math.log(p)} for token, p in first.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": top}]}
    return {"choices": [choice], "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}


def shown(request: dict[str, Any]) -> tuple[str, str]:
    """The two answers in a request, as the judge is shown them."""
    text = request["messages"][1]["content"]
    first = re.search(r"<answer-1 \w+>\n(.*?)\n</answer-1", text, re.DOTALL)
    second = re.search(r"<answer-2 \w+>\n(.*?)\n</answer-2", text, re.DOTALL)
    assert first, text
    assert second, text
    return first.group(1), second.group(1)


@dataclass
class Server:
    """The running server: what it was asked, and what it answers."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    faults: list[Answer | float] = field(default_factory=list)
    """Given in turn before the judge answers; a float is a wait in seconds."""
    judge: Callable[[dict[str, Any]], Answer] = lambda request: answer("1", {"1": 0.9, "2": 0.1})
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of 127.0.0.1."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.requests.append(body)
                state.keys.append(self.headers.get("authorization", ""))
                given = state.faults.pop(0) if state.faults else state.judge(body)
            if isinstance(given, float):
                time.sleep(given)
                given = state.judge(body)
            status, content, headers = (
                given if isinstance(given, tuple) else (200, json.dumps(given).encode(), {})
            )
            assert self.path == "/v1/chat/completions"
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in headers:
                    self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked has stopped waiting

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    """One server for a test."""
    with serving() as state:
        yield state
