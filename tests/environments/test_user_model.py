"""A user whom a chat model plays: what it is asked, when it stops, and a run that trains against it."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import pytest

from prefloop.configs.environments import EnvironmentSettings
from prefloop.environments.environment import give_environment
from prefloop.environments.user_model import CONTENT, UserModel
from prefloop.errors import InputError
from prefloop.feedback.judges.model import Reply
from prefloop.records import Message, Prompt
from tests.algorithms.small import metrics_of, settings, train

PROMPT = Prompt(content=(Message(role="system", content="Be short."), Message(role="user", content="Hello?")))


class Speaking:
    """Says what it is told to, one after another, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.asked: list[str] = []
        self.seeds: list[int] = []
        self.lock = Lock()  # which cannot be copied, as a client's cannot

    def complete(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        with self.lock:
            self.asked.append(messages[-1].content)
            self.seeds.append(seed)
            text = self.texts[(len(self.asked) - 1) % len(self.texts)]
        return Reply(text=text, first_token={}, prompt_tokens=1, completion_tokens=max_tokens)


def conversation(*said: str) -> list[Message]:
    turns = [Message(role="user" if at % 2 else "assistant", content=text) for at, text in enumerate(said)]
    assert not isinstance(PROMPT.content, str)
    return [*PROMPT.content, *turns]


def test_the_user_reads_the_conversation_and_answers_so_often() -> None:
    speaking = Speaking(" And you?\n", "Why?")
    user = UserModel(speaking, who="You are shy.", answers=2)
    assert user.reset(PROMPT, 7) == PROMPT.content
    assert user.step(conversation("Fine.")) == ([Message(role="user", content="And you?")], 0.0, False)
    assert "You are shy. " in speaking.asked[0]
    assert speaking.asked[0].endswith("System: Be short.\n\nUser: Hello?\n\nAssistant: Fine.\n\nUser:")
    messages, _, done = user.step(conversation("Fine.", "And you?", "Too."))
    assert (messages[0], done) == (Message(role="user", content="Why?"), False)
    assert speaking.asked[1].endswith("Assistant: Fine.\n\nUser: And you?\n\nAssistant: Too.\n\nUser:")
    assert user.step(conversation("Fine.", "And you?", "Too.", "Why?", "So.")) == ([], 0.0, True)
    assert len(speaking.asked) == 2
    assert speaking.seeds == [8, 9]


@pytest.mark.parametrize("text", [f"Thanks! {CONTENT}", "  "])
def test_a_user_who_is_content_or_says_nothing_ends_it(text: str) -> None:
    user = UserModel(Speaking(text))
    user.reset(PROMPT, 0)
    assert user.step(conversation("Fine.")) == ([], 0.0, True)


def test_conversations_share_the_model_and_nothing_else() -> None:
    speaking = Speaking("Go on.")
    user = UserModel(speaking, answers=1)
    other = copy.deepcopy(user)
    for one, seed in ((user, 1), (other, 5)):
        one.reset(PROMPT, seed)
        assert not one.step(conversation("Fine."))[2]
    assert speaking.seeds == [2, 6]


def test_what_makes_no_conversation_is_refused() -> None:
    with pytest.raises(InputError, match="answers is 0; it must be 1 or more"):
        UserModel(Speaking("x"), answers=0)
    with pytest.raises(InputError, match="max_tokens is 0; it must be 1 or more"):
        UserModel(Speaking("x"), max_tokens=0)


def test_a_run_trains_on_conversations_with_it(project: Path) -> None:
    speaking = Speaking("a b", "c")
    config = settings("grpo_environment", project, out="user-model")
    name = give_environment(UserModel(speaking, answers=1))
    environment = EnvironmentSettings(name=name, max_turns=3, max_tokens=config.environment.max_tokens)
    config = replace(config, steps=2, data=replace(config.data, chat=True), environment=environment)
    train(config)
    for row in metrics_of(Path(config.run.out)):
        assert 1 < row["turns"] <= 2
        assert row["score"] != 0
    assert len(speaking.asked) > 10
