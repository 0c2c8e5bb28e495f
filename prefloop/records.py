"""What people and models say, as plain frozen data. Every stage reads and writes these; nothing here needs more than Python."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What a completion answers: plain text to be continued, or the messages of a chat that the assistant speaks next in."""

    content: str | tuple[Message, ...]

    @property
    def sha256(self) -> str:
        """Hash of the content alone; splits and deduplication go by it."""
        return hashlib.sha256(json.dumps(self.to_json(), ensure_ascii=False).encode()).hexdigest()

    def to_json(self) -> str | list[dict[str, str]]:
        """The content as JSON types: a string, or a list of `{"role", "content"}`."""
        if isinstance(self.content, str):
            return self.content
        return [{"role": message.role, "content": message.content} for message in self.content]

    def in_context(self, context: str) -> "Prompt":
        """The prompt behind a context: a paragraph before a text, the (beginning of the) system message of a chat. None for an empty one."""
        if not context:
            return self
        if isinstance(self.content, str):
            return Prompt(content=f"{context}\n\n{self.content}")
        first, *rest = self.content
        if first.role != "system":
            return Prompt(content=(Message(role="system", content=context), *self.content))
        return Prompt(content=(Message(role="system", content=f"{context}\n\n{first.content}"), *rest))


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
    """Somebody preferred `chosen` to `rejected`. `margin` is how much, in units of the reward (0 = not said)."""

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
    """One in which the preference would be the other way round; empty is not said."""
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
    origin: str = field(default="", compare=False)

    def comparisons(self) -> tuple[Comparison, ...]:
        """All K(K-1)/2 pairs."""
        return tuple(
            Comparison(
                prompt=self.prompt,
                chosen=better,
                rejected=worse,
                annotator=self.annotator,
                origin=self.origin,
            )
            for better, worse in combinations(self.completions, 2)
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
