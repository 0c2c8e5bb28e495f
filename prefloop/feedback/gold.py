"""Judges whose preferences are known, so that a recipe can say how much of a preference its policies have learned.

The toy world's judge is a formula. The judge of movie reviews is a classifier fitted on the star ratings people gave, TF-IDF of
words and word pairs under logistic regression; scikit-learn fits it, and after that it is a table of numbers that needs only NumPy
and is saved as JSON and arrays, so that what judged a run can be read, hashed and used again anywhere.
"""

import hashlib
import html
import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from prefloop.configs.common import require
from prefloop.data.toy_world import gold_hash, gold_utility
from prefloop.errors import InputError
from prefloop.feedback.shares import share_interval
from prefloop.records import Prompt

NEGATIVE, POSITIVE = 4, 7
"""Stars at most for a negative review, and at least for a positive one; what lies between says neither."""

_ABOUT, _ARRAYS = "sentiment.json", "sentiment.npz"
_Review = tuple[str, bool]  # text, positive
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_TAG = re.compile(r"</?[a-z]+\s*/?>", re.IGNORECASE)


class GoldJudge(Protocol):
    """Knows how good any completion is."""

    @property
    def name(self) -> str:
        """What the judge is called in reports and in the store."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of everything its verdicts depend on; two judges with one hash agree on everything."""
        ...

    def utility(self, prompt: Prompt, completion: str) -> float:
        """How good the completion is, as a log-odds: a is preferred to b with probability sigmoid(utility(a) - utility(b))."""
        ...


