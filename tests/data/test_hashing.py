"""The content hash: the same for equal records, another for anything else."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.data import content_hash
from prefloop.data.hashing import canonical_json
from prefloop.records import Comparison, Completion, Message, Prompt, Ranking, Score, Text
from tests.data.cases import chat_prompts, comparisons, of_prompts, text_prompts, texts

PAIR = Comparison(
    prompt=Prompt(content="p"), chosen="ä", rejected="b", margin=1, annotator="ann", origin="f:1"
)
anything = st.one_of(texts, *of_prompts(text_prompts).values(), *of_prompts(chat_prompts).values())


def test_hash_is_of_one_canonical_line_a_record() -> None:
    line = (
        '{"annotator":"ann","chosen":"\\u00e4","margin":1.0,"prompt":"p","rejected":"b","type":"Comparison"}'
    )
    assert canonical_json(PAIR) == line
    assert content_hash([PAIR, PAIR]) == hashlib.sha256(f"{line}\n{line}\n".encode()).hexdigest()
    soft = line.replace('"prompt"', '"p_soft":0.5,"prompt"')
    assert canonical_json(replace(PAIR, p_soft=0.5)) == soft
    assert content_hash([]) == hashlib.sha256(b"").hexdigest()


@given(st.lists(anything, max_size=4), st.lists(anything, max_size=4))
def test_hashes_are_equal_where_records_are(one: list[Any], other: list[Any]) -> None:
    same = [type(record) for record in one] == [type(record) for record in other] and one == other
    assert (content_hash(one) == content_hash(other)) == same
    assert content_hash(one) == content_hash(iter(one))


def test_origin_is_left_out_and_order_is_not() -> None:
    other = replace(PAIR, chosen="c")
    assert content_hash([replace(PAIR, origin="elsewhere:9")]) == content_hash([PAIR])
    assert content_hash([PAIR, other]) != content_hash([other, PAIR])


def test_zero_signs_and_whole_numbers_are_one_number() -> None:
    assert content_hash([replace(PAIR, margin=-0.0)]) == content_hash([replace(PAIR, margin=0)])


def test_every_field_counts() -> None:
    chat = Prompt(content=(Message(role="user", content="p"),))
    score = Score(prompt=PAIR.prompt, completion="c", value=1.0)
    variants: list[Any] = [
        PAIR,
        replace(PAIR, margin=2.0),
        replace(PAIR, p_soft=0.0),
        replace(PAIR, annotator=""),
        replace(PAIR, prompt=chat),
        PAIR.swap(),
    ]
    variants += [score, replace(score, value=2.0), Text(text="p"), PAIR.prompt]
    completion = Completion(
        prompt=chat, text="c", policy="sft", logprob=-1.5, tokens=2, ended=True, temperature=1.0, top_p=1.0, top_k=0,
        seed=0, index=0,
    )  # fmt: skip
    ranking = Ranking(prompt=chat, completions=("a", "b"))
    variants += [completion, replace(completion, ended=False), replace(completion, seed=1), ranking]
    assert len({content_hash([variant]) for variant in variants}) == len(variants)


def test_non_finite_numbers_have_no_hash() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash([replace(PAIR, margin=float("nan"))])


def test_collisions_by_joined_fields_are_not_possible() -> None:
    one = Ranking(prompt=Prompt(content=""), completions=("a,b", "c"))
    assert content_hash([one]) != content_hash([replace(one, completions=("a", "b,c"))])


@given(comparisons(text_prompts))
def test_canonical_json_is_ascii_on_one_line(record: Comparison) -> None:
    line = canonical_json(record)
    assert line.isascii()
    assert line.splitlines() == [line]
