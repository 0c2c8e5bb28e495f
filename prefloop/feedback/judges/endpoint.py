"""Chat models behind any OpenAI-compatible address: retries with back-off, rate limit, budget, and nothing of a failure hidden.

Tried again: timeouts, broken connections, 408, 409, 429, 5xx, and answers that are no JSON or not of the protocol's form (a cut-off body). Not
tried again: other 4xx, which another attempt would not change (a wrong key, an unknown model).
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from prefloop.addresses import without_passwords
from prefloop.configs.common import require
from prefloop.configs.judge import AskedModel
from prefloop.errors import InputError
from prefloop.feedback.judges.model import CallFailed, ChatModel, OverBudget, Reply
from prefloop.http import describe_answer, describe_error, is_final, retry_after, wait_before
from prefloop.records import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How often, how long and at what price a model is asked."""

    timeout: float = 60.0
    """Seconds for one answer."""
    attempts: int = 5
    """Of one call, the first included."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled each time, times a random half to one and a half."""
    per_minute: float = 0.0
    """Requests begun in a minute, at most; 0 for no limit."""
    max_calls: int = 0
    """Requests in all, retries included; 0 for no limit."""
    max_cost: float = 0.0
    """In the currency of the prices; 0 for no limit. Calls under way when it is reached are finished and counted."""
    price_in: float = 0.0
    """Of a million prompt tokens."""
    price_out: float = 0.0
    """Of a million completion tokens."""

    def __post_init__(self) -> None:
        require(self.timeout > 0, f"timeout is {self.timeout}; it must be above 0 seconds")
        require(self.attempts >= 1, f"attempts is {self.attempts}; it must be 1 or more")
        for name in ("first_wait", "per_minute", "max_calls", "max_cost", "price_in", "price_out"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        require(
            not self.max_cost or self.price_in + self.price_out > 0,
            f"max_cost is {self.max_cost} without a price; set price_in and price_out, per million tokens",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestForm:
    """What is sent beside the question."""

    temperature: float = 0.0
    logprobs: bool = True
    """Whether the first token's log-probabilities are asked for."""
    max_tokens: int = 0
    """Above 0 it takes the place of what a question asks for."""
    limit_field: str = "max_tokens"
    """What the server calls that limit."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """More fields; None for one that is not to be sent."""


@dataclass(slots=True)
class Spent:
    """What was used so far."""

    calls: int = 0
    """Requests, retries included."""
    retries: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """Reason -> attempts that gave no answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Endpoint:
    """A `ChatModel` over HTTP; use it as a context manager. `sleep` and `clock` are for tests."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str = "",
        limits: Limits | None = None,
        form: RequestForm | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputError(
                f"base_url is {without_passwords(base_url)!r}; it must begin with http:// or https://, for example http://127.0.0.1:8000/v1"
            )
        self.base_url, self.model, self.limits = base_url.rstrip("/"), model, limits or Limits()
        self.spent = Spent()
        self._form = form or RequestForm()
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._next_start = -float("inf")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=self.limits.timeout, follow_redirects=False)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Address, model and sampling; never the key."""
        form = self._form
        more = {"limit": form.max_tokens, "fields": dict(form.fields)}
        return {
            "base_url": without_passwords(self.base_url),
            "model": self.model,
            "temperature": form.temperature,
            "logprobs": form.logprobs,
            # Only where they are set, so that answers kept before are found.
            **{name: value for name, value in more.items() if value},
        }

    def complete(self, messages: Sequence[Message], *, max_tokens: int, seed: int | None = None) -> Reply:
        """One answer, with as many attempts as it takes and the limits allow. `seed` is sent where it is given."""
        body = self._body(messages, max_tokens, seed)
        return self._until_answered(
            lambda: _read(self._accepted(self._client.post(self._address, json=body)))
        )

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        seed: int | None = None,
        show: Callable[[str], bool],
    ) -> Reply:
        """The same, told piece by piece: `show` is given the whole text so far, and says whether to go on. A new attempt begins with an empty one.

        An answer that was stopped has not `ended`. A server that does not stream answers whole.
        """
        body = self._body(messages, max_tokens, seed)
        body |= {"stream": True, "stream_options": {"include_usage": True}}

        def attempt() -> Reply:
            show("")
            with self._client.stream("POST", self._address, json=body) as response:
                if response.status_code != 200 or "event-stream" not in response.headers.get(
                    "content-type", ""
                ):
                    response.read()
                    return _read(self._accepted(response))
                return _read_pieces(response.iter_lines(), show)

        return self._until_answered(attempt)

    @property
    def _address(self) -> str:
        return f"{self.base_url}/chat/completions"

    def _body(self, messages: Sequence[Message], max_tokens: int, seed: int | None) -> dict[str, Any]:
        """What is sent."""
        form = self._form
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            form.limit_field: form.max_tokens or max_tokens,
            "temperature": form.temperature,
        }
        if seed is not None:
            body["seed"] = seed
        if form.logprobs:
            body |= {"logprobs": True, "top_logprobs": 20}
        body |= form.fields
        if body.get("logprobs", "") is None:
            body.pop("top_logprobs", None)
        return {name: value for name, value in body.items() if value is not None}

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        """A response of status 200. Raises `_Refused` for another."""
        if response.status_code != 200:
            raise _Refused(response)
        return response

    def _until_answered(self, attempt: Callable[[], Reply]) -> Reply:
        """What an attempt gives, of as many as it takes and the limits allow."""
        reason = ""
        for number in range(self.limits.attempts):
            if number:
                with self._lock:
                    self.spent.retries += 1
            self._begin()
            asked = 0.0
            try:
                reply = attempt()
            except httpx.TransportError as error:
                reason = describe_error(error)
                self._failed(type(error).__name__)
            except _Refused as error:
                response = error.response
                reason = describe_answer(response)
                self._failed(f"HTTP {response.status_code}")
                if is_final(response.status_code):
                    raise InputError(
                        f"{without_passwords(self.base_url)} refused model {self.model!r} with {reason}; correct base_url, model or key"
                    ) from None
                asked = retry_after(response)
            except NoText as error:
                reason = str(error)
                self._failed("answer without text")
                self._count(error.prompt_tokens, error.completion_tokens)
            except ValueError as error:
                reason = f"an answer that does not follow the protocol ({error})"
                self._failed("malformed answer")
            else:
                self._count(reply.prompt_tokens, reply.completion_tokens)
                return reply
            if number + 1 < self.limits.attempts:
                self._sleep(wait_before(number + 1, first=self.limits.first_wait, asked=asked))
        raise CallFailed(f"{self.limits.attempts} attempts failed, the last one with {reason}")

    def _begin(self) -> None:
        """Count a request and wait for its turn. Raises `OverBudget`."""
        limits = self.limits
        with self._lock:
            if limits.max_calls and self.spent.calls >= limits.max_calls:
                raise OverBudget(f"max_calls is {limits.max_calls} and was reached; raise it to go on")
            if limits.max_cost and self.spent.cost >= limits.max_cost:
                raise OverBudget(
                    f"max_cost is {limits.max_cost}, and {self.spent.cost:.4f} is spent; raise it to go on"
                )
            self.spent.calls += 1
            start = max(self._clock(), self._next_start)
            if limits.per_minute:
                self._next_start = start + 60 / limits.per_minute
            wait = start - self._clock()
        if wait > 0:
            self._sleep(wait)

    def _failed(self, reason: str) -> None:
        with self._lock:
            self.spent.failures[reason] = self.spent.failures.get(reason, 0) + 1

    def _count(self, prompt: int, completion: int) -> None:
        """Add the tokens that an answer was billed for."""
        limits = self.limits
        with self._lock:
            self.spent.prompt_tokens += prompt
            self.spent.completion_tokens += completion
            self.spent.cost += (prompt * limits.price_in + completion * limits.price_out) / 1e6