@dataclass(frozen=True, slots=True)
class ToyJudge:
    """The toy world's own judge; see `prefloop.data.toy_world.gold`."""

    @property
    def name(self) -> str:
        """`toy`."""
        return "toy"

    @property
    def sha256(self) -> str:
        """Hash of the world's tables and of the utility's weights."""
        return gold_hash()

    def utility(self, prompt: Prompt, completion: str) -> float:
        """`gold_utility`. Raises `InputError` for a prompt that is not of the toy world."""
        return gold_utility(prompt, completion)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """A share of right answers with its 95 % interval: Wilson's score interval, wider where answers about one film agree."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, right: Sequence[bool], groups: Sequence[str] | None = None) -> "Accuracy":
        """Share of the answers that are right, at least one; `groups` names what each is about, none that each stands alone.

        `share_interval`: Wilson's, wider where answers about one group agree. One group says nothing of others: its interval is [0, 1].
        """
        place = {group: at for at, group in enumerate(dict.fromkeys(groups or ()))}
        members = None if groups is None else np.array([place[group] for group in groups])
        answers = np.asarray(right, np.float64)
        low, high = share_interval(answers, members)
        return cls(value=float(answers.mean()), low=low, high=high, n=len(answers))


@dataclass(frozen=True, kw_only=True, slots=True)
class SentimentSettings:
    """How a sentiment judge is fitted."""

    seed: int = 0
    """Chooses the reviews that are held out, and the windows."""
    heldout: float = 0.2
    """Share of the groups of reviews, by hash, that the judge is not fitted on and is measured on."""
    max_terms: int = 100_000
    """Words and word pairs kept, the most frequent."""
    min_texts: int = 5
    """A word or pair must stand in this many texts."""
    strength: float = 3.0
    """Inverse of the L2 penalty, scikit-learn's C."""
    windows: int = 2
    """Pieces of every review that are fitted beside the whole of it, so that short texts get probabilities that are right as well."""
    shortest: int = 15
    """Words in a window, at least."""
    longest: int = 60
    """Words in a window, at most."""
    measured: int = 40
    """Words in the windows of held-out reviews that the accuracy on short texts is measured on."""

    def __post_init__(self) -> None:
        require(
            0 < self.heldout < 1,
            f"heldout is {self.heldout}; it must be a share of the reviews, above 0 and below 1",
        )
        require(self.max_terms >= 1, f"max_terms is {self.max_terms}; it must be 1 or more")
        require(self.min_texts >= 1, f"min_texts is {self.min_texts}; it must be 1 or more")
        require(self.strength > 0, f"strength is {self.strength}; it must be above 0")
        require(self.windows >= 0, f"windows is {self.windows}; it must be 0 (whole reviews only) or more")
        require(
            1 <= self.shortest <= self.longest,
            f"shortest is {self.shortest} and longest is {self.longest}; they must be 1 or more, in this order",
        )
        require(self.measured >= 1, f"measured is {self.measured}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TermModel:
    """Logistic regression on the tf-idf of words and word pairs, as numbers."""

    terms: tuple[str, ...]
    """Words and word pairs, in the order of the arrays."""
    idf: np.ndarray
    """`[terms]` float64, ln((1 + texts) / (1 + texts with the term)) + 1."""
    coefficients: np.ndarray
    """`[terms]` float64, log-odds of positive for one unit of the normalised tf-idf."""
    intercept: float
    _columns: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_columns", {term: at for at, term in enumerate(self.terms)})

    def log_odds(self, text: str) -> float:
        """Log-odds that `text` is positive. A text without a known word has the intercept alone."""
        counts = Counter(column for term in _terms(text) if (column := self._columns.get(term)) is not None)
        if not counts:
            return self.intercept
        at = np.fromiter(counts.keys(), np.int64, len(counts))
        weights = (1 + np.log(np.fromiter(counts.values(), np.float64, len(counts)))) * self.idf[at]
        return float(weights @ self.coefficients[at] / np.linalg.norm(weights)) + self.intercept


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SentimentJudge:
    """How positive a text sounds, by the star ratings people gave."""

    model: TermModel
    settings: SentimentSettings
    accuracy: Accuracy
    """On whole reviews of groups that it was not fitted on; the interval is by group."""
    accuracy_short: Accuracy
    """On one random window of `settings.measured` words from each of them."""

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        ratings: Sequence[int],
        seed: int = 0,
        *,
        groups: Sequence[str] | None = None,
        settings: SentimentSettings | None = None,
    ) -> "SentimentJudge":
        """Fit on reviews and their stars from 1 to 10; reviews of 5 and 6 stars are left out. `settings` overrides `seed`.

        `groups` names what each review is about. Reviews of one film share its names and how good it is, so a judge that was fitted on
        some of them knows more of the others than of any other film: a group is fitted on or measured on, never both. Without `groups`
        only copies of a text stay together. Train policies on reviews that `held_out` says true of: the judge has not seen those.

        Raises:
            InputError: scikit-learn is missing, the lists differ in length, a rating is not 1 to 10, or a class has too few reviews.
        """
        settings = settings or SentimentSettings(seed=seed)
        groups = texts if groups is None else groups
        fitted, heldout, about = _split_reviews(texts, ratings, groups, settings)
        model = _fit_model(fitted, settings)
        rng = np.random.Generator(np.random.PCG64([settings.seed, 1]))
        windows = [(_window(text, settings.measured, rng), positive) for text, positive in heldout]
        return cls(
            model=model,
            settings=settings,
            accuracy=_accuracy(model, heldout, about),
            accuracy_short=_accuracy(model, windows, about),
        )

    @property
    def name(self) -> str:
        """`sentiment`."""
        return "sentiment"

    @property
    def sha256(self) -> str:
        """Hash of the settings, the terms and the fitted numbers."""
        digest = hashlib.sha256(json.dumps([asdict(self.settings), self.model.terms]).encode())
        for array in (self.model.idf, self.model.coefficients, np.float64(self.model.intercept)):
            digest.update(np.asarray(array, "<f8").tobytes())
        return digest.hexdigest()

    def utility(self, prompt: Prompt, completion: str) -> float:
        """Log-odds that the completion alone is positive.

        The prompt is not read: it is the same for all completions of it, so it would only add an offset that no policy can change,
        and a policy would be paid or fined for the openings it happened to be given.
        """
        return self.model.log_odds(completion)

    def positive_probability(self, texts: Sequence[str]) -> np.ndarray:
        """`[texts]` probability that each is positive, in float64."""
        log_odds = np.array([self.model.log_odds(text) for text in texts], np.float64)
        return 0.5 * (1 + np.tanh(log_odds / 2))  # the sigmoid, without overflow

    def save(self, folder: str | Path) -> None:
        """Write `sentiment.json` (settings, accuracies, terms) and `sentiment.npz` (numbers) into a folder; no pickle."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            folder / _ARRAYS,
            idf=self.model.idf,
            coefficients=self.model.coefficients,
            intercept=np.float64(self.model.intercept),
        )
        about = {
            "sha256": self.sha256,
            "settings": asdict(self.settings),
            "accuracy": asdict(self.accuracy),
            "accuracy_short": asdict(self.accuracy_short),
            "terms": self.model.terms,
        }
        (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "SentimentJudge":
        """Read what `save` wrote; scikit-learn is not needed.

        Raises:
            InputError: a file is missing or damaged, or the numbers are not those that were saved.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            with (folder / _ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                model = TermModel(
                    terms=tuple(about["terms"]),
                    idf=arrays["idf"],
                    coefficients=arrays["coefficients"],
                    intercept=float(arrays["intercept"]),
                )
            judge = cls(
                model=model,
                settings=SentimentSettings(**about["settings"]),
                accuracy=Accuracy(**about["accuracy"]),
                accuracy_short=Accuracy(**about["accuracy_short"]),
            )
        except FileNotFoundError as error:
            advice = (
                "it is a model: name a reward model with --reward_model"
                if (folder / "config.json").is_file()
                else "fit one and save it"
            )
            raise InputError(f"{error.filename}: no sentiment judge was saved here; {advice}") from error
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{folder}: the saved sentiment judge cannot be read ({error}); fit it again"
            ) from error
        if judge.sha256 != about["sha256"]:
            raise InputError(f"{folder}: {_ABOUT} and {_ARRAYS} do not belong to one judge; fit it again")
        return judge


