"""Simulated annotators: the noise they claim, reproducibly, and the ceiling it puts on any model."""

import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.data.store import Conflict, Filters, Item, Store
from prefloop.errors import InputError
from prefloop.feedback.simulate import (
    SimulatedAnnotator,
    SimulatedChoice,
    agreement_ceiling,
    label_items,
    prefers,
    simulated_choice,
)
from prefloop.records import Comparison, Completion, Prompt

DRAWS = 4000


def length(prompt: Prompt, completion: str) -> float:
    """The utility of these tests: how long a completion is."""
    return float(len(completion))


def annotator(**settings: Any) -> SimulatedAnnotator:
    return SimulatedAnnotator(**({"name": "sim", "utility": length} | settings))


def pair(number: int, a: str = "aaa", b: str = "b") -> Item:
    return Item(id=number, kind="pair", prompt=Prompt(content=f"p{number}"), completions=(a, b), round=0)


def verdict(who: SimulatedAnnotator, item: Item) -> SimulatedChoice:
    return simulated_choice(who, item, [length(item.prompt, completion) for completion in item.completions])


def share(who: SimulatedAnnotator, choice: str, **texts: str) -> float:
    return sum(verdict(who, pair(number, **texts)).choice == choice for number in range(DRAWS)) / DRAWS


def within(value: float, expected: float, draws: int = DRAWS) -> bool:
    """Within four standard errors of a binomial share: one chance in 16,000 of a false alarm, were the seeds not fixed."""
    return abs(value - expected) <= 4 * math.sqrt(expected * (1 - expected) / draws) + 1e-12


def test_choices_follow_bradley_terry() -> None:
    for temperature in (0.5, 1.0, 3.0):
        expected = 1 / (1 + math.exp(-2 / temperature))  # utilities 3 and 1
        assert within(share(annotator(temperature=temperature), "a"), expected)
        assert within(share(annotator(temperature=temperature), "b", a="b", b="aaa"), expected)
    assert within(share(annotator(), "a", a="xy", b="zw"), 0.5)


def test_flips_come_after_the_draw() -> None:
    p = 1 / (1 + math.exp(-1))  # temperature 2
    assert within(share(annotator(temperature=2.0, flip=0.1), "a"), p * 0.9 + (1 - p) * 0.1)
    assert within(share(annotator(temperature=0.0, flip=0.1), "a"), 0.9)
    assert share(annotator(temperature=0.0, flip=1.0), "b") == 1
    assert within(share(annotator(temperature=0.0, flip=0.1), "b", a="b", b="aaa"), 0.9)


def test_without_noise_the_better_one_is_always_chosen() -> None:
    assert share(annotator(temperature=0.0), "a") == 1
    assert share(annotator(temperature=0.0), "a", a="b", b="aaa") == 0
    assert within(share(annotator(temperature=0.0), "a", a="xy", b="zw"), 0.5)  # equal: a coin


def test_ties_are_where_utilities_differ_by_less_than_the_width() -> None:
    assert share(annotator(tie_width=2.5, flip=0.5), "tie") == 1
    assert share(annotator(tie_width=2.0), "tie") == 0  # they differ by 2 exactly
    assert share(annotator(tie_width=0.0), "tie", a="xy", b="zw") == 0


def test_order_shown_is_random_and_does_not_sway_the_choice() -> None:
    who = annotator(temperature=2.0)
    verdicts = [verdict(who, pair(number)) for number in range(DRAWS)]
    first = sum(at.order_shown == (0, 1) for at in verdicts) / DRAWS
    assert within(first, 0.5)
    p = 1 / (1 + math.exp(-1))
    shown_first = [at.choice == "a" for at in verdicts if at.order_shown == (0, 1)]
    assert within(sum(shown_first) / len(shown_first), p, len(shown_first))


def test_annotators_seeds_and_rounds_draw_independently() -> None:
    alone = annotator(temperature=1e9)  # a fair coin
    base = [verdict(alone, pair(number)).choice for number in range(DRAWS)]
    others = [
        [verdict(annotator(temperature=1e9, seed=1), pair(number)).choice for number in range(DRAWS)],
        [verdict(annotator(temperature=1e9, name="other"), pair(number)).choice for number in range(DRAWS)],
        [verdict(alone, replace(pair(number), round=1)).choice for number in range(DRAWS)],
    ]
    for other in others:
        assert within(sum(a == b for a, b in zip(base, other, strict=True)) / DRAWS, 0.5)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(),
    name=st.text(min_size=1),
    texts=st.lists(st.text(), min_size=2, max_size=2),
    ids=st.tuples(st.integers(), st.integers()),
)
def test_a_verdict_depends_on_content_not_on_the_stores_id(
    seed: int, name: str, texts: list[str], ids: tuple[int, int]
) -> None:
    who = annotator(seed=seed, name=name)
    item = Item(id=ids[0], kind="pair", prompt=Prompt(content="p"), completions=tuple(texts), round=0)
    assert verdict(who, item) == verdict(who, replace(item, id=ids[1]))


