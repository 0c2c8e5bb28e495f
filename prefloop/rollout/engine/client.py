"""The client of an engine's server: token ids in, token ids and log-probabilities out, many requests in flight.

Everything that changes what is drawn is sent with every request, so that no default of the server or of the model's generation_config.json
counts. Requests that fail for a moment are tried again. Every operation has a deadline. A server that is gone is one line.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from prefloop.addresses import without_passwords
from prefloop.configs.common import Sampling
from prefloop.errors import EngineLost, InputError
from prefloop.http import describe_answer, describe_error, is_final, retry_after, wait_before
from prefloop.rollout.engine.routes import KINDS, Asked, Call, CompletionPiece, Routes, ServedWeights
from prefloop.rollout.sampler import Sampled

ATTEMPTS = 6
"""Of a request, the first included; the waits between them are 1, 2, 4, 8 and 16 seconds, give or take half."""
_CONNECT = 10.0
"""Seconds to reach the server."""
_LOOK = 0.2
"""Seconds between looks at whether to go on waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """What a server says of itself."""

    model: str
    """The name of its base model in requests."""
    positions: int
    """Tokens of a prompt with its completion, at most; 0 if it does not say."""
    version: str
    """Of the program; empty if it does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSample(Sampled):
    """A completion with the weights that drew it."""

    versions: list[int]
    """Of each token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What the requests of a batch share."""

    weights: Callable[[], ServedWeights]
    k: int
    """Completions of a request."""
    stops: Sequence[int]
    sampling: Sampling
    seed: int
    until: float
    over: threading.Event
    """Another request has failed."""

    def asked(self, ids: Sequence[int], place: tuple[int, ...]) -> Asked:
        """A request for a prompt: its key, and where completions have requests of their own the number of this one."""
        return Asked(
            ids=ids,
            k=self.k,
            stops=self.stops,
            sampling=self.sampling,
            new_tokens=self.sampling.max_new_tokens,
            seed=request_seed(self.seed, *place),
        )


class RequestGate:
    """Where requests for completions wait while the weights change."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open, self._inside, self._failure = True, 0, ""

    @contextmanager
    def inside(self, proceed: Callable[[], bool]) -> Iterator[None]:
        """Wait until it is open, or until `proceed` is False; the body counts as under way. Raises `EngineLost` if it will not open again."""
        with self._changed:
            while not self._open and not self._failure and proceed():
                self._changed.wait(_LOOK)
            if self._failure:
                raise EngineLost(self._failure)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Let no more in."""
        with self._changed:
            self._open = False

    def open(self) -> None:
        """Let all in."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def fail(self, reason: str) -> None:
        """Turn all away, for good."""
        with self._changed:
            self._failure = reason
            self._changed.notify_all()

    def is_empty(self) -> bool:
        """Whether nothing is under way, or is not within a moment."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._inside, timeout=_LOOK)


class EngineClient:
    """A server of vLLM or SGLang at an address. `sleep` and `clock` are for tests."""

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
        self.routes: Routes = KINDS["vllm"]
        """As `about` finds it."""
        self.gate = RequestGate()
        self._sleep, self._clock = sleep, clock
        # Threads bound the requests under way; one more must always get through.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=in_flight + 2)
        self._client = httpx.Client(limits=limits, follow_redirects=False)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def about(self) -> ServedModel:
        """What the server serves, and which program it is. Raises `EngineLost` if there is none, `InputError` if it is no such server."""
        card = self.get("/v1/models")
        try:
            base = next(model for model in card["data"] if not model.get("parent"))
            name, positions = str(base["id"]), int(base.get("max_model_len") or 0)
            self.routes = KINDS.get(base.get("owned_by"), self.routes)
        except (KeyError, TypeError, ValueError, StopIteration):
            raise InputError(
                f"sampling.engine {self.shown} does not list a model at /v1/models; give the address that `prefloop engine serve` printed"
            ) from None
        try:
            version = str(self.get(self.routes.about)["version"])
        except (InputError, KeyError, TypeError):
            version = ""
        return ServedModel(model=name, positions=positions, version=version)

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self._ask("GET", path, None, until=self.deadline(), attempts=ATTEMPTS)

    def post(self, call: Call, *, attempts: int = 1) -> None:
        """Tell the server to do something. Once, unless it is the same to do it twice."""
        path, body = call
        self._ask(
            "POST",
            path,
            body,
            until=self.deadline(),
            attempts=attempts,
            read=lambda response: None,
            # vLLM drops the connection after an error; the next of these must not find that out.
            headers={"connection": "close"},
        )

    def weight_version(self) -> str:
        """The mark that the last change of all weights left on the server; `default` if there was none."""
        return str(self.get(self.routes.version)["weight_version"])

    def deadline(self) -> float:
        """Until when an operation that begins now may last, by the clock."""
        return self._clock() + 60 * self.minutes

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        weights: Callable[[], ServedWeights],
        k: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        row_keys: Sequence[int],
        interruptible: bool = False,
    ) -> list[list[EngineSample]]:
        """As `prefloop.rollout.sample`, drawn by the server, with a seed for each request.

        `weights` is asked before each request. An interruptible completion has a request of its own, waits at the gate, and goes on from where
        it was interrupted, with the weights of then.

        Raises:
            EngineLost: The server is gone, or has not drawn all by the deadline.
            InputError: It refuses a request, or gives what was not asked for.
        """
        job = _Job(
            weights=weights,
            k=k if self.routes.shares_prompts and not interruptible else 1,
            stops=sorted(set(stop_ids)),
            sampling=sampling,
            seed=seed,
            until=self.deadline(),
            over=threading.Event(),
        )
        draw = self._draw_through if interruptible else self._draw
        requests = range(k // job.k)
        pool = ThreadPoolExecutor(
            max(1, min(self.in_flight * len(requests), len(prompts) * len(requests))),
            thread_name_prefix="engine",
        )
        try:
            tasks = [
                [pool.submit(draw, job, ids, (key,) if job.k == k else (key, index)) for index in requests]
                for ids, key in zip(prompts, row_keys, strict=True)
            ]
            finished, _ = wait([task for row in tasks for task in row], return_when=FIRST_EXCEPTION)
            for task in finished:
                if (error := task.exception()) is not None:
                    raise error
            return [[one for task in row for one in task.result()] for row in tasks]
        finally:
            job.over.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _draw(self, job: "_Job", ids: Sequence[int], place: tuple[int, ...]) -> list[EngineSample]:
        """The completions of one request."""
        asked = job.asked(ids, place)
        used, choices = self._request(job, asked)
        return [self._drawn([(used, choice)], asked) for choice in choices]

    def _draw_through(self, job: "_Job", ids: Sequence[int], place: tuple[int, ...]) -> list[EngineSample]:
        """A completion, in as many requests as it is interrupted, and one."""
        asked = rest = job.asked(ids, place)
        pieces: list[tuple[ServedWeights, CompletionPiece]] = []
        while rest.new_tokens and (not pieces or pieces[-1][1].reason == "abort"):
            with self.gate.inside(lambda: not job.over.is_set() and self._clock() < job.until):
                used, (choice,) = self._request(job, rest)
            pieces.append((used, choice))
            rest = replace(
                rest,
                ids=[*rest.ids, *choice.tokens],
                new_tokens=rest.new_tokens - len(choice.tokens),
                seed=request_seed(job.seed, *place, len(pieces)),
            )
        return [self._drawn(pieces, asked)]

    def _request(self, job: "_Job", asked: Asked) -> tuple[ServedWeights, list[CompletionPiece]]:
        used = job.weights()
        body = self.routes.body(used, asked)
        answer = self._ask("POST", self.routes.draws, body, until=job.until, attempts=ATTEMPTS, over=job.over)
        return used, self._choices(answer, asked.k)

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
        headers: Mapping[str, str] | None = None,
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
                response = self._client.request(
                    method, f"{self.url}{path}", json=body, timeout=timeout, headers=headers
                )
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

    def _choices(self, answer: Any, k: int) -> list[CompletionPiece]:
        """What an answer holds. Raises `InputError` for one that is not what was asked for."""
        try:
            choices = self.routes.choices(answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"sampling.engine {self.shown} gave completions without token ids and log-probabilities ({type(error).__name__}: {error}); it must be vLLM 0.11 "
                "or later, or SGLang"
            ) from error
        if len(choices) != k:
            raise InputError(
                f"sampling.engine {self.shown} gave {len(choices)} completions where {k} were asked for"
            )
        return choices

    def _drawn(self, pieces: Sequence[tuple[ServedWeights, CompletionPiece]], asked: Asked) -> EngineSample:
        """A completion in one piece. Raises `InputError` if it is not a whole one."""
        wrong = f"sampling.engine {self.shown} gave "
        tokens = [token for _, choice in pieces for token in choice.tokens]
        logprobs = [value for _, choice in pieces for value in choice.logprobs]
        if not tokens or len(tokens) != len(logprobs) or not all(map(math.isfinite, logprobs)):
            raise InputError(f"{wrong}log-probabilities that do not belong to its tokens")
        ended, longest = tokens[-1] in asked.stops, asked.sampling.max_new_tokens
        if len(tokens) > longest or any(token in asked.stops for token in tokens[:-1]):
            raise InputError(f"{wrong}a completion that goes on after it should have ended")
        if not ended and len(tokens) < longest:
            raise InputError(
                f"{wrong}a completion of {len(tokens)} tokens, fewer than sampling.max_new_tokens = {longest}, that ends with token "
                f"{tokens[-1]}, which is not a stop token (finish_reason {pieces[-1][1].reason}); raise the server's --max_model_len, or serve a model with the "
                "same stop tokens"
            )
        versions = [used.version for used, choice in pieces for _ in choice.tokens]
        return EngineSample(tokens=tokens, logprobs=logprobs, ended=ended, versions=versions)


def request_seed(seed: int, *place: int) -> int:
    """The seed of a request, below 2**56: of a prompt, or of one of its completions, or of its next piece. The server adds a completion's number to it, so
    seeds of two prompts must not be neighbours."""
    named = ":".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(named.encode(), digest_size=7).digest(), "big")
