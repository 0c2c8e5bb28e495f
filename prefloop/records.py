"""What people and models say, as plain frozen data. Every stage reads and writes these; nothing here needs more than Python."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A function that an assistant's message calls."""

    name: str
    arguments: str
    """A JSON object, as text."""
    id: str = ""
    """What the tool's message answers by; empty if the data names none."""

    def to_json(self) -> dict[str, Any]:
        """The call as chat APIs write it, its arguments as text."""
        named = {"id": self.id} if self.id else {}
        return {**named, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation. The optional fields say nothing if they are empty."""

    role: Role
    content: str
    """Empty only beside tool calls, and in a tool's message that returned nothing."""
    reasoning: str = ""
    """What the assistant thought before it answered, where the data keeps it apart from the answer."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """Of a tool's message: the call that it answers."""
    name: str = ""
    """Of a tool's message: the function that was called."""
    tools: tuple[str, ...] = ()
    """Functions that may be called, each a JSON object as text. They stand in a chat's first message, so that every
    part of a chat that keeps its beginning keeps them."""

    def to_json(self) -> dict[str, Any]:
        """The message as chat APIs write it, without the fields that say nothing."""
        return {
            "role": self.role,
            "content": self.content,
            **({"reasoning_content": self.reasoning} if self.reasoning else {}),
            **({"tool_calls": [call.to_json() for call in self.tool_calls]} if self.tool_calls else {}),
            **({"tool_call_id": self.tool_call_id} if self.tool_call_id else {}),
            **({"name": self.name} if self.name else {}),
            **({"tools": [json.loads(tool) for tool in self.tools]} if self.tools else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Message":
        """The inverse of `to_json`, for what was checked before it was written."""
        calls = value.get("tool_calls", ())
        return cls(
            role=value["role"],
            content=value["content"],
            reasoning=value.get("reasoning_content", ""),
            tool_calls=tuple(
                ToolCall(
                    name=call["function"]["name"],
                    arguments=call["function"]["arguments"],
                    id=call.get("id", ""),
                )
                for call in calls
            ),
            tool_call_id=value.get("tool_call_id", ""),
            name=value.get("name", ""),
            tools=tuple(json.dumps(tool, ensure_ascii=False) for tool in value.get("tools", ())),
        )

    @property
    def shown(self) -> str:
        """The content, and after it a line for each tool call: what a reader of the chat sees."""
        calls = [f"{call.name}({call.arguments})" for call in self.tool_calls]
        return "\n".join([self.content, *calls] if self.content else calls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What a completion answers: plain text to be continued, or the messages of a chat that the assistant speaks next in."""

    content: str | tuple[Message, ...]
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The row that it was read from, by column, where a file of prompts was read: reward functions find answers there. A prompt is the
    same with other columns."""

    @property
    def sha256(self) -> str:
        """Hash of the content alone; splits and deduplication go by it."""
        return hashlib.sha256(json.dumps(self.to_json(), ensure_ascii=False).encode()).hexdigest()

    def to_json(self) -> str | list[dict[str, Any]]:
        """The content as JSON types: a string, or a list of `{"role", "content"}`, with the fields of `Message` that say something."""
        if isinstance(self.content, str):
            return self.content
        return [message.to_json() for message in self.content]

    def in_context(self, context: str) -> "Prompt":
        """The prompt behind a context: a paragraph before a text, the (beginning of the) system message of a chat. None for an empty one."""
        if not context:
            return self
        if isinstance(self.content, str):
            return replace(self, content=f"{context}\n\n{self.content}")
        first, *rest = self.content
        if first.role != "system":
            return replace(self, content=(Message(role="system", content=context), *self.content))
        return replace(self, content=(replace(first, content=f"{context}\n\n{first.content}"), *rest))


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A document for pretraining."""

    text: str
    origin: str = field(default="", compare=False)
    """Where it was read, as `file:line`; the same in every record below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """A prompt and the completion somebody wrote for it."""

    prompt: Prompt
    completion: str
    origin: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A whole chat; every assistant turn in it is a demonstration."""

    messages: tuple[Message, ...]
    origin: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Somebody preferred `chosen` to `rejected`. `margin` is how much, in units of the reward (0 = not given)."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    annotator: str = ""
    p_soft: float = 1.0
    """How likely `chosen` is the better one (a soft label, of several judgements or of a judge's probability); 1 is a plain label."""
    context: str = ""
    """Criterion or situation in which it is preferred, which a model reads before the prompt; empty is none."""
    opposite_context: str = ""
    """A context in which the preference would be reversed; empty if not given."""
    origin: str = field(default="", compare=False)

    def swap(self) -> "Comparison":
        """The opposite judgement, as sure."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    def in_opposite_context(self) -> "Comparison":
        """What the opposite context says: the contexts change places, and so do the completions (arXiv:2407.14916)."""
        return replace(self.swap(), context=self.opposite_context, opposite_context=self.context)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Completions of one prompt, best first."""

    prompt: Prompt
    completions: tuple[str, ...]
    annotator: str = ""
    ranks: tuple[int, ...] = ()
    """The rank of each completion, equal where they are tied; empty if no two are."""
    top: int = 0
    """How many of the first are in order: of those below, none was compared with another (1 is the best of K). 0 is all."""
    origin: str = field(default="", compare=False)

    def comparisons(self) -> tuple[Comparison, ...]:
        """All pairs that it orders: K(K-1)/2 of a strict ranking, fewer with ties, K-1 of a best of K."""
        places = range(len(self.completions))
        last = self.top or len(self.completions)
        ranks = self.ranks or tuple(places)
        return tuple(
            Comparison(
                prompt=self.prompt,
                chosen=self.completions[better],
                rejected=self.completions[worse],
                annotator=self.annotator,
                origin=self.origin,
            )
            for better, worse in combinations(places, 2)
            if better < last and ranks[better] < ranks[worse]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A completion that was found good or bad by itself."""

    prompt: Prompt
    completion: str
    good: bool
    annotator: str = ""
    origin: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """A completion in steps, each of them found good or bad: what process rewards are trained on."""

    prompt: Prompt
    steps: tuple[str, ...]
    good: tuple[bool, ...]
    """One a step."""
    annotator: str = ""
    separator: str = "\n"
    """What stands between two steps; no step holds it."""
    origin: str = field(default="", compare=False)

    @property
    def completion(self) -> str:
        """The steps as one text."""
        return self.separator.join(self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A completion with a number."""

    prompt: Prompt
    completion: str
    value: float
    annotator: str = ""
    origin: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A completion with where it came from: the policy checkpoint, how it was sampled and what the policy thought of it."""

    prompt: Prompt
    text: str
    policy: str
    """Checkpoint folder or name of the policy; `human` for people's text."""
    logprob: float
    """Sum of the sampler's log-probabilities over the completion's tokens, at the sampling temperature."""
    tokens: int
    """Completion tokens, the stop token included."""
    ended: bool
    """Whether the policy stopped by itself, rather than at the token limit."""
    temperature: float
    top_p: float
    top_k: int
    seed: int
    index: int
    """Which of the K completions of its prompt this is."""