def test_verdicts_stay_the_same_for_ever() -> None:
    """A golden value: whoever changes how draws are made changes every simulated data set, and should know."""
    choices = "".join(verdict(annotator(seed=3), pair(number, "aa", "b")).choice for number in range(24))
    assert choices == "aaaaaaabbaabbabaaaaabaaa"


def triple(number: int, texts: tuple[str, ...] = ("a", "bbb", "cc")) -> Item:
    return Item(id=number, kind="rank", prompt=Prompt(content=f"p{number}"), completions=texts, round=0)


def test_rankings_are_plackett_luce_draws() -> None:
    who = annotator(temperature=2.0)
    counts: Counter[tuple[int, ...]] = Counter()
    for number in range(DRAWS):
        ranking = verdict(who, triple(number)).ranking
        counts[tuple(slot for group in ranking for slot in group)] += 1
    strengths = [math.exp(utility / 2) for utility in (1, 3, 2)]
    for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
        expected = 1.0
        for place in range(3):
            expected *= strengths[order[place]] / sum(strengths[slot] for slot in order[place:])
        assert within(counts[order] / DRAWS, expected), order


def test_rankings_without_noise_flipped_and_tied() -> None:
    assert verdict(annotator(temperature=0.0), triple(0)).ranking == ((1,), (2,), (0,))
    assert verdict(annotator(temperature=0.0, flip=1.0), triple(0)).ranking == ((0,), (2,), (1,))
    tied = verdict(annotator(temperature=0.0, tie_width=1.5), triple(0, ("a", "bbb", "cc", "dddddd")))
    assert tied.ranking == ((3,), (0, 1, 2))
    assert sorted(tied.order_shown) == [0, 1, 2, 3]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_preference_is_a_stable_sigmoid(difference: float, temperature: float) -> None:
    p = prefers(difference, temperature)
    assert 0 <= p <= 1
    assert p + prefers(-difference, temperature) == pytest.approx(1)
    if abs(difference / temperature) < 500:
        assert p == pytest.approx(1 / (1 + math.exp(-difference / temperature)), abs=1e-12)


# In the store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s.db") as opened:
        policy = opened.add_checkpoint("sft")
        drawn = [
            Completion(
                prompt=Prompt(content=f"p{number}"),
                text="x" * (1 + (number * 7 + index * 3) % 5),
                policy="sft",
                logprob=-1.0,
                tokens=2,
                ended=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                seed=0,
                index=index,
            )
            for number in range(40)
            for index in range(3)
        ]
        opened.add_completions(drawn, policy)
        opened.add_pairs()
        yield opened


def test_labels_are_any_annotators_judgements(store: Store) -> None:
    who = annotator(temperature=0.0, tie_width=1.5)
    items = store.items()
    labelled = label_items(store, who, items)
    assert len(labelled.judgements) == len(items) == sum(labelled.choices.values())
    selection = store.comparisons(Filters(annotators=("sim",)))
    assert all(len(record.chosen) > len(record.rejected) for record in selection.records)
    assert selection.left_out == {"tie": labelled.choices["tie"]}
    assert len(selection.records) == labelled.choices["a"] + labelled.choices["b"]
    assert store.open_items(store.add_annotator("sim", kind="simulated", settings=who.settings())) == []


def test_labelling_again_or_in_another_order_changes_nothing(store: Store, tmp_path: Path) -> None:
    who = annotator(temperature=2.0, flip=0.2)
    items = store.items()
    first = label_items(store, who, items)
    records = {record.origin: record for record in store.comparisons().records}
    random.Random(0).shuffle(items)
    label_items(store, who, items[:30])
    assert store.counts()["judgement"] == len(first.judgements)
    with Store.open(tmp_path / "other.db") as other:
        policy = other.add_checkpoint("sft")
        other.add_completions(list(reversed(store.completions())), policy)
        texts = {(item.prompt, frozenset(item.completions)) for item in store.items()}
        other.add_pairs()
        assert {(item.prompt, frozenset(item.completions)) for item in other.items()} == texts
        reordered = other.items()
        random.Random(1).shuffle(reordered)
        for start in range(0, len(reordered), 7):
            label_items(other, who, reordered[start : start + 7])
        assert set(other.comparisons().records) == set(records.values())


