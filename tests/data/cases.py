"""Files and random records for the tests of reading and writing."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from prefloop.data.formats import FormatName
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Label,
    Message,
    Prompt,
    Ranking,
    Score,
    Text,
)


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON lines; a string is written as it is, so that it can be broken."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# Text that any file can hold (no half characters) and that has something in it.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
filled = anything.filter(lambda text: bool(text.strip()))
names = st.text("abc", max_size=3)
finite = st.floats(allow_nan=False, allow_infinity=False)

text_prompts = st.builds(lambda text: Prompt(content=text), anything)


def message(role: Any) -> st.SearchStrategy[Message]:
    """A message of one role."""
    return st.builds(lambda text: Message(role=role, content=text), filled)


exchanges = st.lists(st.tuples(message("user"), message("assistant")), max_size=2).map(
    lambda pairs: tuple(turn for pair in pairs for turn in pair)
)
chat_prompts = st.builds(
    lambda system, turns, last: Prompt(content=(*system, *turns, last)),
    st.lists(message("system"), max_size=1),
    exchanges,
    message("user"),
)
dialogue_prompts = st.builds(lambda turns, last: Prompt(content=(*turns, last)), exchanges, message("user"))


def comparisons(prompts: st.SearchStrategy[Prompt]) -> st.SearchStrategy[Comparison]:
    """Comparisons with margin, annotator and soft label, said or not."""
    return st.builds(
        lambda prompt, pair, margin, annotator, p_soft: Comparison(
            prompt=prompt,
            chosen=pair[0],
            rejected=pair[1],
            margin=margin,
            annotator=annotator,
            p_soft=p_soft,
        ),
        prompts,
        st.tuples(filled, filled).filter(lambda pair: pair[0] != pair[1]),
        st.one_of(st.just(0.0), finite),
        names,
        st.one_of(st.just(1.0), st.floats(0, 1)),
    )


def of_prompts(prompts: st.SearchStrategy[Prompt]) -> dict[FormatName, st.SearchStrategy[Any]]:
    """Strategies of every record that has a prompt, by the format it is written in."""
    return {
        "prompt": prompts,
        "demonstration": st.builds(Demonstration, prompt=prompts, completion=filled, origin=st.just("")),
        "comparison": comparisons(prompts),
        "ranking": st.builds(
            Ranking,
            prompt=prompts,
            completions=st.lists(filled, min_size=2, max_size=4, unique=True).map(tuple),
            annotator=names,
            origin=st.just(""),
        ),
        "label": st.builds(
            Label, prompt=prompts, completion=filled, good=st.booleans(), annotator=names, origin=st.just("")
        ),
        "score": st.builds(
            Score, prompt=prompts, completion=filled, value=finite, annotator=names, origin=st.just("")
        ),
    }


conversations = st.builds(
    lambda prompt, answer: Conversation(messages=(*prompt.content, answer)),
    chat_prompts,
    message("assistant"),
)
texts = st.builds(Text, text=filled, origin=st.just(""))
