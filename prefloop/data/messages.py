"""Messages of a chat as people write them, read strictly: chat APIs, content in parts, tool calls, and the names ShareGPT gives to roles.

`{"role", "content"}` and `{"from", "value"}` are one message each. An empty system message says nothing and is left out. Tools stand in the first
message of a chat. What a message holds that cannot be kept is an error, with its reason.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from prefloop.data.fields import as_text, filled, kind_of, required
from prefloop.data.rows import MISSING, Row, RowError, show
from prefloop.records import ROLES, Message, Prompt, Role, ToolCall

OTHER_NAMES: dict[str, Role] = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
}
"""Roles under the names that other formats give them."""
READ_KEYS = (
    "role", "from", "content", "value", "tool_calls", "tool_call_id", "name", "reasoning_content", "tools", "weight",
)  # fmt: skip
"""Keys of a message that are read."""
_KEPT_APART = {
    "function_call": "write it as tool_calls: [{...}]",
    "audio": "write its text as content, or leave the row out",
}
"""Keys that change what a message says, and are not read."""


def messages(value: Sequence[Any], field: str) -> tuple[Message, ...]:
    """A chat, every turn with something in it."""
    if not value:
        raise RowError(field, "[]", "the list of messages is empty", "write the messages")
    turns: list[Message] = []
    tools: tuple[str, ...] = ()
    for index, item in enumerate(value):
        turn = _message(item, f"{field}[{index}]")
        tools = tools or turn.tools
        if turn.role != "system" or turn.content.strip():
            turns.append(replace(turn, tools=()) if turn.tools else turn)
    if not turns:
        raise RowError(field, show(value), "every message is empty", "write the messages")
    return with_tools(tuple(turns), tools)


def with_tools(turns: tuple[Message, ...], tools: tuple[str, ...]) -> tuple[Message, ...]:
    """The chat with the functions that may be called in it."""
    return (replace(turns[0], tools=tools), *turns[1:]) if tools else turns


def chat(row: Row, value: Sequence[Any], field: str) -> tuple[Message, ...]:
    """The messages of a field, with the tools of the row's column `tools`."""
    turns = messages(value, field)
    given = row.values.get("tools")
    return with_tools(turns, read_tools(given, "tools") if given else turns[0].tools)


def read_tools(value: Any, field: str) -> tuple[str, ...]:
    """Functions that may be called, each a JSON object; the list may be written as JSON text, as columns of one type need it."""
    value = _from_json(value, field, "[{...}]")
    if not isinstance(value, list) or not all(isinstance(tool, Mapping | str) for tool in value):
        raise RowError(
            field, show(value), "it must be a list of functions", 'write [{"type": "function", ...}]'
        )
    tools = [_from_json(tool, f"{field}[{index}]", "{...}") for index, tool in enumerate(value)]
    return tuple(_to_json(tool, field) for tool in tools)


def prompt(row: Row) -> Prompt:
    """The field `prompt`: text (may be empty: the start of a document) or messages that end with the user's."""
    value = required(row, "prompt")
    if isinstance(value, list):
        return chat_prompt(chat(row, value, "prompt"), "prompt")
    if not isinstance(value, str):
        raise RowError(
            "prompt",
            show(value),
            f"it must be text or a list of messages, not {kind_of(value)}",
            'write a string or [{"role": "user", "content": ...}]',
        )
    if row.values.get("tools"):
        raise RowError(
            "tools",
            show(row.values["tools"]),
            "the prompt is text, but tools need a chat",
            "write the prompt as messages, or set data.chat",
        )
    return Prompt(content=as_text(value, "prompt"))


def chat_prompt(turns: tuple[Message, ...], field: str) -> Prompt:
    """Messages that the assistant speaks next in."""
    if not turns or turns[-1].role not in ("user", "tool"):
        raise RowError(
            field,
            f"a chat that ends with {turns[-1].role}" if turns else "a chat without a turn",
            "the assistant must answer a user",
            "end the prompt with a user message",
        )
    return Prompt(content=turns)


def completion(value: object, field: str) -> str:
    """A completion: text, or one assistant message."""
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        value = [value]
    if isinstance(value, list):
        turns = messages(value, field)
        if len(turns) != 1 or turns[0].role != "assistant":
            roles = ", ".join(turn.role for turn in turns)
            raise RowError(
                field,
                f"messages of {roles}",
                "a completion must be one assistant message",
                "move the turns before the last to the prompt",
            )
        return answer_of(turns[0], field)
    if not isinstance(value, str):
        raise RowError(
            field,
            show(value),
            f"it must be text or one assistant message, not {kind_of(value)}",
            "write a string",
        )
    return filled(value, field, "completion")