class _Refused(Exception):
    """A response of another status than 200."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class NoText(ValueError):
    """An answer whose content is null: a model that has spent its tokens on reasoning, or refuses. Its tokens are billed all the same."""

    def __init__(self, why: str, prompt_tokens: int, completion_tokens: int) -> None:
        spent = f"{completion_tokens} tokens" if completion_tokens else "an answer"
        way_out = (
            "; raise request.max_tokens, so that reasoning leaves room for an answer"
            if why == "length"
            else ""
        )
        super().__init__(f"{spent} without text (finish_reason {why}){way_out}")
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens


def open_endpoint(config: AskedModel, *, temperature: float = 0.0, logprobs: bool = True) -> Endpoint:
    """The model behind the address that settings name, with the key from the environment. `temperature` is that of a command which has a
    setting of its own for it."""
    limits = Limits(
        timeout=config.limits.timeout,
        attempts=config.limits.attempts,
        per_minute=config.limits.per_minute,
        max_calls=config.limits.max_calls,
        max_cost=config.limits.max_cost,
        price_in=config.limits.price_in,
        price_out=config.limits.price_out,
    )
    return Endpoint(
        config.base_url,
        config.model,
        key=os.environ.get(config.key_variable, ""),
        limits=limits,
        form=RequestForm(
            temperature=temperature or config.request.temperature,
            logprobs=logprobs,
            max_tokens=config.request.max_tokens,
            limit_field=config.request.limit_field,
            fields=config.request.fields(),
        ),
    )


def cost_of(model: ChatModel) -> str:
    """What asking a model has used, in words; empty for a checkpoint on this machine, whose answers cost nothing."""
    if not isinstance(model, Endpoint):
        return ""
    limits, spent = model.limits, model.spent
    failures = ", ".join(f"{reason} {count}" for reason, count in sorted(spent.failures.items()))
    cost = f", cost {spent.cost:.4f}" if limits.price_in or limits.price_out else ""
    return (
        f"{spent.calls} requests, {spent.retries} of them retries{f' ({failures})' if failures else ''}, "
        f"{spent.prompt_tokens} + {spent.completion_tokens} tokens{cost}"
    )


def _read(response: httpx.Response) -> Reply:
    """The answer in a response's body. Raises `ValueError` for one that is cut off or of another form."""
    body = response.json()
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"]
        usage = body.get("usage") or {}
        first: dict[str, float] = {}
        listed = ((choice.get("logprobs") or {}).get("content") or [])[:1]
        for token in listed[0].get("top_logprobs") or [] if listed else []:
            first[str(token["token"])] = float(token["logprob"])
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        ended, logprob = choice.get("finish_reason") != "length", float(choice.get("logprob") or 0.0)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if text is None:
        raise NoText(str(choice.get("finish_reason")), *tokens)
    if not isinstance(text, str):
        raise ValueError("its content is not text")
    return Reply(
        text=text,
        first_token=first,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        ended=ended,
        logprob=logprob,
    )


def _read_pieces(lines: Iterable[str], show: Callable[[str], bool]) -> Reply:
    """The answer in server-sent events, shown as it grows. Raises `ValueError` for one that is cut off or of another form."""
    text, pieces, finish, logprob = "", 0, "", 0.0
    usage: Mapping[str, Any] = {}
    for line in lines:
        if not line.startswith("data:"):
            continue  # a comment, or the empty line after an event
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            break
        try:
            event = json.loads(data)
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                finish = choice.get("finish_reason") or finish
                logprob = float(choice.get("logprob") or logprob)
                piece = choice["delta"].get("content") or ""
                text, pieces = text + piece, pieces + bool(piece)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if not show(text):
            finish = "length"
            break
    if not finish:
        raise ValueError("it was cut off")
    tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or pieces)
    if not text:
        raise NoText(finish, *tokens)
    return Reply(
        text=text,
        first_token={},
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        ended=finish != "length",
        logprob=logprob,
    )
