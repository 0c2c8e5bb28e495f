"""The client of a vLLM server: token ids in, token ids and log-probabilities out, many requests in flight.

Everything that changes what is drawn is sent with every request, so that no default of the server or of the model's generation_config.json
counts. Requests that fail for a moment are tried again. Every operation has a deadline. A server that is gone is one line.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import httpx

from prefloop.addresses import without_passwords
from prefloop.configs.common import Sampling
from prefloop.errors import EngineLost, InputError
from prefloop.http import describe_answer, describe_error, is_final, retry_after, wait_before
from prefloop.rollout.sampler import Sampled

ATTEMPTS = 6
"""Of a request, the first included; the waits between them are 1, 2, 4, 8 and 16 seconds, give or take half."""
_CONNECT = 10.0
"""Seconds to reach the server."""
_NEUTRAL = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""What a server may take from the model's generation_config.json unless a request says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """What a server says of itself."""

    model: str
    """The name of its base model in requests."""
    positions: int
    """Tokens of a prompt with its completion, at most; 0 if it does not say."""
    version: str
    """Of vLLM; empty if it does not say."""


class EngineClient:
    """A vLLM server at an address. `sleep` and `clock` are for tests."""

    def __init__(
        self,
        url: str,
        *,
        minutes: float,
        in_flight: int = 64,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`minutes` bound every operation (a batch of completions, one change of weights), `in_flight` the requests under way at a time."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self.shown = without_passwords(self.url)
        self.minutes, self.in_flight = minutes, in_flight
        self._sleep, self._clock = sleep, clock
        limits = httpx.Limits(max_connections=in_flight + 1, max_keepalive_connections=in_flight + 1)
        self._client = httpx.Client(limits=limits, follow_redirects=False)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def about(self) -> ServedModel:
        """What the server serves. Raises `EngineLost` if there is none, `InputError` if it is no such server."""
        card = self.get("/v1/models")
        try:
            base = next(model for model in card["data"] if not model.get("parent"))
            name, positions = str(base["id"]), int(base.get("max_model_len") or 0)
        except (KeyError, TypeError, ValueError, StopIteration):
            raise InputError(
                f"sampling.engine {self.shown} does not list a model at /v1/models; give the address that `prefloop engine serve` printed"
            ) from None
        try:
            version = str(self.get("/version").get("version", ""))
        except InputError:
            version = ""
        return ServedModel(model=name, positions=positions, version=version)

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self._ask("GET", path, None, until=self._deadline(), attempts=ATTEMPTS)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Tell the server to do something. Once: it may not be the same to do it twice."""
        self._ask("POST", path, body, until=self._deadline(), attempts=1, read=lambda response: None)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        model: str,
        k: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        row_keys: Sequence[int],
    ) -> list[list[Sampled]]:
        """As `prefloop.rollout.sample`, drawn by the server's model of this name: a request for each prompt, with a seed of its own.

        Raises:
            EngineLost: The server is gone, or has not drawn all by the deadline.
            InputError: It refuses a request, or gives what was not asked for.
        """
        until, stops = self._deadline(), sorted(set(stop_ids))
        shared = {
            **_NEUTRAL,
            "model": model,
            "n": k,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            # The model's own end tokens count only where they are among ours.
            "ignore_eos": True,
            "stop_token_ids": stops,
            "logprobs": 0,
            "return_token_ids": True,
        }
        over = threading.Event()

        def draw(ids: Sequence[int], key: int) -> list[Sampled]:
            body = {**shared, "prompt": list(ids), "seed": request_seed(seed, key)}
            if over.is_set():
                return []
            answer = self._ask("POST", "/v1/completions", body, until=until, attempts=ATTEMPTS, over=over)
            return self._read(answer, k=k, stops=frozenset(stops), longest=sampling.max_new_tokens)

        pool = ThreadPoolExecutor(max(1, min(self.in_flight, len(prompts))), thread_name_prefix="engine")
        try:
            tasks = [pool.submit(draw, ids, key) for ids, key in zip(prompts, row_keys, strict=True)]
            finished, _ = wait(tasks, return_when=FIRST_EXCEPTION)
            for task in finished:
                if (error := task.exception()) is not None:
                    raise error
            return [task.result() for task in tasks]
        finally:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _deadline(self) -> float:
        return self._clock() + 60 * self.minutes

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        until: float,
        attempts: int,
        over: threading.Event | None = None,
        read: Callable[[httpx.Response], Any] = httpx.Response.json,
    ) -> Any:
        """What is read of the answer to a request, with as many attempts as it may have, until the deadline or until another request has failed."""
        reason = ""
        for attempt in range(attempts):
            left = until - self._clock()
            if left <= 0 or (over is not None and over.is_set()):
                break
            asked = 0.0
            timeout = httpx.Timeout(left, connect=min(left, _CONNECT))
            try:
                response = self._client.request(method, f"{self.url}{path}", json=body, timeout=timeout)
            except (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
                break
            except httpx.TransportError as error:
                reason = describe_error(error)
            else:
                if response.status_code == 200:
                    try:
                        return read(response)
                    except ValueError:
                        reason = "an answer that is not JSON"
                else:
                    reason, asked = describe_answer(response), retry_after(response)
                    if is_final(response.status_code):
                        raise InputError(f"sampling.engine {self.shown} refuses {path} with {reason}")
            if attempt + 1 < attempts:
                self._sleep(
                    min(wait_before(attempt + 1, first=1.0, asked=asked), max(0.0, until - self._clock()))
                )
        if self._clock() >= until:
            reason = f"no answer within engine_minutes = {self.minutes:g}" + (
                f"; last, {reason}" if reason else ""
            )
        raise EngineLost(
            f"sampling.engine {self.shown}: {path} failed: {reason or 'another request has failed'}"
        )

    def _read(self, answer: Any, *, k: int, stops: frozenset[int], longest: int) -> list[Sampled]:
        """The k completions of an answer. Raises `InputError` for one that is not what was asked for."""
        wrong = f"sampling.engine {self.shown} gave "
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            drawn = [
                Sampled(
                    tokens=[int(token) for token in choice["token_ids"]],
                    logprobs=[float(value) for value in choice["logprobs"]["token_logprobs"]],
                    ended=choice["token_ids"][-1] in stops,
                )
                for choice in choices
            ]
            reasons = [choice.get("finish_reason") for choice in choices]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"{wrong}completions without token ids and log-probabilities ({type(error).__name__}: {error}); it must be vLLM 0.11 or later"
            ) from error
        if len(drawn) != k:
            raise InputError(f"{wrong}{len(drawn)} completions where {k} were asked for")
        for one, reason in zip(drawn, reasons, strict=True):
            if len(one.tokens) != len(one.logprobs) or not all(map(math.isfinite, one.logprobs)):
                raise InputError(f"{wrong}log-probabilities that do not belong to its tokens")
            if len(one.tokens) > longest or any(token in stops for token in one.tokens[:-1]):
                raise InputError(f"{wrong}a completion that goes on after it should have ended")
            if not one.ended and len(one.tokens) < longest:
                raise InputError(
                    f"{wrong}a completion of {len(one.tokens)} tokens, fewer than sampling.max_new_tokens = {longest}, that ends with token "
                    f"{one.tokens[-1]}, which is not a stop token (finish_reason {reason}); raise the server's --max_model_len, or serve a model with the "
                    "same stop tokens"
                )
        return drawn


def request_seed(seed: int, key: int) -> int:
    """The seed of a prompt's request, below 2**56. The server adds a completion's number to it, so seeds of two prompts must not be neighbours."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=7).digest(), "big")
