"""Prompts, checkpoints, completions and items: what goes in comes out, once, however often it is written."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefloop.data.split import part_of
from prefloop.data.store import Conflict, Store
from prefloop.errors import InputError
from prefloop.records import Completion, Message, Prompt

ANY_TEXT = st.text(
    alphabet=st.one_of(
        st.characters(codec="utf-8"), st.sampled_from(["\0", "\ue000", "0", "1", "\n", '"', "'"])
    ),
    max_size=30,
)
PROMPTS = st.builds(
    Prompt,
    content=st.one_of(
        ANY_TEXT,
        st.lists(
            st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=ANY_TEXT),
            min_size=1,
            max_size=3,
        ).map(tuple),
    ),
)
INT64 = st.integers(-(2**63), 2**63 - 1)
COMPLETIONS = st.builds(
    Completion,
    prompt=PROMPTS,
    text=ANY_TEXT,
    policy=st.just("sft"),
    logprob=st.floats(allow_nan=False),
    tokens=st.integers(0, 2**31 - 1),
    ended=st.booleans(),
    temperature=st.floats(0, 10),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(0, 2**31 - 1),
    seed=INT64,
    index=st.integers(0, 1000),
)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sample(
    prompt: Prompt | str, text: str, *, policy: str = "sft", index: int = 0, seed: int = 0
) -> Completion:
    return Completion(
        prompt=prompt if isinstance(prompt, Prompt) else Prompt(content=prompt),
        text=text,
        policy=policy,
        logprob=-1.5,
        tokens=3,
        ended=True,
        temperature=0.7,
        top_p=0.9,
        top_k=50,
        seed=seed,
        index=index,
    )


@FEW
@given(prompts=st.lists(PROMPTS, max_size=8))
def test_prompts_come_out_as_they_went_in(
    empty_store: Callable[[Path], Store], tmp_path: Path, prompts: list[Prompt]
) -> None:
    with empty_store(tmp_path) as store:
        ids = store.add_prompts(prompts)
        assert store.prompts() == list(dict.fromkeys(prompts))
        assert store.add_prompts(prompts) == ids
        assert len(set(ids)) == store.counts()["prompt"] == len(set(prompts))


@FEW
@given(completions=st.lists(COMPLETIONS, max_size=8))
def test_completions_come_out_as_they_went_in(
    empty_store: Callable[[Path], Store], tmp_path: Path, completions: list[Completion]
) -> None:
    with empty_store(tmp_path) as store:
        policy = store.add_checkpoint("sft")
        ids = store.add_completions(completions, policy)
        stored = dict(zip(ids, completions, strict=True))
        # The same sample (all but log-probability, tokens and end, which follow from it) is one row, the first one written.
        for id, completion in reversed(list(zip(ids, completions, strict=True))):
            stored[id] = completion
        assert store.completions() == [stored[id] for id in sorted(stored)]
        assert store.add_completions(completions, policy) == ids
        assert store.counts()["completion"] == len(set(ids))


def test_hard_texts_on_each_database(store: Store) -> None:
    texts = [
        "",
        "\0",
        "a\0b\ue000c\ue0000\ue0001",
        "\ue000",
        "'; DROP TABLE prompt; --",
        "\U0001f600\u202e\x7f",
        "%s %(x)s",
    ]
    policy = store.add_checkpoint("sft")
    chat = Prompt(content=(Message(role="user", content="a\0b"),))
    given_ = [sample(prompt, text) for text in texts for prompt in (Prompt(content=text), chat)]
    given_[0] = replace(given_[0], logprob=-math.inf, seed=-(2**63))
    store.add_completions(given_, policy)
    assert store.completions() == given_
    store.add_annotator("zoë\0")
    assert store.add_annotator("zoë\0") == store.add_annotator("zoë\0")


def test_sampling_again_adds_nothing(store: Store) -> None:
    policy = store.add_checkpoint("sft")
    drawn = [sample("p", "one", index=0), sample("p", "two", index=1), sample("q", "one", index=0)]
    ids = store.add_completions(drawn, policy)
    before = store.counts()
    assert store.add_completions(list(reversed(drawn)), policy) == list(reversed(ids))
    assert store.counts() == before


def test_samples_that_differ_in_anything_are_kept(store: Store) -> None:
    policy = store.add_checkpoint("sft")
    first = sample("p", "one")
    others = [
        replace(first, prompt=Prompt(content="q")),
        replace(first, seed=1),
        replace(first, index=1),
        replace(first, temperature=0.8),
        replace(first, top_p=1.0),
        replace(first, top_k=0),
        replace(first, text="one and more, for the token limit was higher"),
    ]
    store.add_completions([first, *others], policy)
    other_policy = store.add_checkpoint("dpo")
    store.add_completions([replace(first, policy="dpo")], other_policy)
    assert store.counts()["completion"] == 9
    assert store.completions([other_policy]) == [replace(first, policy="dpo")]
    assert store.completions([policy]) == [first, *others]


def test_parts_are_by_hash_of_the_prompt(sqlite_store: Store) -> None:
    store = sqlite_store
    prompts = [Prompt(content=f"prompt {number}") for number in range(200)]
    policy = store.add_checkpoint("sft")
    store.add_completions([sample(prompt, "x") for prompt in prompts], policy)
    for heldout in (0.1, 0.5):
        train = store.prompts(part="train", heldout=heldout)
        held = store.prompts(part="heldout", heldout=heldout)
        assert train == [prompt for prompt in prompts if part_of(prompt, heldout=heldout) == "train"]
        assert set(train) | set(held) == set(prompts)
        assert not set(train) & set(held)
        assert [drawn.prompt for drawn in store.completions(part="heldout", heldout=heldout)] == held


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "dpo"}, "a completion's policy is 'dpo', but it is added to checkpoint 'sft'"),
        ({"logprob": math.nan}, "logprob nan"),
        ({"seed": 2**63}, "seed is 9223372036854775808; the store keeps signed 64-bit integers"),
        ({"text": "\ud800"}, "lone surrogate"),
    ],
)
def test_a_wrong_completion_is_refused_and_none_is_written(
    sqlite_store: Store, change: dict[str, object], message: str
) -> None:
    store = sqlite_store
    policy = store.add_checkpoint("sft")
    wrong = replace(sample("p", "bad"), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        store.add_completions([sample("p", "good"), wrong], policy)
    assert store.counts()["completion"] == store.counts()["prompt"] == 0


def test_completions_of_no_checkpoint_are_refused(sqlite_store: Store) -> None:
    store = sqlite_store
    with pytest.raises(InputError, match="checkpoint 7 is not in the store"):
        store.add_completions([sample("p", "x")], 7)


def test_ten_thousand_completions_take_seconds(store: Store) -> None:
    policy = store.add_checkpoint("sft")
    drawn = [
        sample(f"prompt {number // 4}", f"completion {number} " + "word " * 30, index=number % 4)
        for number in range(10_000)
    ]
    start = time.process_time()
    ids = store.add_completions(drawn, policy)
    # Processor time, as the machine may be shared; a row-by-row writer takes over ten times this.
    assert time.process_time() - start < 6
    assert len(set(ids)) == 10_000
    assert store.completions() == drawn


def test_a_checkpoint_is_its_name_and_its_weights(store: Store) -> None:
    first = store.add_checkpoint("runs/sft", weights_sha256="a" * 64)
    assert store.add_checkpoint("runs/sft", weights_sha256="a" * 64) == first
    retrained = store.add_checkpoint("runs/sft", weights_sha256="b" * 64)
    assert retrained != first
    assert store.add_checkpoint("runs/sft") == retrained  # not known: the newest
    assert store.add_checkpoint("elsewhere") == store.add_checkpoint("elsewhere")
    assert (
        store.add_checkpoint("runs/sft", kind="reward_model") == retrained
    )  # its kind is that of the first time
    with pytest.raises(InputError, match="name is empty"):
        store.add_checkpoint("")
    assert store.counts()["checkpoint"] == 3


def test_an_annotators_settings_stay(store: Store) -> None:
    first = store.add_annotator("sim", kind="simulated", settings={"flip": 0.1, "scale": math.inf})
    assert store.add_annotator("sim", kind="simulated", settings={"scale": math.inf, "flip": 0.1}) == first
    with pytest.raises(Conflict, match=r"annotator sim is in the store .*'flip': 0\.1.* give another name"):
        store.add_annotator("sim", kind="simulated", settings={"flip": 0.2})
    with pytest.raises(InputError, match="'robot'; it must be human, ai, simulated"):
        store.add_annotator("x", kind="robot")  # type: ignore[arg-type]


def with_completions(store: Store, per_prompt: dict[str, list[str]], policy: str = "sft") -> list[int]:
    checkpoint = store.add_checkpoint(policy)
    drawn = [
        sample(prompt, text, index=index, policy=policy)
        for prompt, texts in per_prompt.items()
        for index, text in enumerate(texts)
    ]
    return store.add_completions(drawn, checkpoint)


def test_all_pairs_of_different_texts(store: Store) -> None:
    with_completions(store, {"p": ["a", "b", "c"], "q": ["a", "a"], "r": ["alone"], "s": ["x", "y", "x"]})
    added = store.add_pairs()
    assert (len(added.ids), added.new, added.identical, added.single) == (5, 5, 2, 2)
    pairs = [(item.prompt.content, item.completions) for item in store.items()]
    assert pairs == [
        ("p", ("a", "b")),
        ("p", ("a", "c")),
        ("p", ("b", "c")),
        ("s", ("x", "y")),
        ("s", ("y", "x")),
    ]
    again = store.add_pairs()
    assert again.ids == added.ids
    assert again.new == 0
    assert store.add_pairs(round=1).new == 5  # the next round judges anew


def test_one_random_pair_a_prompt_by_seed_whatever_else_is_there(
    empty_store: Callable[[Path], Store], tmp_path: Path
) -> None:
    texts = {f"p{number}": ["a", "b", "c", "d"] for number in range(60)}

    def pairs(store: Store, seed: int) -> dict[object, tuple[str, ...]]:
        store.add_pairs(strategy="random", seed=seed)
        return {
            item.prompt.content: item.completions for item in store.items() if item.prompt.content in texts
        }

    with empty_store(tmp_path) as store:
        with_completions(store, texts)
        first = pairs(store, 0)
        assert len(first) == store.counts()["item"] == 60
        assert len(set(first.values())) == 6  # every pair of four is drawn for some prompt
    with empty_store(tmp_path) as store:
        with_completions(store, {"another": ["x", "y"], **dict(reversed(texts.items()))})
        assert pairs(store, 0) == first
    with empty_store(tmp_path) as store:
        with_completions(store, texts)
        assert pairs(store, 1) != first


def test_pairs_of_some_checkpoints_and_prompts(sqlite_store: Store) -> None:
    store = sqlite_store
    with_completions(store, {"p": ["a", "b"]}, policy="one")
    with_completions(store, {"p": ["c", "d"], "q": ["e", "f"]}, policy="two")
    two = store.find_checkpoint("two")
    (q,) = store.add_prompts([Prompt(content="q")])
    assert store.add_pairs(checkpoints=[two], prompts=[q]).new == 1
    assert store.add_pairs(checkpoints=[two]).new == 1
    assert store.add_pairs().new == 5  # four completions of p make six pairs, one of them made already


def test_given_items_and_what_they_may_not_be(store: Store) -> None:
    a, b, c, other, same = with_completions(store, {"p": ["a", "b", "c"], "q": ["a"], "p2": ["a"]})[:5]
    (twin,) = store.add_completions([sample("p", "a", seed=9)], store.find_checkpoint("sft"))
    (pair,) = store.add_items([(b, a)])
    assert store.add_items([(a, b), (b, a)]) == [pair, pair]
    (ranked,) = store.add_items([(c, a, b)], kind="rank", strategy="best of three")
    by_id = {item.id: item for item in store.items()}
    assert by_id[pair].completions == ("b", "a")
    assert (by_id[ranked].kind, by_id[ranked].completions) == ("rank", ("c", "a", "b"))
    for group, message in [
        ((a, 999), "completion 999 is not in the store"),
        ((a, b, c), "a pair has 3 completions; it needs 2"),
        ((a,), "a pair has 1 completions"),
        ((a, other), "answer different prompts"),
        ((a, same), "answer different prompts"),
        ((a, twin), "the same text twice"),
        ((a, a), "the same text twice"),
    ]:
        with pytest.raises(InputError, match=message):
            store.add_items([group])
    assert store.counts()["item"] == 2
    assert [item.id for item in store.items([ranked, pair])] == [ranked, pair]
    with pytest.raises(InputError, match="item 9 is not in the store"):
        store.items([9])
