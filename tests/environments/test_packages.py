"""The adapters on the packages themselves: a `ToolEnv` of verifiers, and an OpenEnv server that a client plays over a socket.

Neither package is a dependency. `pip install 'verifiers>=0.1.14,<0.2' 'openenv>=0.10'` into an environment with prefloop, and these tests run.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import prefloop as pl
from prefloop.environments.environment import answer_in, opening_in
from prefloop.environments.openenv import OpenEnvEnvironment
from prefloop.environments.verifiers_package import VerifiersEnvironment, rows_of
from prefloop.records import Message, Prompt
from tests.runtime.processes import free_port
from tests.tiny_project import make_model


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


@pytest.fixture
def calculator() -> Any:
    """A conversation with a calculator of three turns at most, whose rubric wants the sum as the last word."""
    from datasets import Dataset

    vf: Any = import_module("verifiers")

    rows = [{"question": f"What is {n} + 4?", "answer": str(n + 4), "info": {"n": n}} for n in range(4)]

    def exact(completion: Any, answer: str) -> float:
        last = completion[-1]
        return float((last["content"] if isinstance(last, dict) else last.content).split()[-1:] == [answer])

    return vf.ToolEnv(
        tools=[add], max_turns=3, dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[exact])
    )


async def converse(environment: Any, prompt: Prompt, turns: Sequence[str], **options: Any) -> list[Any]:
    """What is answered to each turn, its reward, and whether the conversation is over."""
    chat = list(opening_in(await environment.reset(prompt, **options), what="reset"))
    found: list[Any] = [[(message.role, message.content) for message in chat]]
    for turn in turns:
        chat.append(Message(role="assistant", content=turn))
        answer = answer_in(await environment.step(chat), what="step")
        chat += answer.messages
        found.append(
            ([(message.role, message.content) for message in answer.messages], answer.reward, answer.done)
        )
    await environment.close()
    return found


@needs("verifiers")
def test_a_tool_environment_of_verifiers_plays(calculator: Any) -> None:
    row = rows_of(calculator)[2]
    assert (row["answer"], row["prompt"][-1]["content"]) == ("6", "What is 2 + 4?")
    prompt = Prompt(content=tuple(map(Message.from_json, row["prompt"])), columns=row)
    call = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 4}}</tool_call>'
    opening, tool, end = asyncio.run(converse(VerifiersEnvironment(calculator), prompt, [call, "It is 6"]))
    assert opening == [("user", "What is 2 + 4?")]
    assert tool == ([("tool", "6")], 0.0, False)
    assert end == ([], 1.0, True)
    wrong = asyncio.run(converse(VerifiersEnvironment(calculator), prompt, [call, call, "It is 7"]))
    assert wrong[-1] == ([], 0.0, True)


@needs("verifiers")
def test_grpo_trains_in_an_environment_of_verifiers(calculator: Any, tmp_path: Path) -> None:
    run = pl.grpo(
        model=str(make_model(tmp_path / "model")),
        data=rows_of(calculator),
        environment=lambda: VerifiersEnvironment(calculator),
        steps=2,
        batch_prompts=2,
        completions_per_prompt=2,
        sampling={"max_new_tokens": 8},
        out=tmp_path / "out",
    )
    assert [row["step"] for row in run.metrics] == [1, 2]
    assert all(row["score"] == 0.0 for row in run.metrics)


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of an OpenEnv server: it says what it was told, and gives a tenth for each letter; three turns end it."""
    import uvicorn
    from openenv.core.env_server.http_server import create_app  # pyright: ignore[reportMissingImports]
    from openenv.core.env_server.interfaces import Environment  # pyright: ignore[reportMissingImports]
    from openenv.core.env_server.types import (  # pyright: ignore[reportMissingImports]
        Action,
        Observation,
        State,
    )

    class Say(Action):
        message: str

    class Heard(Observation):
        echoed: str = ""

    class Echo(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self.turns = 0

        def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> Any:
            self.turns = 0
            return Heard(echoed=f"seed {seed}", done=False, reward=0.0)

        def step(self, action: Any, timeout_s: float | None = None, **options: Any) -> Any:
            self.turns += 1
            return Heard(
                echoed=action.message, done=self.turns == 3, reward=round(len(action.message) / 10, 6)
            )

        @property
        def state(self) -> Any:
            return State(episode_id="e", step_count=self.turns)

    port = free_port()
    app = create_app(Echo, Say, Heard, env_name="echo", max_concurrent_envs=8)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def client_of(address: str) -> OpenEnvEnvironment:
    from openenv import GenericEnvClient  # pyright: ignore[reportMissingImports]

    return OpenEnvEnvironment(GenericEnvClient(base_url=address), action=lambda text: {"message": text})


@needs("openenv")
def test_an_openenv_server_plays(echo: str) -> None:
    found = asyncio.run(converse(client_of(echo), Prompt(content="Talk."), ["a", "bcd", "e"], seed=7))
    assert found == [
        [("user", 'Talk.\n\n{"echoed": "seed 7"}')],
        ([("user", '{"echoed": "a"}')], 0.1, False),
        ([("user", '{"echoed": "bcd"}')], 0.3, False),
        ([("user", '{"echoed": "e"}')], 0.1, True),
    ]


@needs("openenv")
def test_grpo_trains_on_an_openenv_server(echo: str, tmp_path: Path) -> None:
    run = pl.grpo(
        model=str(make_model(tmp_path / "model")),
        data=[{"prompt": [{"role": "user", "content": f"Talk of {n}."}]} for n in range(4)],
        environment=lambda: client_of(echo),
        steps=2,
        batch_prompts=2,
        completions_per_prompt=2,
        sampling={"max_new_tokens": 8},
        out=tmp_path / "out",
    )
    assert [row["step"] for row in run.metrics] == [1, 2]
    assert all(row["score"] > 0 for row in run.metrics)
