"""The gold judge of the toy world: how good any text is as a reply to one of its questions.

    utility = 3 helpful + 1.25 on_topic + 1.25 polite + 1 readable + 1 ended - 5 padding

A Bradley-Terry annotator prefers a to b with probability sigmoid(utility(a) - utility(b)). The judge reads words, not meaning:
it looks sentences and steps up in the tables of `words`. A text in other words, however good, counts as unreadable, which is
what keeps a policy that leaves the world's language from being paid for it.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cache
from itertools import combinations, pairwise, product

from prefloop.data.toy_world import words
from prefloop.data.toy_world.words import KINDS, Kind, Subject
from prefloop.errors import InputError
from prefloop.records import Prompt

FULL_STEPS = 3
"""Right steps for full marks."""
FAIR_WORDS = 36
"""A reply may be this long; every word after that is padding."""
FULL_WORDS = 6
"""A shorter text than this is not yet a reply, and is only that readable."""
HALF_PADDING = 20
"""Wasted words at which `padding` is a half."""
ECHO = 4
"""A run of this many words that was there before is repetition."""

_PUNCTUATION = ".,!?;:\"'()"
_START, _END = "<start>", "<end>"
_Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldComponents:
    """What the utility is made of. `WEIGHTS` holds the same fields."""

    helpful: float
    """In [0, 1]: the asked subject's own steps, in their order, three for full marks; each step of another subject takes one away."""
    on_topic: float
    """-1, 0 or 1: one for naming the asked subject, less one for naming any other."""
    polite: float
    """In [-1, 1]: half for a kind opening, half for a kind closing, once each; less a half for every rude sentence."""
    readable: float
    """In [-1, 1]: twice the share of neighbouring words, sentence bounds included, that this world's replies have, less 1; the share is scaled
    down below `FULL_WORDS`. So scraps and no text at all lose against any reply that reads."""
    ended: float
    """In [0, 1]: that share if the last sentence ends, in a full stop or an exclamation mark: ending well needs something to end."""
    padding: float
    """In [0, 1): wasted words w (filler, repetition, courtesies after the first, length past `FAIR_WORDS`) as w / (w + `HALF_PADDING`)."""

    @property
    def utility(self) -> float:
        """The weighted sum, in units of a Bradley-Terry log-odds."""
        return sum(weight * value for weight, value in zip(astuple(WEIGHTS), astuple(self), strict=True))


WEIGHTS = GoldComponents(helpful=3.0, on_topic=1.25, polite=1.25, readable=1.0, ended=1.0, padding=-5.0)
BEST_UTILITY = sum(weight for weight in astuple(WEIGHTS) if weight > 0)
"""What the best reply has, to every prompt."""


def gold_utility(prompt: Prompt, completion: str) -> float:
    """How good any text is as a reply to a question of the toy world.

    Raises:
        InputError: the prompt asks about nothing in the toy world.
    """
    return gold_components(prompt, completion).utility


def gold_components(prompt: Prompt, completion: str) -> GoldComponents:
    """The parts of `gold_utility`, each by itself.

    Raises:
        InputError: the prompt asks about nothing in the toy world.
    """
    lexicon = _lexicon()
    _, subject = asked(prompt)
    sentences, closed = _sentences(completion)
    steps = [found for sentence in sentences for found in _find(sentence, lexicon.steps)]
    names = {found for sentence in sentences for found in _find(sentence, lexicon.names)}
    own = [subject.steps.index(step) for step in steps if step in subject.steps]
    wrong = {step for step in steps if step not in subject.steps}
    courtesies = [lexicon.courtesies[sentence] for sentence in sentences if sentence in lexicon.courtesies]
    polite = (
        0.5 * ("kind opening" in courtesies)
        + 0.5 * ("kind closing" in courtesies)
        - 0.5 * courtesies.count("rude")
    )
    wasted = _wasted_words(sentences)
    readable = _readable(sentences, closed)
    ends = bool(sentences) and closed and not completion.rstrip().rstrip("\"')").endswith("?")
    return GoldComponents(
        helpful=max(0, min(FULL_STEPS, _longest_rise(own)) - len(wrong)) / FULL_STEPS,
        on_topic=float((subject.name in names) - bool(names - {subject.name})),
        polite=max(-1.0, polite),
        readable=2 * readable - 1,
        ended=readable if ends else 0.0,
        padding=wasted / (wasted + HALF_PADDING),
    )


def asked(prompt: Prompt) -> tuple[Kind, Subject]:
    """What a prompt asks about: the first subject that its last user message (or its plain text) names.

    Raises:
        InputError: it names none.
    """
    if isinstance(prompt.content, str):
        text = prompt.content
    else:
        text = next((m.content for m in reversed(prompt.content) if m.role == "user"), "")
    named = _lexicon().subjects
    for sentence in _sentences(text)[0]:
        for name in _find(sentence, _lexicon().names):
            return named[name]
    raise InputError(
        f"prompt {text[:80]!r} asks about nothing in the toy world; its gold judge only knows questions from ToyWorld.prompts"
    )


