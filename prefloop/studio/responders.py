"""Who answers in a live chat: models behind an OpenAI-compatible address, or a checkpoint served from a process of its own. No torch here."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from prefloop.configs.label import ChatAnswers
from prefloop.errors import InputError
from prefloop.feedback.judges.endpoint import Endpoint, Limits, RequestForm
from prefloop.feedback.judges.model import CallFailed
from prefloop.records import Message

DRAWS = 3
"""How often both answers are drawn until they differ."""
KEY_VARIABLE = "PREFLOOP_CHAT_KEY"
"""Environment variable with the key of our own model process."""
_SERVER = "prefloop.rollout.chat_server"
_TOO_LONG = ("context_length", "maximum context", "too long")


Show = Callable[[str], bool]
"""Is given an answer as it grows, and says whether to go on."""


def unseen(text: str) -> bool:
    """The `Show` of those whom nobody watches."""
    return True


class NoAnswer(Exception):
    """There are no two answers to compare; the message is for the annotator and names no model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An answer, and what it was drawn with."""

    text: str
    policy: str
    weights_sha256: str
    seed: int
    temperature: float
    tokens: int
    ended: bool
    logprob: float


class Responder(Protocol):
    """Something that answers messages. Called from several threads at once."""

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        """Answer the last message, shown as it grows. Raises `NoAnswer` if there is none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A model at an address: what worker processes are told of it."""

    base_url: str
    model: str
    """As the address knows it."""
    policy: str
    """As the store knows it."""
    weights_sha256: str = ""
    key_variable: str = ""


class EndpointResponder:
    """A `Responder` over HTTP, through the client of the judges: retries, back-off, time-outs."""

    def __init__(self, served: Served, answers: ChatAnswers) -> None:
        self._served, self._answers = served, answers
        self._endpoint = Endpoint(
            served.base_url,
            served.model,
            key=os.environ.get(served.key_variable, "") if served.key_variable else "",
            limits=Limits(timeout=answers.timeout, attempts=answers.attempts),
            form=RequestForm(temperature=answers.temperature, logprobs=False),
        )

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        """Answer the last message, shown as it grows."""
        try:
            reply = self._endpoint.stream(
                messages, max_tokens=self._answers.max_new_tokens, seed=seed, show=show
            )
        except CallFailed as error:
            raise NoAnswer("the model does not answer; send it again in a moment") from error
        except InputError as error:
            if any(sign in str(error) for sign in _TOO_LONG):
                raise NoAnswer("the conversation is too long for the model; start a new one") from error
            raise NoAnswer(
                "the model refuses to answer; tell an admin: the log of the server says why"
            ) from error
        return Candidate(
            text=reply.text,
            policy=self._served.policy,
            weights_sha256=self._served.weights_sha256,
            seed=seed,
            temperature=self._answers.temperature,
            tokens=reply.completion_tokens,
            ended=reply.ended,
            logprob=reply.logprob,
        )


def _drawn(responders: Sequence[Responder]) -> tuple[Responder, Responder]:
    """Two of several, in a random order; the only one twice."""
    if len(responders) == 1:
        return responders[0], responders[0]
    first, second = secrets.SystemRandom().sample(responders, 2)
    return first, second


def two_answers(
    responders: Sequence[Responder], messages: Sequence[Message], shows: tuple[Show, Show] = (unseen, unseen)
) -> tuple[Candidate, Candidate]:
    """Two different answers: of two models that are drawn, one each; of one model by two seeds. Each is shown as it grows. Raises `NoAnswer`."""
    drawn = _drawn(responders)
    texts, stopped = {""}, [False]

    def watched(show: Show) -> Show:
        def one(text: str) -> bool:
            on = show(text)
            stopped[0] |= not on
            return on

        return one

    with ThreadPoolExecutor(2) as pool:
        for _ in range(DRAWS):
            asked = [
                pool.submit(answer.reply, messages, seed=secrets.randbelow(2**31), show=watched(show))
                for answer, show in zip(drawn, shows, strict=True)
            ]
            a, b = (answer.result() for answer in asked)
            texts = {a.text.strip(), b.text.strip()}
            if all(texts) and len(texts) == 2:
                return a, b
            if stopped[0]:
                raise NoAnswer("they were stopped before there were two different ones; send it again")
    if not all(texts):
        raise NoAnswer("the model gave an empty answer; say it differently")
    raise NoAnswer("the model said the same twice, so there is nothing to compare; say it differently")


@contextmanager
def serving(models: Sequence[str], answers: ChatAnswers) -> Iterator[tuple[Served, ...]]:
    """The models a user named, ready to answer: addresses as they are, checkpoints each in a process that ends with this one. Their policies
    are called as the user did.

    Raises `InputError` for a model that cannot be loaded.
    """
    processes: list[subprocess.Popen[str]] = []
    try:
        found = []
        for given in models:
            if given.startswith(("http://", "https://")):
                address, _, model = given.partition("#")
                found.append(
                    Served(base_url=address, model=model, policy=model, key_variable=answers.key_variable)
                )
                continue
            os.environ.setdefault(KEY_VARIABLE, secrets.token_urlsafe(24))
            process, port, weights = _start(given, answers.device)
            processes.append(process)
            found.append(
                Served(
                    base_url=f"http://127.0.0.1:{port}/v1",
                    model=given,
                    policy=given,
                    weights_sha256=weights,
                    key_variable=KEY_VARIABLE,
                )
            )
        yield tuple(found)
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()  # which ends it
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(model: str, device: str) -> tuple[subprocess.Popen[str], int, str]:
    """A process with the model, its port, and the hash of its weights."""
    # A group of its own: Ctrl-C is for the studio, which ends it when the last answer is stored.
    process = subprocess.Popen(
        [sys.executable, "-m", _SERVER, model, "--device", device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    if not line:
        process.stdin.close()
        process.wait()
        raise InputError(f"chat is {model!r}, which cannot be served; the line above says why")
    answer = json.loads(line)
    return process, int(answer["port"]), str(answer["weights_sha256"])
