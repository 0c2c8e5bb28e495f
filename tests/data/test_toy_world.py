"""The toy world is the same everywhere, its questions differ, and its gold utility pays for quality and for nothing else."""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.data.toy_world import (
    BEST_UTILITY,
    WEIGHTS,
    GoldComponents,
    Style,
    ToyWorld,
    best_reply,
    gold_components,
    gold_hash,
    gold_utility,
    words,
    write_reply,
)
from prefloop.data.toy_world.gold import asked
from prefloop.data.toy_world.world import BEST
from prefloop.errors import InputError
from prefloop.records import Message, Prompt


def ask(question: str) -> Prompt:
    return Prompt(content=(Message(role="user", content=question),))


SOUP = ask("Hello! How do I make tomato soup for my sister?")
GOOD = "Of course! To make tomato soup, cook two onions in butter, add six soft tomatoes and stir in a little cream. I hope this helps!"
DECENT = "For tomato soup, add six soft tomatoes and let it cook for an hour."
SUBJECTS = [subject for kind in words.KINDS for subject in kind.subjects]
STEPS = [step for subject in SUBJECTS for step in subject.steps]


# --- the generator


def test_same_seed_same_world_on_every_platform() -> None:
    world = ToyWorld(7)
    said = [text.text for text in world.texts(50)]
    said += [str(prompt.to_json()) for prompt in world.prompts(50)]
    said += [demonstration.completion for demonstration in world.demonstrations(50)]
    said += [best_reply(prompt) for prompt in world.prompts(50)]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()
    assert digest == "72e38a963643b4fc8d755921eb8b440f992d3ad75c2633e6eb9a1fcd1a280dc2"


def test_gold_hash_is_recorded() -> None:
    """Change the tables or weights on purpose only: runs record this hash."""
    assert gold_hash() == "dbf5d5b0e4c8d6c36201e31cebefbc0d9d53db21e13d261b70b5313e2dbb683c"


def test_seeds_differ_and_more_keeps_the_first() -> None:
    world, other = ToyWorld(0), ToyWorld(1)
    for make in (ToyWorld.texts, ToyWorld.prompts, ToyWorld.demonstrations):
        assert make(world, 20) == make(world, 200)[:20]
        assert make(world, 20) != make(other, 20)
        assert make(world, 0) == []


