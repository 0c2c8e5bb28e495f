"""Chats as the tokenizer's template writes them.

Control tokens come from the tokenizer and its template only: a record whose text spells `<|im_end|>` is read as
those characters (`escape`). And what a chat holds is what the model reads: a template that leaves out the system
message, a tool or a tool's answer is an error.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from prefloop.errors import InputError
from prefloop.records import Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAK = "\udc7f"
"""Marks where a control token's text is cut in two. A lone surrogate, which no valid text has."""

_REASONING = ("reasoning_content", "thinking", "reasoning", "thought")
"""Names that templates read a message's thought by."""
_BESIDE = ("role", "name", "tool_call_id")
"""Fields of a message that say whose it is."""


def escape(text: str, control: re.Pattern[str]) -> str:
    """`text` with a `BREAK` inside what would be read as a control token, so that it stays plain text."""
    pieces, start = [], 0
    while found := control.search(text, start):
        pieces.append(text[start : found.start() + 1])
        start = found.start() + 1
    return BREAK.join([*pieces, text[start:]])


def write_messages(
    tokenizer: "PreTrainedTokenizerBase", messages: Iterable[Message], control: re.Pattern[str]
) -> list[dict[str, Any]]:
    """Messages as templates read them, every text in them escaped. An empty system message is an absent one."""

    def safe_text(text: str) -> str:
        return escape(text, control)

    written: list[dict[str, Any]] = []
    tools: list[Any] = []
    for message in messages:
        tools += [_escaped(_parsed(tool, "the tool"), safe_text) for tool in message.tools]
        if message.role == "system" and not message.content.strip():
            continue
        fields: dict[str, Any] = {"role": message.role, "content": safe_text(message.content)}
        if message.reasoning:
            fields[_reasoning_name(tokenizer)] = safe_text(message.reasoning)
        if message.tool_calls:
            fields["tool_calls"] = [_call(call, safe_text) for call in message.tool_calls]
        fields |= {"tool_call_id": safe_text(message.tool_call_id)} if message.tool_call_id else {}
        fields |= {"name": safe_text(message.name)} if message.name else {}
        written.append(fields)
    if tools and written:
        written[0]["tools"] = tools
    return written


def _call(call: ToolCall, safe_text: Callable[[str], str]) -> dict[str, Any]:
    """A call with its arguments as an object, which is what templates expect."""
    function = {
        "name": safe_text(call.name),
        "arguments": _escaped(
            _parsed(call.arguments, f"the arguments of the call of {call.name}"), safe_text
        ),
    }
    named = {"id": safe_text(call.id)} if call.id else {}
    return {**named, "type": "function", "function": function}


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{what} is {text[:60]!r}; write a JSON object")
    return value


def _escaped(value: Any, safe_text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, list):
        return [_escaped(item, safe_text) for item in value]
    if isinstance(value, dict):
        return {safe_text(key): _escaped(item, safe_text) for key, item in value.items()}
    return value


def _reasoning_name(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The field that the template reads a thought from."""
    template = tokenizer.chat_template
    source = "\n".join(template.values()) if isinstance(template, dict) else str(template)
    for name in _REASONING:
        if re.search(rf"""\.{name}\b|['"]{name}['"]""", source):
            return name
    raise InputError(
        "the message has reasoning_content, which the chat template does not write; "
        "write it into the content as the model is to say it, or set a chat template that does"
    )


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]], *, generation: bool
) -> str:
    """The chat as its template writes it, with the opening of the assistant's next turn if `generation`.

    Raises `InputError` if there is no template, or it refuses the chat (for its system turn, say).
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template, but the prompt is a chat; "
            "give prompts as plain text, or set chat_template in its tokenizer_config.json"
        )
    if not messages:
        raise InputError(
            "the chat has no message before the assistant's; begin it with a user's or system message"
        )
    try:
        text = tokenizer.apply_chat_template(
            [{key: value for key, value in message.items() if key != "tools"} for message in messages],
            tools=next((message["tools"] for message in messages if "tools" in message), None),
            add_generation_prompt=generation,
            tokenize=False,
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"the chat template refuses a chat of {roles}: {str(error).replace(BREAK, '')}; "
            "change the messages, or set another chat_template"
        ) from error
    assert isinstance(text, str)
    return text


def check_written(text: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise `InputError` if the template wrote a chat as `text` and left out what was said or may be called: templates
    skip roles that they do not know, and those of image models skip contents that are plain text.

    Earlier thoughts may be gone. A template may lay them out differently, so white space does not count, and a tool's answer may stand there as JSON.
    """
    for message in messages:
        lost = ""
        if message["role"] in ("system", "user") and not holds(text, message["content"]):
            lost = f"the {message['role']} message {message['content'].replace(BREAK, '')[:40]!r}"
        elif message["role"] == "tool" and not (
            holds(text, message["content"])
            or holds(text, json.dumps(message["content"], ensure_ascii=False)[1:-1])
        ):
            lost = "what a tool answered"
        elif any(call["function"]["name"] not in text for call in message.get("tool_calls", ())):
            lost = "the assistant's tool calls"
        elif any(_name_of(tool) not in text for tool in message.get("tools", ())):
            lost = "the tools"
        if lost:
            raise InputError(
                f"the chat template leaves out {lost}; set a chat template that writes it, or take it out of the chat"
            )


def _name_of(tool: Mapping[str, Any]) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "") if isinstance(function, Mapping) else "")


def check_answered(text: str, message: Mapping[str, Any]) -> None:
    """Raise `InputError` if a template's turn `text` lacks part of what the assistant's message says."""
    for name, part in message.items():
        if isinstance(part, str) and name not in _BESIDE and not holds(text, part):
            raise InputError(
                f"the chat template leaves out or rewrites part of the answer {part.replace(BREAK, '')[:40]!r} (its reasoning, for example); "
                "write the answer as the template does, or set a chat template that keeps it"
            )
    for call in message.get("tool_calls", ()):
        if call["function"]["name"] not in text:
            raise InputError(
                f"the chat template leaves out the call of the tool {call['function']['name']}; set a chat template that writes it"
            )


def parting(one: str, other: str) -> int:
    """Where two texts first differ."""
    differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def holds(text: str, part: str) -> bool:
    """Whether `text` has `part` in it, white space aside."""
    return part in text or "".join(part.split()) in "".join(text.split())
