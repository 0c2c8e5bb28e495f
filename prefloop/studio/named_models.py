"""Votes on conversations that name a model: who knows which one answers does not compare answers. The arenas leave such votes out."""

import re
from functools import cache

from prefloop.feedback.judged import JudgedItem
from prefloop.records import Prompt

FAMILIES = (
    *(
        "anthropic",
        "chatgpt",
        "chatglm",
        "claude",
        "command-r",
        "deepseek",
        "gemini",
        "gemma",
        "google ai",
        "gpt",
    ),
    *(
        "grok",
        "kimi",
        "llama",
        "lmarena",
        "lmsys",
        "mistral",
        "mixtral",
        "nemotron",
        "olmo",
        "openai",
        "qwen",
    ),
    *("smollm", "vicuna"),
)
"""Families of models and their makers, whichever are served; not those whose name is a common word (phi, falcon)."""
_FAMILY = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, FAMILIES))})(?:-?\d[\w.-]*)?(?!\w)", re.I)
_COMMON = {"best", "chat", "checkpoint", "final", "model", "policy"}
"""Last parts of names that say nothing."""


def names_a_model(vote: JudgedItem) -> bool:
    """Whether the conversation or an answer has the name of a model: one of a known family, or one of the two that answered."""
    texts = "\n".join((*_turns(vote.prompt), *vote.completions))
    return _FAMILY.search(texts) is not None or any(_own(name).search(texts) for name in vote.models)


def _turns(prompt: Prompt) -> list[str]:
    content = prompt.content
    return [content] if isinstance(content, str) else [message.shown for message in content]


@cache
def _own(name: str) -> re.Pattern[str]:
    """A model's own name, and the last part of it, as words."""
    last = name.rstrip("/").rpartition("/")[2]
    names = {name} | ({last} if len(last) > 3 and last.lower() not in _COMMON else set())
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.I)
