"""What a judge asks: a chat model that answers messages, with the log-probabilities of its first token where it has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from prefloop.errors import InputError
from prefloop.records import Message


class CallFailed(Exception):
    """A call gave no answer, after all attempts; the message says what went wrong the last time."""


class OverBudget(InputError):
    """The limit of calls or cost is reached. What was judged before is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a chat model answered."""

    text: str
    first_token: Mapping[str, float]
    """Token -> log-probability, the likeliest alternatives for the first token of the answer; empty if the model gives none."""
    prompt_tokens: int
    completion_tokens: int
    ended: bool = True
    """Whether the model ended it; otherwise the limit of tokens cut it."""
    logprob: float = 0.0
    """Of the whole answer, where the model says it (as `prefloop`'s own server does); 0 otherwise."""


class ChatModel(Protocol):
    """Anything that answers messages. Must be safe to call from several threads."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its answers depend on besides the messages, as JSON types: address, model, sampling."""
        ...

    def complete(self, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """Answer. Raises `CallFailed` when it cannot, `OverBudget` when it may not, `InputError` when the settings are wrong."""
        ...


@runtime_checkable
class AnswersByProbability(Protocol):
    """A model that gives the probability of whole answers, many questions at a time."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """As a `ChatModel`'s."""
        ...

    def probabilities(self, asked: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[list[float]]:
        """For each question, the probability that its answer begins with each of `answers`, and with no longer one of them."""
        ...
