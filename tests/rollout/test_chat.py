"""Talking to a model, with input from a pipe and from a test's hands."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.chat import ChatConfig
from prefloop.configs.common import Compute, Sampling
from prefloop.data import load_demonstrations
from prefloop.errors import InputError
from prefloop.models.load import load_policy
from prefloop.records import Conversation, Message, Prompt
from prefloop.rollout import chat as module
from prefloop.rollout.chat import OpenChat
from prefloop.text import encode_prompt, load_tokenizer
from tests.tiny_project import make_model

TOKENS = 5


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("plain") / "model", chat=False)


class Asked:
    """A talk that notes the prompts its model was given, and answers with given words."""

    def __init__(
        self, model: Path, monkeypatch: pytest.MonkeyPatch, *, answers: list[str], system: str = ""
    ) -> None:
        self.out = io.StringIO()
        self.prompts: list[list[int]] = []
        compute = Compute(device="cpu", attention="padded")
        config = ChatConfig(
            model=str(model), sampling=Sampling(max_new_tokens=TOKENS), compute=compute, system=system
        )
        self.tokenizer = load_tokenizer(model)
        self.talk = OpenChat(config, load_policy(str(model), compute), self.tokenizer, self.out)
        words = iter(answers)

        def stream(model: object, prompt: list[int], **kwargs: object) -> list[Any]:
            self.prompts.append(prompt)
            return [
                *self.tokenizer.encode(next(words), add_special_tokens=False),
                self.tokenizer.eos_token_id,
            ]

        monkeypatch.setattr(module, "stream", stream)

    def ids(self, *messages: tuple[str, str]) -> list[int]:
        """A chat's prompt."""
        content = tuple(Message(role=role, content=text) for role, text in messages)  # pyright: ignore[reportArgumentType]
        return encode_prompt(self.tokenizer, Prompt(content=content))


def test_a_chat_remembers_and_forgets(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(chatty, monkeypatch, answers=["one", "two", "three"], system="Be kind.")
    system = ("system", "Be kind.")
    for line in ("a", "", "//b", "/reset", "c"):
        assert asked.talk.hear(line)
    assert asked.prompts == [
        asked.ids(system, ("user", "a")),
        asked.ids(system, ("user", "a"), ("assistant", "one"), ("user", "/b")),
        asked.ids(system, ("user", "c")),
    ]
    assert asked.out.getvalue() == "one\ntwo\nthree\n"


def test_without_a_template_each_line_stands_alone(
    plain: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = Asked(plain, monkeypatch, answers=["x", "y"])
    asked.talk.hear("Once")
    asked.talk.hear("Twice")
    assert asked.prompts == [
        encode_prompt(asked.tokenizer, Prompt(content=text)) for text in ("Once", "Twice")
    ]
    asked.talk.hear(f"/save {tmp_path / 'said.jsonl'}")
    records = load_demonstrations(tmp_path / "said.jsonl").records
    assert [(r.prompt.content, r.completion) for r in records] == [("Once", "x"), ("Twice", "y")]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="has no chat template"):
        Asked(plain, monkeypatch, answers=[], system="Be kind.")


def test_a_saved_chat_can_be_trained_on(
    chatty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = Asked(chatty, monkeypatch, answers=["hi there"])
    with pytest.raises(InputError, match="nothing to save yet"):
        asked.talk.hear(f"/save {tmp_path / 'said.jsonl'}")
    asked.talk.hear("hello")
    asked.talk.hear(f"/save {tmp_path / 'said.jsonl'}")
    turns = (Message(role="user", content="hello"), Message(role="assistant", content="hi there"))
    assert load_demonstrations(tmp_path / "said.jsonl").records == (Conversation(messages=turns),)
    with pytest.raises(InputError, match="exists already"):
        asked.talk.hear(f"/save {tmp_path / 'said.jsonl'}")


def test_a_full_chat_forgets_its_oldest_turn_and_says_so(
    chatty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(chatty, monkeypatch, answers=["o" * 40] * 8)
    for number in range(8):
        asked.talk.hear(f"{number} " + "word " * 6)
    said = asked.out.getvalue()
    assert "[the context is full: the oldest turn is dropped]" in said
    assert all(len(prompt) + TOKENS <= 256 for prompt in asked.prompts)
    with pytest.raises(InputError, match="the model reads at most 256"):
        asked.talk.hear("word " * 200)


def test_commands(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(chatty, monkeypatch, answers=[])
    assert asked.talk.hear("/help")
    assert "/temperature" in asked.out.getvalue()
    for line, message in (
        ("/tempreature 1", "/tempreature is not a command"),
        ("/temperature warm", "temperature is 'warm'; it must be a number"),
        ("/temperature -1", "temperature is -1.0"),
        ("/save", "/save has no file"),
    ):
        with pytest.raises(InputError, match=message):
            asked.talk.hear(line)
    assert not asked.talk.hear("/quit")


def test_control_characters_do_not_reach_the_terminal(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(chatty, monkeypatch, answers=["\x1b[2J né"])
    asked.talk.hear("x")
    assert asked.out.getvalue() == "\\x1b[2J né\n"


def test_stopping_an_answer_keeps_the_chat(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(chatty, monkeypatch, answers=["next"])
    after = module.stream

    def stopped(model: object, prompt: list[int], **kwargs: object) -> object:
        yield asked.tokenizer.encode("a", add_special_tokens=False)[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "stream", stopped)
    assert asked.talk.hear("x")
    assert asked.out.getvalue() == "a [stopped]\n"
    monkeypatch.setattr(module, "stream", after)
    asked.talk.hear("y")
    assert asked.prompts == [asked.ids(("user", "x"), ("assistant", "a"), ("user", "y"))]


def test_from_a_pipe(chatty: Path, tmp_path: Path) -> None:
    """Lines in, answers out, the end of the input ends it; the same words get the same answers."""
    command = [sys.executable, "-m", "prefloop", "chat", str(chatty), f"--sampling.max_new_tokens={TOKENS}"]
    done = subprocess.run(
        [*command, "--compute.device", "cpu"],
        input="Hello\n/temperature 0\nAgain\n/save said.jsonl\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    saved = done.stdout.splitlines()[-1]
    assert saved == "[saved to said.jsonl]"
    (record,) = load_demonstrations(tmp_path / "said.jsonl").records
    assert isinstance(record, Conversation)
    assert [turn.content for turn in record.messages if turn.role == "user"] == ["Hello", "Again"]


def test_a_mistake_in_a_pipe_ends_it(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/nonsense\nHello\n"))
    with pytest.raises(InputError, match="/nonsense is not a command"):
        module.chat(ChatConfig(model=str(chatty), compute=Compute(device="cpu")))


def test_an_answer_is_as_long_as_the_models_positions_allow(chatty: Path) -> None:
    """256 positions, and 256 tokens an answer as it is set unless said otherwise."""
    compute = Compute(device="cpu", attention="padded")
    config = ChatConfig(model=str(chatty), compute=compute)
    out = io.StringIO()
    talk = OpenChat(config, load_policy(str(chatty), compute), load_tokenizer(chatty), out)
    room = 256 - len(
        encode_prompt(load_tokenizer(chatty), Prompt(content=(Message(role="user", content="hi"),)))
    )
    assert talk.hear("hi")
    assert f"[cut at {room} tokens]" in out.getvalue() or "[cut" not in out.getvalue()
    with pytest.raises(InputError, match="max_position_embeddings"):
        talk.hear("word " * 200)