def gold_hash() -> str:
    """Hash of everything the utility depends on: the tables, the weights and the limits."""
    settings = {
        "weights": asdict(WEIGHTS),
        "limits": [FULL_STEPS, FAIR_WORDS, FULL_WORDS, HALF_PADDING, ECHO],
        "kinds": [asdict(kind) for kind in KINDS],
        "sentences": [words.KIND_OPENINGS, words.KIND_CLOSINGS, words.RUDE_OPENINGS, words.RUDE_CLOSINGS],
        "empty": [words.FILLER, words.VAGUE],
        "joints": [words.FIRST_STEP, words.ONLY_STEP, words.MIDDLE_JOINTS, words.LAST_JOINTS],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """The tables, ready to be looked up word by word."""

    subjects: dict[str, tuple[Kind, Subject]]
    names: dict[str, list[tuple[_Words, str]]]
    """First word -> the names that begin with it."""
    steps: dict[str, list[tuple[_Words, str]]]
    courtesies: dict[_Words, str]
    filler: frozenset[_Words]
    pairs: frozenset[tuple[str, str]]
    """Neighbouring words in the replies this world can write."""


@cache
def _lexicon() -> _Lexicon:
    subjects = {subject.name: (kind, subject) for kind in KINDS for subject in kind.subjects}
    courtesies = {_split(s): "kind opening" for s in words.KIND_OPENINGS}
    courtesies |= {_split(s): "kind closing" for s in words.KIND_CLOSINGS}
    courtesies |= {_split(s): "rude" for s in words.RUDE_OPENINGS + words.RUDE_CLOSINGS}
    return _Lexicon(
        subjects=subjects,
        names=_by_first_word(subjects),
        steps=_by_first_word(step for _, subject in subjects.values() for step in subject.steps),
        courtesies=courtesies,
        filler=frozenset(_split(s) for s in words.FILLER),
        pairs=frozenset(pair for s in _reply_sentences() for pair in pairwise((_START, *_split(s), _END))),
    )


def _reply_sentences() -> list[str]:
    """Every sentence that a reply can have, as the generator joins them."""
    sentences = [
        *words.KIND_OPENINGS,
        *words.RUDE_OPENINGS,
        *words.KIND_CLOSINGS,
        *words.RUDE_CLOSINGS,
        *words.FILLER,
        *words.VAGUE,
    ]
    for kind in KINDS:
        for subject in kind.subjects:
            leads = [lead.format(s=subject.phrase) for lead in kind.leads]
            starts = ("",) if kind.told else ("", words.FIRST_STEP, words.ONLY_STEP, *leads)
            joints = () if kind.told else words.MIDDLE_JOINTS + words.LAST_JOINTS
            sentences += leads
            sentences += [f"{lead} {sentence}" for lead, sentence in product(leads, words.VAGUE)]
            sentences += [f"{start} {step}" for start, step in product(starts, subject.steps)]
            sentences += [
                f"{first}{joint}{second}"
                for first, second in combinations(subject.steps, 2)
                for joint in joints
            ]
    return sentences


def _by_first_word(phrases: Iterable[str]) -> dict[str, list[tuple[_Words, str]]]:
    table: dict[str, list[tuple[_Words, str]]] = {}
    for phrase in phrases:
        split = _split(phrase)
        table.setdefault(split[0], []).append((split, phrase))
    return table


def _split(text: str) -> _Words:
    return tuple(piece.strip(_PUNCTUATION) or piece for piece in text.lower().split())


def _sentences(text: str) -> tuple[list[_Words], bool]:
    """The sentences as lower-case words without punctuation, and whether the last one is closed.

    A piece that is nothing but punctuation stays as a word of its own, which no reply has."""
    sentences: list[_Words] = []
    sentence: list[str] = []
    for piece in text.lower().split():
        sentence.append(piece.strip(_PUNCTUATION) or piece)
        if piece.rstrip("\"')").endswith((".", "!", "?")):
            sentences.append(tuple(sentence))
            sentence = []
    if sentence:
        sentences.append(tuple(sentence))
    return sentences, not sentence


def _find(sentence: _Words, table: dict[str, list[tuple[_Words, str]]]) -> list[str]:
    """The phrases of a table that stand in a sentence word for word, in order."""
    return [
        phrase
        for at, word in enumerate(sentence)
        for split, phrase in table.get(word, ())
        if sentence[at : at + len(split)] == split
    ]


def _longest_rise(numbers: Sequence[int]) -> int:
    """Length of the longest strictly increasing subsequence: steps out of order or told twice add nothing."""
    ends: list[int] = []
    for at, number in enumerate(numbers):
        ends.append(1 + max((ends[i] for i in range(at) if numbers[i] < number), default=0))
    return max(ends, default=0)


def _wasted_words(sentences: list[_Words]) -> int:
    """Words that a reader would rather not have read; each is counted once."""
    lexicon = _lexicon()
    seen_sentences: set[_Words] = set()
    seen_courtesies: set[str] = set()
    useless: list[bool] = []
    for sentence in sentences:
        courtesy = lexicon.courtesies.get(sentence, "")
        repeated = sentence in seen_sentences or (courtesy.startswith("kind") and courtesy in seen_courtesies)
        useless.extend([repeated or sentence in lexicon.filler] * len(sentence))
        seen_sentences.add(sentence)
        seen_courtesies.add(courtesy)
    text = [word for sentence in sentences for word in sentence]
    seen_runs: set[_Words] = set()
    for at in range(len(text) - ECHO + 1):
        run = tuple(text[at : at + ECHO])
        if run in seen_runs:
            useless[at : at + ECHO] = [True] * ECHO
        seen_runs.add(run)
    useful_past_limit = max(0, useless.count(False) - FAIR_WORDS)
    return useless.count(True) + useful_past_limit


def _readable(sentences: list[_Words], closed: bool) -> float:
    known = total = length = 0
    for at, sentence in enumerate(sentences):
        bounds = (_END,) if closed or at < len(sentences) - 1 else ()
        for pair in pairwise((_START, *sentence, *bounds)):
            known += pair in _lexicon().pairs
            total += 1
        length += len(sentence)
    return known / total * min(1.0, length / FULL_WORDS) if total else 0.0
