"""Environments of the `verifiers` package, of its 0.1 releases: `MultiTurnEnv` and what derives from it, `ToolEnv` among them.

Follows verifiers 0.1.14. There an environment makes the whole rollout with a client of an inference server; here it is asked for one answer at a
time, so that the policy's tokens stay as they were drawn: `init_state`, `setup_state`, then `is_completed` and `get_prompt_messages` after every turn,
and at the end `render_completion` and the rubric's `score_rollout`. The releases from 0.2 on run programs that call the model themselves; they
cannot be asked for one answer at a time.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefloop.environments.environment import Messages, Step
from prefloop.errors import InputError
from prefloop.records import Message, Prompt, ToolCall

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_INPUTS = ("answer", "info", "task", "example_id")
"""Columns of a row that verifiers' rubrics and environments read."""


def rows_of(environment: Any) -> list[dict[str, Any]]:
    """The environment's own data set as rows for `data=`: a chat as `prompt`, and the columns that its rubric reads."""
    rows = [dict(row) for row in environment.get_dataset()]
    return [
        {"prompt": row["prompt"], **{name: row[name] for name in _INPUTS if row.get(name) is not None}}
        for row in rows
    ]


def hermes_calls(text: str) -> list[ToolCall]:
    """Tool calls as Hermes and Qwen models write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. What is no JSON object of these is none."""
    calls = []
    for number, found in enumerate(_CALL.findall(text)):
        try:
            call = json.loads(found)
            calls.append(
                ToolCall(name=call["name"], arguments=json.dumps(call["arguments"]), id=f"call_{number}")
            )
        except (ValueError, KeyError, TypeError):
            continue
    return calls


class VerifiersEnvironment:
    """A conversation with a `verifiers` environment. Its rubric's reward is given at the end."""

    def __init__(
        self,
        environment: Any,
        *,
        calls: Callable[[str], Sequence[ToolCall]] = hermes_calls,
        client: Any = None,
        messages_of: Callable[[Sequence[Mapping[str, Any]]], Any] | None = None,
    ) -> None:
        """
        Args:
            environment: What `verifiers.load_environment` gives; many conversations may share it.
            calls: Finds the tool calls in a turn of the policy.
            client: For environments or judges that ask a model themselves; without one such a call fails.
            messages_of: Chat messages to verifiers' own; by default those of the installed package.
        """
        self._environment, self._calls = environment, calls
        self._client = client if client is not None else _no_client()
        self._messages_of = messages_of or _normalised()
        self._state: Any = None

    async def reset(self, prompt: Prompt) -> Messages:
        """The messages of the environment's own prompt for this row."""
        if isinstance(prompt.content, str):
            raise InputError(
                "a verifiers environment reads chats, but the prompt is text; give data=rows_of(environment), or data.chat true"
            )
        row = {name: prompt.columns[name] for name in _INPUTS if name in prompt.columns}
        given = {"example_id": 0, **row, "prompt": [message.to_json() for message in prompt.content]}
        self._state = await self._environment.init_state(given, self._client, "policy", None)
        await self._environment.setup_state(self._state)
        return [_message(message) for message in await self._environment.get_prompt_messages(self._state)]

    async def step(self, messages: Sequence[Message]) -> Step:
        """The environment's answer, or the rubric's reward if the conversation is over."""
        state, text = self._state, messages[-1].content
        calls = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in self._calls(text)
        ]
        before = self._messages_of([message.to_json() for message in messages[:-1]])
        spoken = self._messages_of(
            [{"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}]
        )
        turn = {
            "prompt": before,
            "completion": spoken,
            "response": None,
            "tokens": None,
            "reward": None,
            "advantage": None,
            "is_truncated": False,
            "trajectory_id": state["trajectory_id"],
            "extras": {},
        }
        await self._environment.add_trajectory_step(state, turn)
        answer: list[Message] = []
        if not await self._environment.is_completed(state):
            whole = await self._environment.get_prompt_messages(state)
            answer = [_message(message) for message in whole[len(messages) :]]
            if not await self._environment.is_completed(state):
                return answer, 0.0, False
        await self._environment.render_completion(state)
        await self._environment.rubric.score_rollout(state)
        return answer, state["reward"], True

    async def close(self) -> None:
        """Run the environment's and the rubric's clean-up."""
        if self._state is not None:
            await self._environment.cleanup(self._state)
            await self._environment.rubric.cleanup(self._state)


def _message(message: Any) -> Message:
    """A message of verifiers, a dict or a model of pydantic. Raises `InputError` if its content is not text."""
    dump = getattr(message, "model_dump", None)
    fields: Any = dump(exclude_none=True) if callable(dump) else message
    content = fields.get("content", "")
    if isinstance(content, list) and all(part.get("type") == "text" for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InputError(
            f"the environment's message of role {fields.get('role')} is not text; prefloop's policies read text"
        )
    return Message(role=fields["role"], content=content, tool_call_id=fields.get("tool_call_id", ""))


def _normalised() -> Callable[[Sequence[Mapping[str, Any]]], Any]:
    from verifiers.utils.message_utils import normalize_messages  # pyright: ignore[reportMissingImports]  an extra

    return lambda messages: normalize_messages(list(messages), field_name="messages")


def _no_client() -> Any:
    from verifiers.types import ClientConfig  # pyright: ignore[reportMissingImports]

    return ClientConfig(api_base_url="http://127.0.0.1:9/v1")
