"""The gold judges: known truth for recipes, the same wherever it is loaded."""

import builtins
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from prefloop.data.toy_world import ToyWorld, best_reply, gold_hash
from prefloop.errors import InputError
from prefloop.evaluation.intervals import rate_interval
from prefloop.feedback.gold import (
    Accuracy,
    GoldJudge,
    SentimentJudge,
    SentimentSettings,
    TermModel,
    ToyJudge,
    _split_reviews,
    _terms,
    held_out,
    plain_review,
)
from prefloop.feedback.utility import find_utility, is_log_odds
from prefloop.records import Prompt

GOOD = ("wonderful", "moving", "brilliant", "funny", "charming", "superb")
BAD = ("awful", "boring", "dreadful", "clumsy", "stupid", "dull")
REST = ("the", "film", "was", "story", "with", "actors", "a", "of", "in", "scene", "music", "long")
SMALL = SentimentSettings(min_texts=2, windows=1, shortest=4, longest=8, measured=8)
PROMPT = Prompt(content="I saw this film")


def made_up_reviews(n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """`n` reviews whose stars follow from one word in four, with marks and breaks as people leave them."""
    rng = np.random.Generator(np.random.PCG64(seed))
    texts, ratings = [], []
    for _ in range(n):
        positive = bool(rng.integers(2))
        tone = GOOD if positive else BAD
        words = [str(rng.choice(tone if rng.random() < 0.25 else REST)) for _ in range(24)]
        words[12] = f"{rng.choice(tone)}.<br /><br />And"
        texts.append(" ".join(words))
        ratings.append(int(rng.choice([7, 8, 9, 10] if positive else [1, 2, 3, 4])))
    return texts, ratings


@pytest.fixture(scope="module")
def judge() -> SentimentJudge:
    return SentimentJudge.fit(*made_up_reviews(400), settings=SMALL)


# --- the toy judge


def test_toy_judge_is_the_worlds_utility() -> None:
    toy: GoldJudge = ToyJudge()
    (prompt,) = ToyWorld(0).prompts(1)
    assert toy.utility(prompt, best_reply(prompt)) == 7.5
    assert (toy.name, toy.sha256) == ("toy", gold_hash())
    with pytest.raises(InputError, match="asks about nothing in the toy world"):
        toy.utility(PROMPT, "Of course!")


# --- the interval


def test_wilson_interval_by_hand() -> None:
    # 8 of 10: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10), z = 1.96
    accuracy = Accuracy.of([True] * 8 + [False] * 2)
    assert (accuracy.value, accuracy.n) == (0.8, 10)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert Accuracy.of([False] * 5).low == 0.0
    assert Accuracy.of([True] * 5).high == 1.0


@given(st.integers(1, 2000), st.data())
def test_wilson_interval_is_scipys(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    ours, theirs = (
        Accuracy.of([True] * right + [False] * (n - right)),
        binomtest(right, n).proportion_ci(method="wilson"),
    )
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=60))
def test_interval_by_group_is_that_of_evaluations(answers: list[tuple[bool, int]]) -> None:
    right, groups = [answer for answer, _ in answers], [str(group) for _, group in answers]
    ours, theirs = Accuracy.of(right, groups), rate_interval(right, clusters=groups)
    assert (ours.value, ours.low, ours.high) == pytest.approx(
        (theirs.value, theirs.low, theirs.high), abs=1e-12
    )


# --- the sentiment judge on made-up reviews


def test_log_odds_by_hand() -> None:
    model = TermModel(
        terms=("good", "bad", "not good"),
        idf=np.array([1.0, 1.5, 2.0]),
        coefficients=np.array([3.0, -3.0, -4.0]),
        intercept=0.25,
    )
    assert model.log_odds("") == model.log_odds("unknown words only") == 0.25
    assert model.log_odds("Good!") == pytest.approx(3.25)  # one term alone has weight one
    # good twice and bad once: weights (1 + ln 2) · 1 and 1 · 1.5
    good, bad = 1 + math.log(2), 1.5
    expected = 0.25 + (3 * good - 3 * bad) / math.hypot(good, bad)
    assert model.log_odds("good GOOD<br />bad") == pytest.approx(expected)
    assert model.log_odds("not good") == pytest.approx(0.25 + (3 * 1.0 - 4 * 2.0) / math.hypot(1, 2))


def test_fitted_judge_knows_good_from_bad(judge: SentimentJudge) -> None:
    assert judge.accuracy.value > 0.855
    assert 60 < judge.accuracy.n < 100
    assert judge.accuracy.low < judge.accuracy.value <= judge.accuracy.high
    assert judge.accuracy_short.value > 0.6
    probabilities = judge.positive_probability(["a wonderful, moving story", "a dull and stupid scene", ""])
    assert probabilities.dtype == np.float64
    assert probabilities[0] > 0.8 > 0.2 > probabilities[1]
    assert judge.name == "sentiment"


