"""Text statistics against slow, plain versions; alarms that go off when they should and only then."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.evaluation.intervals import Estimate, mean_interval, paired_difference
from prefloop.evaluation.text_statistics import (
    cross_prompt_similarity,
    distinct,
    duplicated,
    longest_repeat,
    ngrams,
    policy_alarms,
    repeated_share,
    reward_hacking_alarms,
    text_alarms,
    text_statistics,
    words,
)

few_words = st.lists(st.sampled_from("ab"), max_size=14).map(tuple)


def test_words():
    assert words("Don't stop, please!") == ("don", "'", "t", "stop", ",", "please", "!")
    assert words("  \n ") == ()


def test_repetition_by_hand():
    # a b c | b c a | c a b | a b c: four 3-grams, three different
    assert repeated_share(tuple("abcabc")) == pytest.approx(1 / 4)
    assert repeated_share(tuple("ab")) == 0
    assert repeated_share(tuple("aaaaa")) == pytest.approx(2 / 3)
    assert distinct([tuple("aab"), tuple("ab")], n=1) == pytest.approx(2 / 5)
    assert math.isnan(distinct([("a",)], n=2))


@given(few_words)
def test_longest_repeat_against_all_pairs(text: tuple[str, ...]):
    longest = 0
    for i in range(len(text)):
        for j in range(i + 1, len(text)):
            run = 0
            while j + run < len(text) and text[i + run] == text[j + run]:
                run += 1
            longest = max(longest, run)
    assert longest_repeat(text) == longest


def test_duplicates_are_between_prompts_only():
    texts = [words(t) for t in ("Yes.", "yes .", "No", "maybe", "maybe")]
    assert duplicated(texts, [0, 1, 1, 2, 2]) == [True, True, False, False, False]


@given(st.lists(st.tuples(few_words, st.integers(0, 3)), min_size=2, max_size=8))
def test_similarity_against_all_pairs(rows: list[tuple[tuple[str, ...], int]]):
    texts, prompts = [text for text, _ in rows], [prompt for _, prompt in rows]

    def cosine(a: tuple[str, ...], b: tuple[str, ...]) -> float:
        x, y = Counter(ngrams(a, 3) or [a]), Counter(ngrams(b, 3) or [b])
        lengths = math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
        return sum(x[gram] * y[gram] for gram in x) / lengths

    pairs = [
        cosine(texts[i], texts[j])
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if prompts[i] != prompts[j]
    ]
    found = cross_prompt_similarity(texts, prompts)
    if not pairs:
        assert math.isnan(found.value)
    else:
        assert found.value == pytest.approx(np.mean(pairs), abs=1e-9)


def test_similarity_of_the_same_text_is_one():
    found = cross_prompt_similarity([words("the very same answer")] * 5, range(5))
    assert found.value == pytest.approx(1)
    assert found.no_spread


def _statistics(texts: list[str], ended: bool = True):
    return text_statistics(texts, prompts=range(len(texts)), ended=[ended] * len(texts))


def _varied(n: int = 60, length: int = 20, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in random.integers(0, 400, length)) for _ in range(n)]


def test_statistics_of_empty_texts():
    found = _statistics(["", ""])
    assert found.length.value == 0
    assert found.repetition.value == 0
    assert found.duplicates.value == 1


def test_no_alarm_without_a_change():
    alarms = policy_alarms(
        "ppo",
        proxy_gain=paired_difference([1.0, 2.0, 1.5], [0.0, 1.1, 0.4]),
        gold_gain=paired_difference([1.0, 2.0, 1.5], [0.0, 1.1, 0.4]),
        before=_statistics(_varied(seed=1)),
        after=_statistics(_varied(seed=2)),
    )
    assert alarms == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (_statistics(_varied(length=50)), "grew"),
        (_statistics(_varied(length=5)), "shrank"),
        (_statistics([text + " so so so so so so so so" for text in _varied()]), "repeats itself"),
        (_statistics(_varied(), ended=False), "token limit"),
        (_statistics(["thank you so much for asking me that"] * 60), "word for word"),
        (
            _statistics([f"thank you so much for asking me about number {i}" for i in range(60)]),
            "mode collapse",
        ),
    ],
)
def test_each_text_alarm(after, said: str):
    alarms = text_alarms("ppo", before=_statistics(_varied(seed=3)), after=after)
    assert any(said in alarm for alarm in alarms)
    assert all(alarm.startswith("ppo: ") and alarm.endswith(".") for alarm in alarms)


def _gain(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high, n=50)


@pytest.mark.parametrize(
    ("proxy", "gold", "said"),
    [
        (_gain(0.5, 1.5), _gain(-1.0, -0.2), "fell"),
        (_gain(0.5, 1.5), _gain(-0.2, 0.2), "did not clearly rise"),
        (_gain(0.5, 1.5), _gain(0.1, 0.2), ""),
        (_gain(-0.5, 1.5), _gain(-1.0, -0.2), ""),
        (Estimate(value=1, low=math.nan, high=math.nan, n=1), _gain(-1.0, -0.2), ""),
        # every completion gained the same: that is a rise, and no interval
        (paired_difference([2.0] * 9, [1.0] * 9), _gain(-1.0, -0.2), "fell"),
        (paired_difference([2.0] * 9, [1.0] * 9), paired_difference([1.0] * 9, [0.0] * 9), ""),
    ],
)
def test_reward_hacking(proxy: Estimate, gold: Estimate, said: str):
    alarms = reward_hacking_alarms("ppo", proxy_gain=proxy, gold_gain=gold)
    assert bool(alarms) == bool(said)
    assert all(said in alarm for alarm in alarms)


def test_without_a_gold_judge_hacking_is_not_judged():
    same = _statistics(_varied())
    assert policy_alarms("ppo", proxy_gain=_gain(1, 2), gold_gain=None, before=same, after=same) == []


def test_alarms_need_both_intervals_apart():
    before = _statistics(_varied())
    unsure = replace(before, length=Estimate(value=100, low=1, high=200, n=2))
    assert text_alarms("ppo", before=before, after=unsure) == []


def test_completions_that_all_run_into_the_limit_have_grown():  # V1
    before, after = (
        replace(_statistics(_varied(length=20)), length=length)
        for length in (mean_interval([9.0, 12.0, 10.0]), mean_interval([64.0] * 3))
    )
    assert after.length.no_spread
    (alarm,) = text_alarms("ppo", before=before, after=after)
    assert "grew from" in alarm
    assert "64 [no spread, no interval]" in alarm