def plain_review(text: str) -> str:
    """A review without markup: `<br />` and other bare tags become spaces, `&amp;` and its like the characters they stand for."""
    return html.unescape(_TAG.sub(" ", text))


def _terms(text: str) -> list[str]:
    """Lower-case words, then neighbouring pairs."""
    words = _WORD.findall(plain_review(text).lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _window(text: str, words: int, rng: np.random.Generator) -> str:
    """So many words in a row from a random place, or the whole of a shorter text."""
    pieces = plain_review(text).split()
    start = int(rng.integers(0, max(0, len(pieces) - words) + 1))
    return " ".join(pieces[start : start + words])


def held_out(texts: Sequence[str], groups: Sequence[str], settings: SentimentSettings) -> list[bool]:
    """Whether each review is one that a judge with these settings is measured on, by a hash of its group.

    A copy of a text goes where the first of them goes, whatever its group.
    """
    first: dict[str, bool] = {}
    parts: dict[str, bool] = {}
    for text, group in zip(texts, groups, strict=True):
        if group not in parts:
            digest = hashlib.sha256(f"{settings.seed}\n{group}".encode()).digest()
            parts[group] = int.from_bytes(digest[:8], "big") < settings.heldout * 2**64
        first.setdefault(text, parts[group])
    return [first[text] for text in texts]


def _split_reviews(
    texts: Sequence[str], ratings: Sequence[int], groups: Sequence[str], settings: SentimentSettings
) -> tuple[list[_Review], list[_Review], list[str]]:
    """Reviews to fit on, reviews to measure on, and the groups of the latter."""
    for what, others in (("ratings", ratings), ("groups", groups)):
        require(
            len(texts) == len(others),
            f"there are {len(texts)} texts and {len(others)} {what}; give one for each",
        )
    fitted: list[_Review] = []
    heldout: list[_Review] = []
    about: list[str] = []
    parts = held_out(texts, groups, settings)
    for text, rating, group, is_held_out in zip(texts, ratings, groups, parts, strict=True):
        require(1 <= rating <= 10, f"rating is {rating}; stars go from 1 to 10")
        if NEGATIVE < rating < POSITIVE:
            continue
        if is_held_out:
            heldout.append((text, rating >= POSITIVE))
            about.append(group)
        else:
            fitted.append((text, rating >= POSITIVE))
    for what, part in (("to fit on", fitted), ("to measure on", heldout)):
        positive = sum(positive for _, positive in part)
        require(
            0 < positive < len(part),
            f"of {len(texts)} reviews {len(part)} are left {what}, {positive} of them positive; both positive and negative ones are needed",
        )
    return fitted, heldout, about


def _fit_model(reviews: list[_Review], settings: SentimentSettings) -> TermModel:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise InputError(
            "the sentiment judge is fitted with scikit-learn, which is not installed: pip install prefloop[imdb]"
        ) from error
    rng = np.random.Generator(np.random.PCG64([settings.seed, 0]))
    texts = [text for text, _ in reviews]
    for _ in range(settings.windows):
        lengths = rng.integers(settings.shortest, settings.longest + 1, len(reviews))
        texts += [_window(text, int(words), rng) for (text, _), words in zip(reviews, lengths, strict=True)]
    vectorizer = TfidfVectorizer(
        analyzer=_terms,  # pyright: ignore[reportArgumentType]  # scikit-learn takes a function, its stubs do not
        sublinear_tf=True,
        min_df=settings.min_texts,
        max_features=settings.max_terms,
    )
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError as error:  # scikit-learn's word for it is an empty vocabulary
        raise InputError(
            f"no word occurs in {settings.min_texts} of the {len(reviews)} reviews (min_texts); lower it or give more reviews"
        ) from error
    labels = [positive for _, positive in reviews] * (1 + settings.windows)
    fitted = LogisticRegression(C=settings.strength, max_iter=1000).fit(features, labels)
    return TermModel(
        terms=tuple(str(term) for term in vectorizer.get_feature_names_out()),
        idf=np.asarray(vectorizer.idf_, np.float64),
        coefficients=np.asarray(fitted.coef_[0], np.float64),
        intercept=float(fitted.intercept_[0]),
    )


def _accuracy(model: TermModel, reviews: list[_Review], groups: list[str]) -> Accuracy:
    return Accuracy.of([(model.log_odds(text) > 0) == positive for text, positive in reviews], groups)
