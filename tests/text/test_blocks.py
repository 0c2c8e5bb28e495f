"""Documents to pretraining blocks."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.errors import InputError
from prefloop.records import Text
from prefloop.text.encode import pretraining_blocks
from tests.text.kinds import KINDS, build, token_id

DOCUMENTS = st.lists(st.text(alphabet="abé <|eos>\n", max_size=12), max_size=8)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.integers(2, 9))
def test_blocks_hold_every_token_once_and_in_order(documents, block_tokens):  # D6 D8
    tokenizer = build("ours")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    stream = list(
        chain.from_iterable(
            [bos, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], eos]
            for text in documents
            if "<|eos|>" not in text
        )
    )
    documents = [text for text in documents if "<|eos|>" not in text]
    blocks = pretraining_blocks(tokenizer, documents, block_tokens)
    rows = [[*block.prompt, *block.completions[0]] for block in blocks]
    joined = list(chain.from_iterable(rows))
    # at most one token is left over, with nothing to predict from it
    assert joined == stream[: len(joined)]
    assert len(stream) - len(joined) == (1 if len(stream) % block_tokens == 1 else 0)
    assert all(len(row) == block_tokens for row in rows[:-1])
    assert all(len(block.prompt) == 1 and all(block.masks[0]) for block in blocks)
    assert all(len(block.masks[0]) == len(block.completions[0]) for block in blocks)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_end_with_one_end_token_and_hold_no_other(kind):  # D3
    tokenizer = build(kind)
    text = f"The cat {tokenizer.eos_token} sat"
    (block,) = pretraining_blocks(tokenizer, [text], 100)
    ids = [*block.prompt, *block.completions[0]]
    bos, eos = (token_id(tokenizer, token) for token in (tokenizer.bos_token, tokenizer.eos_token))
    assert ids[-1] == eos
    assert ids.count(eos) == 1
    if bos != eos:
        assert ids.count(bos) == ids[:1].count(bos) == int(tokenizer("a")["input_ids"][0] == bos)


def test_blocks_do_not_depend_on_how_documents_come():
    tokenizer = build("ours")
    texts = [f"The cat number {n}." for n in range(2500)]
    blocks = pretraining_blocks(tokenizer, iter(texts), 16)
    assert blocks == pretraining_blocks(tokenizer, [Text(text=text) for text in texts], 16)
    assert sum(block.tokens for block in blocks) >= 2500 * 5


def test_bad_documents_and_sizes_are_refused():
    tokenizer = build("ours")
    with pytest.raises(InputError, match="block_tokens is 1; a block needs 2 tokens or more"):
        pretraining_blocks(tokenizer, ["a"], 1)
    with pytest.raises(InputError, match=r"t.jsonl:9: the text has a broken character at position 2"):
        pretraining_blocks(tokenizer, [Text(text="ab\ud800", origin="t.jsonl:9")], 8)
    assert pretraining_blocks(tokenizer, [], 8) == []
