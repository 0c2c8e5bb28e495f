"""A user played by a chat model: the policy answers it over several turns, as it will answer people.

A simulated user as in τ-bench (arXiv:2406.12045): a model is told whom it plays, reads the conversation so far, and writes the user's next message,
or a word that says that the user is content. The reward comes from whoever judges the conversation: `reward_model`.
"""

from collections.abc import Sequence
from typing import Protocol

from prefloop.environments.environment import Opening, Step
from prefloop.errors import InputError
from prefloop.records import Message, Prompt

CONTENT = "###STOP###"
"""What the model writes in place of a message when the user is content."""
INSTRUCTIONS = (
    "You play a user who talks with an assistant. {who}Below is the conversation so far. Write the user's next message and nothing else: no name before "
    "it, no quotation marks. If the user has no more to say, write {content}"
)
_NAMES = {"user": "User", "assistant": "Assistant", "tool": "Tool", "system": "System"}


class Spoken(Protocol):
    """A model's answer."""

    @property
    def text(self) -> str:
        """As it was written."""
        ...


class Speaker(Protocol):
    """A chat model that is asked by many threads, such as an `Endpoint` (prefloop.feedback.judges.endpoint)."""

    def complete(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Spoken:
        """Answer; the same seed and messages get the same answer where the model can do that."""
        ...


class UserModel:
    """A conversation with a user whom a chat model plays. All conversations of a run share the model."""

    def __init__(self, model: Speaker, *, who: str = "", answers: int = 2, max_tokens: int = 128) -> None:
        """
        Args:
            model: Asked for the user's messages.
            who: Whom it plays, as sentences that address it: "You are a beginner, and ask for examples."
            answers: Messages that the user writes after the prompt, at most. The policy has one turn more.
            max_tokens: Of each message.

        Raises `InputError` if `answers` or `max_tokens` is below 1.
        """
        for name, value in (("answers", answers), ("max_tokens", max_tokens)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")
        self._model, self._who, self._answers, self._max_tokens = model, who, answers, max_tokens
        self._seed, self._answered = 0, 0

    def __deepcopy__(self, memo: object) -> "UserModel":
        """Another conversation with the same model."""
        return UserModel(self._model, who=self._who, answers=self._answers, max_tokens=self._max_tokens)

    def reset(self, prompt: Prompt, seed: int) -> Opening:
        """The prompt is the user's first message, or a conversation that the policy goes on with."""
        self._seed, self._answered = seed % (1 << 31), 0
        return prompt.content

    def step(self, messages: Sequence[Message]) -> Step:
        """The user's next message. The conversation is over when the user is content, says nothing, or has answered often enough."""
        if self._answered == self._answers:
            return [], 0.0, True
        self._answered += 1
        asked = self._question(messages)
        seed = (self._seed + self._answered) % (1 << 31)
        text = self._model.complete(asked, max_tokens=self._max_tokens, seed=seed).text.strip()
        if not text or CONTENT in text:
            return [], 0.0, True
        return [Message(role="user", content=text)], 0.0, False

    def _question(self, messages: Sequence[Message]) -> list[Message]:
        """One message with the conversation as text: templates refuse one that begins with the assistant, as the user's side would."""
        who = f"{self._who.strip()} " if self._who.strip() else ""
        told = INSTRUCTIONS.format(who=who, content=CONTENT)
        said = "\n\n".join(f"{_NAMES[message.role]}: {message.content}" for message in messages)
        return [Message(role="user", content=f"{told}\n\n{said}\n\nUser:")]