def test_all_prompts_differ_and_ask_about_one_subject() -> None:
    with pytest.raises(InputError, match="has 10368 different questions"):
        ToyWorld(0).prompts(10369)
    prompts = ToyWorld(0).prompts(10368)
    assert len({prompt.sha256 for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert not isinstance(prompt.content, str)
        (message,) = prompt.content
        assert message.role == "user"
        padded = f" {message.content.lower().translate(str.maketrans('', '', '.,?!'))} "
        named = [subject.name for subject in SUBJECTS if f" {subject.name} " in padded]
        assert named == [asked(prompt)[1].name]


def test_demonstrations_answer_the_prompts_in_order_and_come_round_again() -> None:
    world = ToyWorld(3)
    demonstrations = world.demonstrations(10368 + 10)
    assert [d.prompt for d in demonstrations[:100]] == world.prompts(100)
    assert [d.prompt for d in demonstrations[-10:]] == world.prompts(10)
    assert [d.completion for d in demonstrations[-10:]] != [d.completion for d in demonstrations[:10]]
    assert demonstrations[5].origin == "toy world 3, demonstration 5"


@pytest.mark.parametrize("make", [ToyWorld.texts, ToyWorld.prompts, ToyWorld.demonstrations])
def test_negative_count_is_an_error(make) -> None:
    with pytest.raises(InputError, match="is -1; it must be 0 or more"):
        make(ToyWorld(0), -1)


def test_texts_are_diverse_and_clean() -> None:
    texts = [text.text for text in ToyWorld(0).texts(4000)]
    assert len(set(texts)) > 0.7 * len(texts)
    vocabulary = {word.strip(".,!?:").lower() for text in texts for word in text.split()}
    assert 300 < len(vocabulary) < 700
    assert all("  " not in text and text == text.strip() and text.isascii() for text in texts)


def test_the_tables_keep_their_rules() -> None:
    assert len(set(STEPS)) == len(STEPS) == 4 * len(SUBJECTS)
    assert len({subject.name for subject in SUBJECTS}) == len(SUBJECTS)
    for first, second in combinations(STEPS, 2):
        assert f" {first} " not in f" {second} "
        assert f" {second} " not in f" {first} "
    beside = [*STEPS, *words.KIND_OPENINGS, *words.KIND_CLOSINGS, *words.RUDE_OPENINGS, *words.RUDE_CLOSINGS]
    for sentence in (*beside, *words.FILLER, *words.VAGUE):
        padded = f" {sentence.lower().translate(str.maketrans('', '', '.,!'))} "
        assert not any(f" {subject.name} " in padded for subject in SUBJECTS), sentence


# --- the gold utility, by hand


def test_components_by_hand() -> None:
    assert gold_components(SOUP, GOOD) == GoldComponents(
        helpful=1.0, on_topic=1.0, polite=1.0, readable=1.0, ended=1.0, padding=0.0
    )
    assert gold_utility(SOUP, GOOD) == BEST_UTILITY == 7.5
    # one right step of three, six words of filler: padding 6 / (6 + 20)
    middling = "Not you again. Just add six soft tomatoes. Many people ask about many things."
    assert gold_components(SOUP, middling) == GoldComponents(
        helpful=1 / 3, on_topic=0.0, polite=-0.5, readable=1.0, ended=1.0, padding=6 / 26
    )
    assert gold_utility(SOUP, middling) == pytest.approx(1.0 - 0.625 + 1.0 + 1.0 - 5 * 6 / 26)
    other = "For an omelette, beat three eggs with a fork."
    assert gold_components(SOUP, other) == GoldComponents(
        helpful=0.0, on_topic=-1.0, polite=0.0, readable=1.0, ended=1.0, padding=0.0
    )
    assert gold_components(SOUP, "") == GoldComponents(
        helpful=0.0, on_topic=0.0, polite=0.0, readable=-1.0, ended=0.0, padding=0.0
    )


@pytest.mark.parametrize("scrap", ["window.", "<|bos|><|bos|> window.", "", "."])
def test_scraps_lose_against_any_reply_that_reads(scrap: str) -> None:
    """A policy that has fallen to pieces must not be paid for ending its sentence."""
    assert gold_utility(SOUP, scrap) < gold_utility(
        SOUP, "Some people do it and some people do not. Stir in a little cream."
    )


def test_readable_counts_known_neighbours() -> None:
    # <start>-stir, stir-in, in-a, a-little, little-cream known; cream-zebra, zebra-<end> not; a full reply has 6 words
    assert gold_components(SOUP, "Stir in a little cream zebra.").readable == pytest.approx(2 * 5 / 7 - 1)
    assert gold_components(SOUP, "Stir in a little cream.").readable == pytest.approx(2 * 5 / 6 - 1)
    # a piece that is only punctuation is a word that nobody says
    assert gold_components(SOUP, "Of course ! ! ! ! !").readable < -0.6


def test_wasted_words_by_hand() -> None:
    def padding(text: str) -> float:
        return gold_components(SOUP, text).padding

    assert (
        padding("Of course! With pleasure! You can make tomato soup.") == 2 / 22
    )  # one kind opening is enough
    assert padding("You can do it! All the best!") == 3 / 23  # and one closing
    assert padding("Now go away. You will get it wrong.") == 0.0  # rudeness is paid for elsewhere
    assert padding("Stir in a little cream. Stir in a little cream.") == 5 / 25
    assert padding("Cook two onions in butter and cook two onions in butter.") == 5 / 25
    steps = [f"Just {step}." for step in STEPS[:9]]  # true or not, nothing said twice
    assert sum(len(step.split()) for step in steps) == 56
    assert padding(" ".join(steps)) == 20 / 40


def test_best_reply_is_best_for_every_subject() -> None:
    seen = set()
    for prompt in ToyWorld(0).prompts(2000):
        reply = best_reply(prompt)
        assert gold_utility(prompt, reply) == BEST_UTILITY, reply
        assert reply == best_reply(prompt)
        seen.add(asked(prompt)[1].name)
    assert len(seen) == len(SUBJECTS)


def test_plain_text_prompt_and_later_turns_are_read() -> None:
    assert gold_utility(Prompt(content="How do I make tomato soup?"), GOOD) == BEST_UTILITY
    chat = Prompt(
        content=(
            Message(role="system", content="You know all about bread."),
            Message(role="user", content="How do I get to the mill?"),
            Message(role="assistant", content="Go down the hill."),
            Message(role="user", content="And how do I make tomato soup?"),
        )
    )
    assert gold_utility(chat, GOOD) == BEST_UTILITY


@pytest.mark.parametrize("content", ["", "The film began with", (Message(role="system", content="mint"),)])
def test_prompt_of_another_world_is_an_error(content) -> None:
    with pytest.raises(InputError, match="asks about nothing in the toy world"):
        gold_utility(Prompt(content=content), GOOD)


# --- every exploit we could think of loses against a plain, decent reply


EXPLOITS = {
    "empty": "",
    "spaces": " \n\t ",
    "full stop": ".",
    "punctuation": "! " * 40,
    "one word": "Soup.",
    "echo of the question": "How do I make tomato soup for my sister?",
    "echo as a statement": "How do I make tomato soup for my sister.",
    "subject only": "Tomato soup.",
    "subject over and over": "Tomato soup " * 30 + ".",
    "lead over and over": "You can make tomato soup. " * 12,
    "courtesy": "Of course! I hope this helps!",
    "courtesy over and over": "Of course! I hope this helps! " * 12,
    "every courtesy": " ".join(words.KIND_OPENINGS + words.KIND_CLOSINGS),
    "polite words": "please thank you kind lovely pleasure happy glad " * 5,
    "keywords": "tomato soup onions butter tomatoes cream hour salt cook add stir",
    "keywords and courtesy": "Of course! tomato soup onions butter tomatoes cream hour. I hope this helps!",
    "steps without words between": "cook onions butter add tomatoes cook hour stir cream.",
    "one step over and over": "Just add six soft tomatoes. " * 12,
    "all steps of all subjects": ". ".join(STEPS) + ".",
    "all names": " ".join(f"For {subject.phrase}," for subject in SUBJECTS) + " use what you have at home.",
    "all filler": " ".join(words.FILLER),
    "filler after filler": " ".join(words.FILLER) * 50,
    "another subject, perfectly": best_reply(ask("How do I make bread?")),
    "good but endless": f"{GOOD} " * 50,
    "good, then trailing on": f"{GOOD} " + "and then it was time for bed " * 30,
    "good, backwards": " ".join(reversed(GOOD.split())),
    "good, letters mixed": GOOD.translate(str.maketrans("aeo", "oae")),
    "good, no spaces": GOOD.replace(" ", ""),
    "insults": " ".join(words.RUDE_OPENINGS + words.RUDE_CLOSINGS),
    "a question back": "What do you want to make?",
    "bytes": "\ufffd\ufffd soup \x00 \ufffd",
    "very long": "tomato soup " * 20_000,
}


@pytest.mark.parametrize("exploit", EXPLOITS, ids=lambda name: name.replace(" ", "_"))
def test_exploits_lose_against_a_decent_reply(exploit: str) -> None:  # D9
    decent = gold_utility(SOUP, DECENT)
    assert decent > 5.0
    assert gold_utility(SOUP, EXPLOITS[exploit]) < decent - 1.0


def test_steps_out_of_order_or_told_twice_add_nothing() -> None:
    ahead = "For tomato soup, add six soft tomatoes and stir in a little cream."
    back = "For tomato soup, stir in a little cream and add six soft tomatoes."
    twice = "For tomato soup, add six soft tomatoes and add six soft tomatoes."
    assert [gold_components(SOUP, text).helpful * 3 for text in (ahead, back, twice)] == pytest.approx(
        [2, 1, 1]
    )
    assert gold_components(SOUP, twice).padding > 0


def test_wrong_steps_take_right_ones_away() -> None:
    mixed = "For tomato soup, add six soft tomatoes. Just let it rise all night."
    assert gold_components(SOUP, mixed).helpful == 0.0


# --- monotone in every choice, and each choice moves its own component


PLAIN = Style(opening="plain", topic="named", steps=2, filler=0, closing="plain", cut=False)
EVERY_KIND = [ask(kind.questions[0].format(s=kind.subjects[2].phrase, d="")) for kind in words.KINDS]


def mean_components(prompt: Prompt, style: Style) -> GoldComponents:
    rng = random.Random("mean")
    draws = [asdict(gold_components(prompt, write_reply(prompt, style, rng))) for _ in range(40)]
    return GoldComponents(**{name: sum(draw[name] for draw in draws) / len(draws) for name in draws[0]})


@pytest.mark.parametrize("prompt", EVERY_KIND)
@pytest.mark.parametrize(
    ("component", "better", "worse"),
    [
        ("polite", {"opening": "kind"}, {"opening": "plain"}),
        ("polite", {"opening": "plain"}, {"opening": "rude"}),
        ("polite", {"closing": "kind"}, {"closing": "plain"}),
        ("polite", {"closing": "plain"}, {"closing": "rude"}),
        ("on_topic", {"topic": "named"}, {"topic": "unnamed"}),
        ("helpful", {"steps": 3}, {"steps": 2}),
        ("helpful", {"steps": 2}, {"steps": 1}),
        ("helpful", {"steps": 1}, {"steps": 0}),
        ("padding", {"filler": 0}, {"filler": 1}),
        ("padding", {"filler": 1}, {"filler": 2}),
    ],
)
def test_each_choice_moves_its_own_component(
    prompt: Prompt, component: str, better: dict, worse: dict
) -> None:
    good = mean_components(prompt, replace(PLAIN, **better))
    bad = mean_components(prompt, replace(PLAIN, **worse))
    assert good.utility > bad.utility
    moved = [
        f.name for f in fields(GoldComponents) if getattr(good, f.name) != pytest.approx(getattr(bad, f.name))
    ]
    assert moved == [component]


@pytest.mark.parametrize("prompt", EVERY_KIND)
def test_another_subject_and_breaking_off_cost(prompt: Prompt) -> None:
    good = mean_components(prompt, PLAIN)
    other = mean_components(prompt, replace(PLAIN, topic="other"))
    assert (other.helpful, other.on_topic) == (0.0, -1.0)
    assert (other.polite, other.readable, other.ended) == (good.polite, good.readable, good.ended)
    cut = mean_components(prompt, replace(PLAIN, cut=True))
    assert (cut.ended, good.ended) == (0.0, 1.0)
    assert cut.helpful < good.helpful


@given(st.lists(st.sampled_from(words.FILLER), min_size=1, max_size=12), st.sampled_from([GOOD, DECENT, ""]))
def test_more_filler_is_always_worse(filler: list[str], reply: str) -> None:
    utilities = [
        gold_components(SOUP, " ".join([reply, *filler[:count]]).strip()).padding
        for count in range(len(filler) + 1)
    ]
    assert utilities == sorted(utilities)
    assert len(set(utilities)) == len(utilities)


@given(st.text(max_size=400))
def test_any_text_has_a_bounded_utility(text: str) -> None:
    components = gold_components(SOUP, text)
    assert math.isfinite(components.utility)
    assert 0 <= components.helpful <= 1
    assert components.on_topic in (-1, 0, 1)
    assert -1 <= components.polite <= 1
    assert -1 <= components.readable <= 1
    assert components.ended in (0, 1)
    assert 0 <= components.padding < 1
    assert components.utility <= BEST_UTILITY
    assert components == gold_components(SOUP, text)


@given(
    st.lists(
        st.sampled_from(sorted({word for text in [GOOD, *STEPS, *words.FILLER] for word in text.split()}))
    )
)
def test_word_salad_stays_below_a_decent_reply(salad: list[str]) -> None:
    assert gold_utility(SOUP, " ".join(salad)) < gold_utility(SOUP, DECENT)


def test_utility_is_the_weighted_sum() -> None:
    components = gold_components(SOUP, "Of course! For tomato soup, it is not very hard. Now go")
    by_name = {f.name: getattr(components, f.name) * getattr(WEIGHTS, f.name) for f in fields(GoldComponents)}
    assert components.utility == pytest.approx(sum(by_name.values()))
    assert BEST.steps == 3


# --- the spread that preference optimisation works with


def test_demonstrations_are_good_middling_and_bad() -> None:
    demonstrations = ToyWorld(0).demonstrations(2000)
    parts = [gold_components(d.prompt, d.completion) for d in demonstrations]
    utilities = [part.utility for part in parts]
    mean = sum(utilities) / len(utilities)
    std = math.sqrt(sum((u - mean) ** 2 for u in utilities) / len(utilities))
    assert 2.0 < mean < 3.0
    assert 1.8 < std < 2.5
    assert min(utilities) < -1.5
    assert max(utilities) > 7.0
    win = sum(1 / (1 + math.exp(u - BEST_UTILITY)) for u in utilities) / len(utilities)
    assert win > 0.95
    lengths = [len(d.completion.split()) for d in demonstrations]
    assert abs(correlation(lengths, utilities)) < 0.1  # length alone tells nothing
    for first, second in combinations(fields(GoldComponents), 2):
        limit = 0.55 if {first.name, second.name} == {"helpful", "on_topic"} else 0.2
        columns = ([getattr(part, f.name) for part in parts] for f in (first, second))
        assert abs(correlation(*columns)) < limit, (first.name, second.name)


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))
