"""A policy of ours behind the chat completions protocol, in a process of its own: for the studio's live chat, which starts without torch.

    python -m prefloop.rollout.chat_server MODEL

It listens on a free port of 127.0.0.1, prints one line of JSON (`port`, `weights_sha256`) when the model is loaded, and ends when its standard
input does, so it does not outlive who started it. Where the environment has PREFLOOP_CHAT_KEY, requests must carry it. One token
is drawn at a time; `seed` and the messages fix the answer, streamed or whole.
"""

import argparse
import hmac
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any

from prefloop.configs.common import Compute, Sampling
from prefloop.errors import InputError
from prefloop.models.load import load_policy
from prefloop.models.roles import Policy
from prefloop.models.weights import weights_sha256
from prefloop.records import Message, Prompt
from prefloop.rollout.sampler import room_for, sample
from prefloop.rollout.stream import stream_scored
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids

KEY_VARIABLE = "PREFLOOP_CHAT_KEY"
MOST_BYTES = 2**20
MOST_TOKENS = 4096
_ROLES = ("system", "user", "assistant")
_KNOWN = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed"),
    *("stream", "stream_options"),
)
_UNSET = (None, False, 1, 0, [], {})
"""Values that ask for nothing: one answer, without penalties."""
_HALF = "\ufffd"
"""Decoded from a character whose last bytes are still to come."""


class AnsweringPolicy:
    """A loaded policy that answers messages, one request at a time."""

    def __init__(self, model: str, compute: Compute) -> None:
        self.model = model
        self._tokenizer = load_tokenizer(model, trust_remote_code=compute.trust_remote_code)
        if not self._tokenizer.chat_template:
            raise InputError(
                f"{model}: its tokenizer has no chat template, so it cannot hold a conversation; serve another model"
            )
        self._policy: Policy = load_policy(model, compute)
        self._turn = threading.Lock()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a chat completion. Raises `InputError` for a request that makes no sense, `TooLong` for one without room to answer."""
        ids, sampling, seed = self._prepared(request)
        with self._turn, self._policy.active() as model:
            ((drawn,),) = sample(
                model,
                [ids],
                k=1,
                stop_ids=stop_token_ids(self._tokenizer),
                sampling=sampling,
                seed=seed,
                row_keys=[0],
            )
        text = decode_completion(self._tokenizer, drawn.tokens)
        end = self._end(drawn.ended, sum(drawn.logprobs), len(ids), len(drawn.tokens))
        end["choices"][0]["message"] = {"role": "assistant", "content": text}
        return {"object": "chat.completion", **end}

    def pieces(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The same answer as the chunks of a stream. Several are drawn by turns, token by token, so that they grow together."""
        ids, sampling, seed = self._prepared(request)
        stops = stop_token_ids(self._tokenizer)
        tokens = stream_scored(self._policy.model, ids, stop_ids=stops, sampling=sampling, seed=seed, key=0)
        drawn, logprob, shown = list[int](), 0.0, 0
        while True:
            with self._turn, self._policy.active():
                new = next(tokens, None)
            text = decode_completion(self._tokenizer, drawn := [*drawn, new[0]] if new else drawn)
            logprob += new[1] if new else 0.0
            ready = text.rstrip(_HALF) if new else text
            if ready[shown:]:
                yield {"model": self.model, "choices": [{"index": 0, "delta": {"content": ready[shown:]}}]}
                shown = len(ready)
            if new is None:
                break
        end = self._end(bool(drawn) and drawn[-1] in stops, logprob, len(ids), len(drawn))
        end["choices"][0]["delta"] = {}
        yield {"object": "chat.completion.chunk", **end}

    def _prepared(self, request: Mapping[str, Any]) -> tuple[list[int], Sampling, int]:
        """The prompt's tokens, how to draw, with what there is room for, and the seed."""
        messages, sampling, seed = _read(request)
        ids = encode_prompt(self._tokenizer, Prompt(content=messages))
        try:
            room = room_for(self._policy.model, ids, sampling.max_new_tokens)
        except InputError as error:
            raise TooLong(str(error)) from error
        return ids, replace(sampling, max_new_tokens=room), seed

    def _end(self, ended: bool, logprob: float, asked: int, answered: int) -> dict[str, Any]:
        """What is said of a whole answer."""
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop" if ended else "length",
            "logprob": logprob,
        }
        usage = {"prompt_tokens": asked, "completion_tokens": answered}
        return {"model": self.model, "choices": [choice], "usage": usage}


