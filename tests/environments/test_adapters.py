"""Adapters, against small objects with the interfaces of `verifiers` 0.1 and OpenEnv's client."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from prefloop.environments.environment import answer_in, opening_in
from prefloop.environments.openenv import OpenEnvEnvironment, as_text
from prefloop.environments.tools import ToolLimits, run_python
from prefloop.environments.verifiers_package import VerifiersEnvironment, hermes_calls, rows_of
from prefloop.errors import InputError
from prefloop.records import Message, Prompt


def say(role: str, content: str) -> Message:
    return Message.from_json({"role": role, "content": content})


class Counter:
    """As OpenEnv's `EnvClient`: counts to the number of an action; methods that may be awaited, or not."""

    def __init__(self, *, awaited: bool) -> None:
        self.awaited, self.total, self.calls = awaited, 0, list[str]()

    def reset(self, **options: Any) -> Any:
        self.calls.append(f"reset {options}")
        return self._given(SimpleNamespace(observation={"total": 0, "done": False}, reward=None, done=False))

    def step(self, action: Mapping[str, int]) -> Any:
        self.total += action["add"]
        done = self.total >= 3
        return self._given(
            SimpleNamespace(observation={"total": self.total}, reward=1.0 if done else None, done=done)
        )

    def close(self) -> Any:
        self.calls.append("close")
        return self._given(None)

    def _given(self, value: Any) -> Any:
        async def later() -> Any:
            return value

        return later() if self.awaited else value


@pytest.mark.parametrize("awaited", [True, False])
def test_an_openenv_client_plays(awaited: bool) -> None:
    client = Counter(awaited=awaited)
    environment = OpenEnvEnvironment(client, action=lambda text: {"add": int(text)})

    async def play() -> None:
        opening = opening_in(
            await environment.reset(Prompt(content="Count."), seed=(1 << 40) + 5), what="reset"
        )
        assert opening == (say("user", 'Count.\n\n{"total": 0}'),)
        first = answer_in(await environment.step([*opening, say("assistant", "2")]), what="step")
        assert first.messages == (say("user", '{"total": 2}'),)
        assert (first.reward, first.done) == (0.0, False)
        last = answer_in(await environment.step([*opening, say("assistant", "1")]), what="step")
        assert (last.reward, last.done) == (1.0, True)
        await environment.close()

    asyncio.run(play())
    assert client.calls == ["reset {'seed': 5}", "close"]


def test_observations_are_text_without_what_is_no_observation() -> None:
    assert as_text("as it is") == "as it is"
    assert as_text(SimpleNamespace(board="xo", reward=1.0, done=True, metadata={})) == '{"board": "xo"}'


class Guess:
    """As `MultiTurnEnv` of verifiers 0.1: the answer of the row must be guessed in three turns; a tool call is answered by a tool."""

    def __init__(self) -> None:
        self.rubric, self.cleaned = self, 0

    def get_dataset(self) -> list[dict[str, Any]]:
        return [
            {"prompt": [{"role": "user", "content": "Which?"}], "answer": "b", "example_id": 4, "task": None}
        ]

    async def init_state(
        self, row: dict[str, Any], client: Any, model: str, sampling_args: Any
    ) -> dict[str, Any]:
        assert row["answer"] == "b"
        return {
            "prompt": row["prompt"],
            "answer": row["answer"],
            "trajectory": [],
            "trajectory_id": "t",
            "reward": None,
        }

    async def setup_state(self, state: dict[str, Any]) -> None:
        state["ready"] = True

    async def add_trajectory_step(self, state: dict[str, Any], turn: dict[str, Any]) -> None:
        state["trajectory"].append(turn)

    async def is_completed(self, state: dict[str, Any]) -> bool:
        turns = state["trajectory"]
        return len(turns) == 3 or state["answer"] in turns[-1]["completion"][-1]["content"]

    async def get_prompt_messages(self, state: dict[str, Any]) -> list[Any]:
        if not state["trajectory"]:
            return state["prompt"]
        turn = state["trajectory"][-1]
        calls = turn["completion"][-1].get("tool_calls")
        answer: Any = SimpleNamespace(
            model_dump=lambda exclude_none: {"role": "user", "content": [{"type": "text", "text": "No."}]}
        )
        if calls:
            answer = {"role": "tool", "content": calls[0]["arguments"], "tool_call_id": calls[0]["id"]}
        return [*turn["prompt"], *turn["completion"], answer]

    async def render_completion(self, state: dict[str, Any]) -> None:
        state["completion"] = state["trajectory"][-1]["completion"]

    async def score_rollout(self, state: dict[str, Any]) -> None:
        state["reward"] = float(state["completion"][-1]["content"] == state["answer"])

    async def cleanup(self, state: dict[str, Any]) -> None:
        self.cleaned += 1


def test_a_verifiers_environment_plays() -> None:
    theirs = Guess()
    [row] = rows_of(theirs)
    assert row == {"prompt": [{"role": "user", "content": "Which?"}], "answer": "b", "example_id": 4}
    prompt = Prompt(content=(say("user", "Which?"),), columns=row)
    environment = VerifiersEnvironment(theirs, client="none", messages_of=list)

    async def play(turns: Sequence[str]) -> list[tuple[list[str], float, bool]]:
        chat = list(opening_in(await environment.reset(prompt), what="reset"))
        found = []
        for turn in turns:
            chat.append(say("assistant", turn))
            answer = answer_in(await environment.step(chat), what="step")
            chat += answer.messages
            found.append(([message.content for message in answer.messages], answer.reward, answer.done))
        await environment.close()
        return found

    call = '<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'
    assert asyncio.run(play(["a", call, "b"])) == [
        (["No."], 0.0, False),
        (['{"at": 1}'], 0.0, False),
        ([], 1.0, True),
    ]
    assert asyncio.run(play(["a", "a", "a"]))[-1] == ([], 0.0, True)
    assert theirs.cleaned == 4


def test_a_verifiers_environment_reads_chats() -> None:
    environment = VerifiersEnvironment(Guess(), client="none", messages_of=list)
    with pytest.raises(InputError, match="reads chats, but the prompt is text"):
        asyncio.run(environment.reset(Prompt(content="Which?")))


def test_calls_that_are_none_are_left() -> None:
    text = '<tool_call>{"name": "a", "arguments": {}}</tool_call> <tool_call>{"name": 1}</tool_call> <tool_call>{x}</tool_call>'
    assert [(call.name, call.arguments) for call in hermes_calls(text)] == [("a", "{}")]


def test_a_program_is_a_tool() -> None:
    async def several() -> list[str]:
        limits = ToolLimits(seconds=2, unconfined=True)
        programs = ["print(6 * 7)", "1 / 0", "x = 1", "import sys; sys.exit()"]
        return list(await asyncio.gather(*(run_python(program, limits) for program in programs)))

    assert asyncio.run(several()) == ["42", "ZeroDivisionError: division by zero", "no output", "no output"]
