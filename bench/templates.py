"""Which chat templates train, which serve generation only, and which are refused: `python -m bench.templates FOLDER`.

FOLDER holds `.jinja` files, at any depth; the wheels of trl and axolotl bring some:

    pip download --no-deps trl axolotl && for wheel in *.whl; do unzip -q $wheel '*.jinja' -d templates; done
    python -m bench.templates templates

Each template is put on a small tokenizer that has the control tokens it spells. `--off` writes a line before each
template that switches its thinking off.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from prefloop.errors import InputError
from prefloop.records import Conversation, Demonstration, Message, Prompt
from prefloop.text import demonstration_group, encode_prompt, train_tokenizer

OFF = "{%- set enable_thinking = false -%}"
_CONTROL = re.compile(
    r"<[|｜][^<>{}\s'\"]{1,40}[|｜]>|<[|][a-z_]+>|<[a-z_]+[|]>|<[a-z]+_of_[a-z]+>|\[/?[A-Z_]{2,20}\]"
)
_ENDS = ("<|im_end|>", "<|return|>")

ASK = Message(role="user", content="What is it?")
PROMPT = Prompt(content=(ASK,))
ANSWER, THOUGHT = "It is a cat.", "A cat, surely."
CHAT = (
    ASK,
    Message(role="assistant", content=ANSWER),
    Message(role="user", content="Sure?"),
    Message(role="assistant", content="Yes."),
)
ROWS: dict[str, Callable[[PreTrainedTokenizerFast], object]] = {
    "prompt": lambda tokenizer: encode_prompt(tokenizer, PROMPT),
    "answer": lambda tokenizer: demonstration_group(
        tokenizer, Demonstration(prompt=PROMPT, completion=ANSWER)
    ),
    "answer with a thought": lambda tokenizer: demonstration_group(
        tokenizer, Demonstration(prompt=PROMPT, completion=f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}")
    ),
    "thought in a field": lambda tokenizer: demonstration_group(
        tokenizer,
        Conversation(messages=(ASK, Message(role="assistant", content=ANSWER, reasoning=THOUGHT))),
    ),
    "chat of two answers": lambda tokenizer: demonstration_group(tokenizer, Conversation(messages=CHAT)),
}


def main() -> None:
    """Print a line a template, and the counts."""
    parser = argparse.ArgumentParser(
        description="Which chat templates train, serve generation only, or are refused."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--off", action="store_true", help="switch thinking off in every template")
    given = parser.parse_args()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ROWS}
    kinds: Counter[str] = Counter()
    for file in sorted(given.folder.rglob("*.jinja")):
        template = (OFF if given.off else "") + file.read_text(encoding="utf-8")
        found = {name: _tried(row, _tokenizer(template)) for name, row in ROWS.items()}
        for name, reason in found.items():
            counts[name][_kind(reason)] += 1
        kind = "refused" if found["prompt"] else "generation only"
        kind = next((f"trains {name}" for name in list(ROWS)[1:] if not found[name]), kind)
        kinds[kind] += 1
        print(f"{file.parent.name}/{file.stem}: {kind}", *(f"\n    {n}: {r}" for n, r in found.items() if r))
    for name, counter in counts.items():
        print(f"\n{name}", *(f"\n  {count:4d}  {reason}" for reason, count in counter.most_common()))
    print("\n", *(f"{count} {kind};" for kind, count in kinds.most_common()))


def _tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A small tokenizer with the control tokens that the template spells."""
    backend = train_tokenizer(["a b c"], vocab_size=262).backend_tokenizer
    control = sorted({*_CONTROL.findall(template), "<s>", "</s>"})
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    backend.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    end = next((token for token in _ENDS if token in template), "</s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=end, chat_template=template
    )


def _tried(row: Callable[[PreTrainedTokenizerFast], object], tokenizer: PreTrainedTokenizerFast) -> str:
    try:
        row(tokenizer)
    except InputError as error:
        return str(error)
    return ""


def _kind(reason: str) -> str:
    """A reason without the texts in it."""
    return re.sub(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"", "...", reason).partition(";")[0] or "accepted"


if __name__ == "__main__":
    main()