class TooLong(InputError):
    """The conversation leaves the model no room to answer."""


def _read(request: Mapping[str, Any]) -> tuple[tuple[Message, ...], Sampling, int]:
    """Messages, how to draw, and the seed."""
    unknown = [key for key, value in request.items() if key not in _KNOWN and value not in _UNSET]
    if unknown:
        raise InputError(
            f"this server does not support {', '.join(unknown)}; leave it out ({', '.join(_KNOWN)})"
        )
    try:
        messages = tuple(
            Message(role=message["role"], content=message["content"]) for message in request["messages"]
        )
        sampling = Sampling(
            max_new_tokens=int(request.get("max_completion_tokens") or request.get("max_tokens") or 256),
            temperature=float(request.get("temperature", 1.0)),
            top_p=float(request.get("top_p", 1.0)),
            top_k=int(request.get("top_k") or 0),
            batch_size=1,
        )
        seed = int(request.get("seed") or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the request is invalid ({type(error).__name__}: {error})") from error
    if not messages or any(
        message.role not in _ROLES or not isinstance(message.content, str) for message in messages
    ):
        raise InputError(f"messages must be one or more, of the roles {', '.join(_ROLES)}, with text")
    if sampling.max_new_tokens > MOST_TOKENS or not 0 <= seed < 2**63:
        raise InputError(f"max_tokens must be {MOST_TOKENS} at most, and seed 0 or more, below 2**63")
    return messages, sampling, seed


def make_server(answers: AnsweringPolicy, *, key: str = "", port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, not running yet."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if key and not hmac.compare_digest(self.headers.get("authorization", ""), f"Bearer {key}"):
                return self._say(401, {"error": {"message": "the key is wrong"}})
            if self.path != "/v1/chat/completions":
                return self._say(404, {"error": {"message": "the path is /v1/chat/completions"}})
            if not length.isdecimal() or int(length) > MOST_BYTES:
                return self._say(413, {"error": {"message": "the request is too large"}})
            try:
                request = json.loads(self.rfile.read(int(length)))
                if not isinstance(request, dict):
                    raise InputError("the body must be an object")
                if request.get("stream"):
                    pieces = answers.pieces(request)
                    return self._stream(
                        chain([next(pieces)], pieces)
                    )  # what is refused is refused before the headers
                return self._say(200, answers.answer(request))
            except TooLong as error:
                told = {"code": "context_length_exceeded", "message": str(error)}
            except ValueError as error:  # not JSON, or an `InputError`
                told = {"code": "invalid_request", "message": str(error)}
            return self._say(400, {"error": told})

        def _stream(self, pieces: Iterator[object]) -> None:
            """Server-sent events, until they end or nobody listens."""
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()  # HTTP/1.0: the answer ends with the connection
            with suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")

        def _say(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: texts are not logged."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server


def _end_with_input() -> None:
    """Who started this process holds its standard input; when that is gone, so is the reason to be here."""
    sys.stdin.buffer.read()
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Load the model and serve it; 2 with a line on standard error where that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m prefloop.rollout.chat_server")
    parser.add_argument("model")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args(arguments)
    try:
        answers = AnsweringPolicy(given.model, Compute(device=given.device, attention="padded"))
        weights = weights_sha256(given.model)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    server = make_server(answers, key=os.environ.get(KEY_VARIABLE, ""))
    threading.Thread(target=_end_with_input, daemon=True).start()
    print(json.dumps({"port": server.server_address[1], "weights_sha256": weights}), flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
