"""Groups and their micro-batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.text.groups import Group, cut_by_tokens


def group(prompt: int, *completions: int) -> Group:
    return Group(
        prompt=[1] * prompt,
        completions=tuple([2] * length for length in completions),
        masks=tuple([True] * length for length in completions),
    )


def test_tokens_count_the_prompt_once():
    assert group(5, 2, 3).tokens == 10


@pytest.mark.parametrize(
    ("prompt", "completions", "masks", "message"),
    [
        ([], ([1],), ([True],), "prompt has no token"),
        ([1], (), (), "has no completion"),
        ([1], ([],), ([],), "completion 0 of a group has no token"),
        ([1], ([1], [1, 2]), ([True], [True]), "completion 1 has 2 tokens but a mask of 1"),
    ],
)
def test_groups_that_cannot_be_trained_are_refused(prompt, completions, masks, message):
    with pytest.raises(ValueError, match=message):
        Group(prompt=prompt, completions=completions, masks=masks)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6))), st.integers(1, 20))
def test_micro_batches_keep_every_group_in_order_within_the_budget(sizes, budget):  # D8
    groups = [group(*size) for size in sizes]
    cut = list(cut_by_tokens(groups, budget))
    assert [one for batch in cut for one in batch] == groups
    assert all(len(batch) == 1 or sum(one.tokens for one in batch) <= budget for batch in cut)
