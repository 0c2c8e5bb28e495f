"""What answers a policy in a conversation: a tool, a user model, a game."""

import copy
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from prefloop.configs.functions import call, find_function, give_function, number_in, shown
from prefloop.errors import InputError
from prefloop.records import ROLES, Message, Prompt

Messages = Sequence[Message | Mapping[str, Any]]
"""Messages as records, or as dicts of `role` and `content` (and the other fields of `Message`)."""
Opening = str | Messages
"""What the policy answers first, as messages or as text of the user; a prompt's `content` is one or the other."""
Step = tuple[Messages, float, bool]
"""What others say next, the reward of the policy's turn, and whether the conversation is over."""


class Environment(Protocol):
    """Answers the policy in one conversation. Methods may be `async`; others run in threads, many conversations at once.

    `close(self)`, where there is one, is called when the conversation is over.
    """

    def reset(self, prompt: Prompt) -> "Opening | Awaitable[Opening]":
        """What the policy answers first, the same for all conversations of a prompt. The row of the prompt is in `prompt.columns`.

        With a parameter `seed` it is given a number that belongs to the prompt's place in the run, whatever else is random.
        """
        ...

    def step(self, messages: Sequence[Message]) -> "Step | Awaitable[Step]":
        """Answer the policy, whose turn is the last of the messages, which are the whole conversation."""
        ...


Maker = Callable[[], Environment]
"""Makes the environment of one conversation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentAnswer:
    """A checked `Step`."""

    messages: tuple[Message, ...]
    reward: float
    done: bool


def give_environment(value: Any) -> str:
    """A name for an environment that is given by value, as settings hold one: a class, a function that makes one, or an object, which is copied for every conversation.

    Raises `InputError` if it is none of them.
    """
    if isinstance(value, type) or not plays(value):
        if not callable(value):
            raise InputError(
                f"environment is {shown(value)}; give a class with reset and step, a function that makes such an object, or the object"
            )
        return give_function(value)

    def copied() -> Any:
        return copy.deepcopy(value)

    copied.__module__, copied.__qualname__ = type(value).__module__, type(value).__qualname__
    return give_function(copied)


def open_environment(name: str) -> Maker:
    """What makes the environments of a run. Raises `InputError` if the name is wrong, or what it makes has no `reset` and `step`."""
    found = find_function(name, what="environment")

    def make() -> Environment:
        made = call(found, what=f"environment {name}")
        if not plays(made):
            raise InputError(
                f"environment {name} makes {shown(made)} of type {type(made).__name__}; it must have the methods reset(prompt) and step(messages)"
            )
        return cast(Environment, made)

    make()
    return make


def plays(value: Any) -> bool:
    """Whether it has the methods of an environment."""
    return callable(getattr(value, "reset", None)) and callable(getattr(value, "step", None))


def takes_seed(environment: Environment) -> bool:
    """Whether its `reset` has a parameter `seed`."""
    return "seed" in inspect.signature(environment.reset).parameters


def opening_in(result: object, *, what: str) -> tuple[Message, ...]:
    """What `reset` returned as messages, text as one of the user. Raises `InputError` unless the policy can speak next."""
    given = [Message(role="user", content=result)] if isinstance(result, str) else result
    messages = _messages_in(given, what=what)
    if not messages or messages[-1].role == "assistant":
        last = "no message" if not messages else "a message of the assistant last"
        raise InputError(
            f"{what} returned {last}; it must return the messages that the policy answers, for example those of the prompt"
        )
    return messages


def answer_in(result: object, *, what: str) -> EnvironmentAnswer:
    """What `step` returned, checked. Raises `InputError` that names what is wrong."""
    if not isinstance(result, tuple) or len(result) != 3:
        raise InputError(f"{what} returned {shown(result)}; it must return (messages, reward, done)")
    messages, reward, done = result
    checked = _messages_in(messages, what=what)
    if not isinstance(done, bool):
        raise InputError(f"{what} returned {shown(done)} as done; it must be True or False")
    if any(message.role == "assistant" for message in checked):
        raise InputError(
            f"{what} returned a message of the assistant, which is the policy; return what others say"
        )
    if not (checked or done):
        raise InputError(
            f"{what} returned no message and done False, so the policy would answer itself; return a message, or done True"
        )
    return EnvironmentAnswer(
        messages=checked, reward=number_in(reward, what=what, where="the reward"), done=done
    )


def _messages_in(result: object, *, what: str) -> tuple[Message, ...]:
    if isinstance(result, str | bytes | Mapping | Message) or not isinstance(result, Sequence):
        raise InputError(f"{what} returned {shown(result)} as messages; it must be a list of them")
    return tuple(_message(item, place, what=what) for place, item in enumerate(result, start=1))


def _message(item: object, place: int, *, what: str) -> Message:
    if isinstance(item, Message):
        return item
    if not (isinstance(item, Mapping) and item.get("role") in ROLES and isinstance(item.get("content"), str)):
        raise InputError(
            f"{what} returned {shown(item)} as message {place}; it must have a role ({', '.join(ROLES)}) and a content of text (the content of a prompt "
            "that is a chat is messages already)"
        )
    try:
        return Message.from_json(item)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{what} returned {shown(item)} as message {place}, whose fields are not a message's ({error})"
        ) from error