def test_utility_is_the_log_odds_of_the_completion_alone(judge: SentimentJudge) -> None:
    as_gold: GoldJudge = judge
    here = as_gold.utility(PROMPT, "was brilliant and funny")
    assert here == as_gold.utility(Prompt(content="An awful, dreadful, boring"), "was brilliant and funny")
    (probability,) = judge.positive_probability(["was brilliant and funny"])
    assert here == pytest.approx(math.log(probability / (1 - probability)))


def test_own_numbers_are_scikit_learns(judge: SentimentJudge) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, _ = made_up_reviews(50, seed=5)
    model = judge.model
    vectorizer = TfidfVectorizer(analyzer=_terms, sublinear_tf=True, vocabulary=list(model.terms))  # pyright: ignore[reportArgumentType]
    vectorizer.idf_ = model.idf
    expected = vectorizer.transform(texts) @ model.coefficients + model.intercept
    np.testing.assert_allclose([model.log_odds(text) for text in texts], expected, rtol=1e-9)


def test_fit_is_deterministic_and_seeded() -> None:
    reviews = made_up_reviews(200)
    first, again = (SentimentJudge.fit(*reviews, settings=SMALL) for _ in range(2))
    assert first.sha256 == again.sha256
    other = SentimentJudge.fit(*reviews, settings=replace(SMALL, seed=1))
    assert other.sha256 != first.sha256
    assert SentimentJudge.fit(*made_up_reviews(400), seed=3).settings == SentimentSettings(seed=3)