def answer_of(turn: Message, field: str) -> str:
    """The text of an assistant's turn that is a completion, which has no place for anything beside the text."""
    for key, value in (("tool_calls", turn.tool_calls), ("reasoning_content", turn.reasoning)):
        if value:
            raise RowError(
                f"{field}.{key}",
                show(value if isinstance(value, str) else [call.name for call in value]),
                "a completion must be plain text",
                "write it as text, as the model's template renders it, or train on whole chats (column `messages`)",
            )
    return turn.content


def _message(item: object, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(field, show(item), "it must be a message", 'write {"role": ..., "content": ...}')
    spoken = "from" if item.get("role") is None and "from" in item else "role"
    column = "value" if item.get("content") is None and "value" in item else "content"
    name = item.get(spoken)
    if name is None:
        _missing(item, field, spoken)
    role = OTHER_NAMES.get(name, name) if isinstance(name, str) else name
    if role not in ROLES:
        raise RowError(f"{field}.{spoken}", show(name), "the role is not known", f"use {', '.join(ROLES)}")
    for key, remedy in _KEPT_APART.items():
        if item.get(key):
            raise RowError(
                f"{field}.{key}",
                show(item[key]),
                "it is not supported, and the message would be different without it",
                remedy,
            )
    if role == "assistant" and item.get("weight") not in (None, 1):
        raise RowError(
            f"{field}.weight", show(item["weight"]), "every answer of a chat is trained on alike", "end the chat before it, or leave the row out"
        )  # fmt: skip
    if name == "function_call":
        return Message(
            role="assistant", content="", tool_calls=(_call(item.get(column), f"{field}.{column}"),)
        )
    calls = _calls(item.get("tool_calls"), f"{field}.tool_calls") if role == "assistant" else ()
    content = item.get(column)
    if content is None and not calls and role not in ("system", "tool"):
        _missing(item, field, column)
    text = _text(content, f"{field}.{column}")
    if not text.strip() and not calls and role not in ("system", "tool"):
        filled(text, f"{field}.{column}", "message")
    return Message(
        role=cast(Role, role),
        content=text,
        reasoning=_optional(item, "reasoning_content", field) if role == "assistant" else "",
        tool_calls=calls,
        tool_call_id=_optional(item, "tool_call_id", field) if role == "tool" else "",
        name=_optional(item, "name", field) if role == "tool" else "",
        tools=read_tools(item["tools"], f"{field}.tools") if item.get("tools") else (),
    )


def _missing(item: Mapping[str, Any], field: str, key: str) -> None:
    raise RowError(f"{field}.{key}", "null" if key in item else MISSING, "every message needs it", "add it")


def _optional(item: Mapping[str, Any], key: str, field: str) -> str:
    return as_text(item.get(key) or "", f"{field}.{key}")


def _text(content: Any, field: str) -> str:
    """Content as text: a string, or parts that are all text, one behind the other. Null is no text."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return as_text(content, field)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in ("text", "input_text", "output_text"):
            raise RowError(
                f"{field}[{index}].type", show(kind), "text alone is read here, and without this part the message would say something else",
                "leave the row out, or write what the part says as text; images are taken by a store (`data import`, `label import`)",
            )  # fmt: skip
        texts.append(
            as_text(part.get("text") if isinstance(part, Mapping) else part, f"{field}[{index}].text")
        )
    return "".join(texts)


def _calls(value: Any, field: str) -> tuple[ToolCall, ...]:
    if not value:
        return ()
    if not isinstance(value, list):
        raise RowError(
            field, show(value), f"it must be a list of calls, not {kind_of(value)}", "write [{...}]"
        )
    return tuple(_call(call, f"{field}[{index}]") for index, call in enumerate(value))


def _call(value: Any, field: str) -> ToolCall:
    """`{"id", "function": {"name", "arguments"}}`, or `{"name", "arguments"}`; the arguments as an object, or as JSON text."""
    value = _from_json(value, field, '{"name": ..., "arguments": {...}}')
    function = (value.get("function") or value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(
            field,
            show(value),
            "it names no function",
            'write {"function": {"name": ..., "arguments": {...}}}',
        )
    arguments = function.get("arguments")
    parsed = _from_json({} if arguments in (None, "") else arguments, f"{field}.arguments", "{...}")
    if not isinstance(parsed, Mapping):
        raise RowError(
            f"{field}.arguments", show(arguments), "the arguments must be a JSON object", "write {...}"
        )
    return ToolCall(
        name=function["name"],
        arguments=arguments if isinstance(arguments, str) and arguments else _to_json(parsed, field),
        id=as_text(value.get("id") or "", f"{field}.id"),
    )


def _from_json(value: Any, field: str, example: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(field, show(value), "the text must be JSON", f"write {example}") from None


def _to_json(value: Any, field: str) -> str:
    try:
        return as_text(json.dumps(value, ensure_ascii=False, allow_nan=False), field)
    except (ValueError, TypeError, RecursionError):
        raise RowError(field, show(value), "it cannot be written as JSON", "use JSON's types") from None
