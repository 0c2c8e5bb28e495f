"""A context that stands before each prompt."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prefloop.configs.copies import here
from prefloop.errors import InputError
from prefloop.loop.inputs import Prompts
from prefloop.text import encode_prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class BothSides:
    """Prompts as the policy reads them, and behind the context."""

    plain: Prompts
    behind: Prompts


def context_in(file: str) -> str:
    """The context. Raises `InputError` if there is none in the file."""
    try:
        text = Path(here(file)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"context_file is {file!r}, which cannot be read ({error})") from error
    if not text:
        raise InputError(f"context_file is {file!r}, which is empty; write the context into it")
    return text


def behind_context(plain: Prompts, context: str, tokenizer: PreTrainedTokenizerBase) -> BothSides:
    """Prompts, and the same behind the context."""
    records = tuple(prompt.in_context(context) for prompt in plain.records)
    ids = [encode_prompt(tokenizer, prompt) for prompt in records]
    return BothSides(plain=plain, behind=Prompts(records=records, ids=ids, origins=plain.origins))
