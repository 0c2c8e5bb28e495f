"""Chats with tools: nothing of a message is lost on its way through JSON, a context, a hash or a judge's eyes."""

import json
from dataclasses import replace

from prefloop.data import content_hash
from prefloop.data.store.judging import prompt_of
from prefloop.evaluation.json_files import decode, encode
from prefloop.feedback.judges.prompts import conversation
from prefloop.records import Message, Prompt, ToolCall

TOOL = '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}'
CHAT = Prompt(
    content=(
        Message(role="user", content="How warm is it?", tools=(TOOL,)),
        Message(
            role="assistant",
            content="",
            reasoning="I have to look.",
            tool_calls=(ToolCall(name="weather", arguments='{"city": "Köln"}', id="call00001"),),
        ),
        Message(role="tool", content="21 °C", tool_call_id="call00001", name="weather"),
    )
)


def test_messages_are_read_back_whole() -> None:
    said = CHAT.to_json()
    assert isinstance(said, list)
    assert said[0]["tools"] == [json.loads(TOOL)]
    assert said[1]["tool_calls"] == [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Köln"}'},
        }
    ]
    assert said[2] == {"role": "tool", "content": "21 °C", "tool_call_id": "call00001", "name": "weather"}
    stored = json.loads(json.dumps(said))
    assert prompt_of(stored) == CHAT
    assert decode(Prompt, json.loads(json.dumps(encode(CHAT))), "file") == CHAT


def test_plain_messages_have_two_fields() -> None:
    plain = Prompt(content=(Message(role="user", content="Hello"),))
    assert plain.to_json() == [{"role": "user", "content": "Hello"}]


def test_every_field_is_part_of_the_prompt() -> None:
    assert isinstance(CHAT.content, tuple)
    asked, called, told = CHAT.content
    others = [
        (replace(asked, tools=()), called, told),
        (asked, replace(called, reasoning=""), told),
        (asked, replace(called, tool_calls=(replace(called.tool_calls[0], id=""),)), told),
        (asked, called, replace(told, tool_call_id="")),
        (asked, called, replace(told, name="")),
    ]
    prompts = [CHAT, *(Prompt(content=other) for other in others)]
    assert len({prompt.sha256 for prompt in prompts}) == len(prompts)
    assert len({content_hash([prompt]) for prompt in prompts}) == len(prompts)


def test_a_context_keeps_the_tools() -> None:
    system = Prompt(content=(Message(role="system", content="Be brief.", tools=(TOOL,)),))
    assert system.in_context("Be kind.").content == (
        Message(role="system", content="Be kind.\n\nBe brief.", tools=(TOOL,)),
    )
    before = CHAT.in_context("Be kind.").content
    assert isinstance(before, tuple)
    assert isinstance(CHAT.content, tuple)
    assert before[1:] == CHAT.content


def test_a_judge_sees_the_calls() -> None:
    assert conversation(CHAT) == ('user: How warm is it?\nassistant: weather({"city": "Köln"})\ntool: 21 °C')