def test_saved_and_loaded_is_equal_and_needs_no_scikit_learn(
    judge: SentimentJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.save(tmp_path / "gold")
    without_scikit_learn(monkeypatch)
    loaded = SentimentJudge.load(tmp_path / "gold")
    assert loaded.sha256 == judge.sha256
    assert (loaded.settings, loaded.accuracy, loaded.accuracy_short) == (
        judge.settings,
        judge.accuracy,
        judge.accuracy_short,
    )
    texts, _ = made_up_reviews(20, seed=9)
    np.testing.assert_array_equal(loaded.positive_probability(texts), judge.positive_probability(texts))
    assert sorted(path.name for path in (tmp_path / "gold").iterdir()) == ["sentiment.json", "sentiment.npz"]


def test_a_saved_judge_is_named_by_its_folder(judge: SentimentJudge, tmp_path: Path) -> None:
    judge.save(tmp_path / "judge")
    utility = find_utility(str(tmp_path / "judge"))
    assert utility(PROMPT, "a brilliant story") == judge.utility(PROMPT, "a brilliant story")
    assert is_log_odds(str(tmp_path / "judge"))
    assert not is_log_odds("toy")
    with pytest.raises(InputError, match="sentiment"):
        find_utility(str(tmp_path))


def test_damaged_or_missing_judge_is_an_error(judge: SentimentJudge, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sentiment\.json: no sentiment judge was saved here"):
        SentimentJudge.load(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    with pytest.raises(InputError, match=r"it is a model: name a reward model with --reward_model"):
        SentimentJudge.load(tmp_path / "model")
    judge.save(tmp_path)
    about = json.loads((tmp_path / "sentiment.json").read_text())
    (tmp_path / "sentiment.json").write_text(json.dumps(about | {"terms": about["terms"][::-1]}))
    with pytest.raises(InputError, match="do not belong to one judge"):
        SentimentJudge.load(tmp_path)
    (tmp_path / "sentiment.json").write_text(json.dumps({"terms": []}))
    with pytest.raises(InputError, match="cannot be read"):
        SentimentJudge.load(tmp_path)
    judge.save(tmp_path)
    (tmp_path / "sentiment.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="cannot be read"):
        SentimentJudge.load(tmp_path)


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without_scikit_learn(monkeypatch)
    with pytest.raises(InputError, match=r"pip install prefloop\[imdb\]"):
        SentimentJudge.fit(*made_up_reviews(100))


def test_unusable_reviews_are_errors() -> None:
    texts, ratings = made_up_reviews(100)
    with pytest.raises(InputError, match="100 texts and 99 ratings"):
        SentimentJudge.fit(texts, ratings[1:])
    with pytest.raises(InputError, match="rating is 11; stars go from 1 to 10"):
        SentimentJudge.fit(texts, [*ratings[1:], 11])
    with pytest.raises(InputError, match="of 100 reviews 0 are left to fit on"):
        SentimentJudge.fit(texts, [5] * 100)
    with pytest.raises(InputError, match="both positive and negative ones are needed"):
        SentimentJudge.fit(texts, [9] * 100)
    with pytest.raises(InputError, match="no word occurs in 1000 of the"):
        SentimentJudge.fit(texts, ratings, settings=SentimentSettings(min_texts=1000))
    with pytest.raises(InputError, match="heldout is 1"):
        SentimentSettings(heldout=1)
    with pytest.raises(InputError, match="shortest is 9 and longest is 8"):
        SentimentSettings(shortest=9, longest=8)


def test_copies_of_a_review_are_held_out_together() -> None:
    """Else the judge is measured on texts it was fitted on."""
    texts, ratings = made_up_reviews(200)
    fitted, heldout, _ = _split_reviews(texts * 3, ratings * 3, [str(i) for i in range(600)], SMALL)
    assert not {text for text, _ in fitted} & {text for text, _ in heldout}
    assert len(fitted) + len(heldout) == 600


def reviews_of_films(films: range, each: int = 10) -> tuple[list[str], list[int], list[str]]:
    """Texts, stars and films. Every review has its film's name in it, and only the film says whether it is a good one."""
    rng = np.random.Generator(np.random.PCG64([films.start, 7]))
    texts, ratings, groups = [], [], []
    for film in films:
        positive = bool(rng.integers(2))
        for _ in range(each):
            words = [str(word) for word in rng.choice(REST, 20)]
            for place in rng.choice(20, 4, replace=False):
                words[place] = f"film{film}"
            texts.append(" ".join(words))
            ratings.append(9 if positive else 2)
            groups.append(f"film {film}")
    return texts, ratings, groups


def test_the_judges_claim_holds_on_other_films() -> None:  # E4
    """Reviews of one film on both sides of the split let the judge know the film by its name, and claim it as accuracy."""
    texts, ratings, groups = reviews_of_films(range(80))
    judge = SentimentJudge.fit(texts, ratings, groups=groups, settings=SMALL)
    others, stars, _ = reviews_of_films(range(1000, 1080))
    right = [
        (judge.model.log_odds(text) > 0) == (rating > 5) for text, rating in zip(others, stars, strict=True)
    ]
    assert 0.25 < np.mean(right) < 0.75
    assert judge.accuracy.value == pytest.approx(np.mean(right), abs=0.25)
    assert judge.accuracy.low < 0.55
    assert (
        SentimentJudge.fit(texts, ratings, settings=SMALL).accuracy.value > 0.85
    )  # what a split by text says


def test_reviews_of_one_film_are_held_out_together() -> None:
    texts, _, groups = reviews_of_films(range(40))
    parts = held_out(texts, groups, SMALL)
    assert len(set(zip(groups, parts, strict=True))) == 40
    assert 0 < sum(parts) < len(parts)
    copies = [held_out(["one text"] * 2, ["film 0", f"film {i}"], SMALL) for i in range(40)]
    assert all(first == second for first, second in copies)  # a copy goes where its first goes
    with pytest.raises(InputError, match="400 texts and 399 groups"):
        SentimentJudge.fit(texts, [1] * 400, groups=groups[1:])


def test_breaks_and_marks_are_not_words() -> None:
    assert plain_review("Good.<br /><br />Not<BR>bad &amp; <i>short</i>") == "Good.  Not bad &  short "
    assert plain_review("2 < 3 and 5 > 4") == "2 < 3 and 5 > 4"


@given(st.text(max_size=300))
def test_any_text_has_a_finite_utility(text: str) -> None:
    model = TermModel(
        terms=("a", "the film"), idf=np.array([1.0, 2.0]), coefficients=np.array([9.0, -9.0]), intercept=0.0
    )
    assert math.isfinite(model.log_odds(text))
    assert abs(model.log_odds(text)) <= 9.0 * math.sqrt(2)


# --- real reviews


def test_real_reviews(real_data: Path) -> None:
    """An eighth of the reviews, whole ones only, to be quick."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path = real_data / "imdb" / "train.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    table = parquet.read_table(path, columns=["text", "rating"]).to_pydict()
    texts, ratings = table["text"][::8], table["rating"][::8]
    judge = SentimentJudge.fit(texts, ratings, settings=SentimentSettings(windows=0, max_terms=30_000))
    assert judge.accuracy.value > 0.85
    assert judge.accuracy_short.value > 0.68
    assert "br" not in judge.model.terms
    good, bad = judge.positive_probability(
        [
            "a wonderful film, one of the best I have ever seen",
            "the worst film ever, boring and a waste of time",
        ]
    )
    assert good > 0.8 > 0.2 > bad


def without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not installed."""
    import_module = builtins.__import__

    def refuse(name: str, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