def test_a_changed_annotator_needs_another_name(store: Store) -> None:
    label_items(store, annotator(seed=1), store.items()[:3])
    with pytest.raises(Conflict, match="annotator sim is in the store"):
        label_items(store, annotator(seed=2), store.items()[3:])


def test_rank_items_are_ranked(store: Store) -> None:
    (item,) = store.add_items([[1, 2, 3]], kind="rank")
    label_items(store, annotator(temperature=0.0), [at for at in store.items() if at.id == item])
    (ranking,) = store.rankings().records
    assert [len(completion) for completion in ranking.completions] == sorted(map(len, ranking.completions))[
        ::-1
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_utility_that_is_no_number_is_refused_and_nothing_is_written(store: Store, value: float) -> None:
    who = annotator(utility=lambda prompt, completion: value)
    with pytest.raises(
        InputError, match=rf"annotator 'sim': the utility of completion .* is {value}; it must be"
    ):
        label_items(store, who, store.items())
    assert store.counts()["judgement"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name is empty"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"flip": 1.5}, "flip is 1.5; it must be a probability"),
        ({"tie_width": -0.1}, "tie_width is -0.1"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        annotator(**change)


# The ceiling


def compared(chosen: str, rejected: str, name: str = "sim") -> Comparison:
    return Comparison(prompt=Prompt(content="p"), chosen=chosen, rejected=rejected, annotator=name)


def test_ceiling_by_hand() -> None:
    assert agreement_ceiling([compared("aaa", "b")], [annotator(temperature=0.0)]) == 1
    assert agreement_ceiling([compared("b", "aaa")], [annotator(temperature=0.0, flip=0.1)]) == pytest.approx(
        0.9
    )
    p = 1 / (1 + math.exp(-2))
    assert agreement_ceiling([compared("aaa", "b")], [annotator()]) == pytest.approx(p)
    assert agreement_ceiling([compared("aaa", "b")], [annotator(flip=0.25)]) == pytest.approx(
        p * 0.75 + (1 - p) * 0.25
    )
    assert agreement_ceiling([compared("a", "b")], [annotator(flip=0.25)]) == pytest.approx(0.5)
    assert agreement_ceiling([compared("aaa", "b")], [annotator(temperature=0.0, flip=0.8)]) == pytest.approx(
        0.8
    )
    two = [annotator(temperature=0.0), annotator(temperature=0.0, flip=0.5, name="coin")]
    mixed = [compared("aaa", "b"), compared("aaa", "b"), compared("b", "aaa", "coin")]
    assert agreement_ceiling(mixed, two) == pytest.approx((1 + 1 + 0.5) / 3)
    assert agreement_ceiling([pair_.swap() for pair_ in mixed], two) == agreement_ceiling(mixed, two)


def test_the_true_utility_reaches_the_ceiling_and_nothing_passes_it() -> None:
    who = annotator(temperature=1.5, flip=0.1, seed=5)
    lengths = random.Random(0)
    right = wrong_model = 0
    labels: list[Comparison] = []
    for number in range(DRAWS):
        a, b = "x" * lengths.randrange(5), "y" * lengths.randrange(5)
        choice = verdict(who, pair(number, a, b)).choice
        chosen, rejected = (a, b) if choice == "a" else (b, a)
        labels.append(replace(compared(chosen, rejected), prompt=Prompt(content=f"p{number}")))
        right += 1 if len(chosen) > len(rejected) else 0.5 if len(chosen) == len(rejected) else 0
        wrong_model += lengths.random() < 0.5
    ceiling = agreement_ceiling(labels, [who])
    assert 0.6 < ceiling < 0.8
    assert within(right / DRAWS, ceiling)
    assert wrong_model / DRAWS < ceiling


def test_the_ceiling_of_what_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="no comparisons to compute the ceiling from"):
        agreement_ceiling([], [annotator()])
    with pytest.raises(InputError, match="comparison by 'ann': its ceiling is not known"):
        agreement_ceiling([compared("a", "b", "ann")], [annotator()])
