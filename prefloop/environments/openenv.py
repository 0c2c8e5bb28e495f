"""OpenEnv environments (https://github.com/meta-pytorch/OpenEnv): servers that a client resets and steps with actions.

Follows `EnvClient` of openenv 0.10: `reset(**options)`, `step(action)` and `close()`, each of which may be awaited or not; the first two give
an `observation`, a `reward` and `done`.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.environments.environment import Messages, Step
from prefloop.records import Message, Prompt

Observed = Callable[[Any], str]
"""An observation to the text that the policy reads."""


def seeded(prompt: Prompt, seed: int) -> Mapping[str, Any]:
    """Reset options: a seed of 31 bits, as most environments take one."""
    return {"seed": seed % (1 << 31)}


def as_text(observation: Any) -> str:
    """An observation as text: itself, or its public fields as JSON."""
    if isinstance(observation, str):
        return observation
    dump = getattr(observation, "model_dump", None)
    fields: Any = dump() if callable(dump) else observation
    named = dict(fields) if isinstance(fields, Mapping) else vars(fields)
    public = {name: value for name, value in named.items() if name not in ("reward", "done", "metadata")}
    return json.dumps(public, ensure_ascii=False, default=str)


class OpenEnvEnvironment:
    """A conversation with an OpenEnv environment: the policy's turn is an action, the observation its answer."""

    def __init__(
        self,
        client: Any,
        *,
        action: Callable[[str], Any],
        observed: Observed = as_text,
        options: Callable[[Prompt, int], Mapping[str, Any]] = seeded,
    ) -> None:
        """
        Args:
            client: An `EnvClient` of its own for this conversation, connected or not.
            action: The policy's turn to an action of the environment; what it raises is the environment's error.
            observed: An observation to text.
            options: Of `reset`, from the prompt and a seed.
        """
        self._client, self._action, self._observed, self._options = client, action, observed, options

    async def reset(self, prompt: Prompt, seed: int) -> Messages:
        """The prompt, and after it what is observed first."""
        result = await _settled(self._client.reset(**self._options(prompt, seed)))
        messages = (
            (Message(role="user", content=prompt.content),)
            if isinstance(prompt.content, str)
            else prompt.content
        )
        text = self._observed(result.observation)
        if not text:
            return messages
        *before, last = messages
        if last.role != "user":
            return [*messages, Message(role="user", content=text)]
        return [*before, replace(last, content=f"{last.content}\n\n{text}" if last.content else text)]

    async def step(self, messages: Sequence[Message]) -> Step:
        """Act, and say what is observed. No reward counts as 0."""
        result = await _settled(self._client.step(self._action(messages[-1].content)))
        answer = [Message(role="user", content=self._observed(result.observation))]
        return answer, 0.0 if result.reward is None else result.reward, bool(result.done)

    async def close(self) -> None:
        """Close the client."""
        await _settled(self._client.close())


async def _settled(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
